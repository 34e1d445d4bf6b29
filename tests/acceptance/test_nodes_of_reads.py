"""Which node a request goes to where some are behind or dead, as its client sees it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from falconas.client.sync import Client
from falconas.database.cluster import EmbeddedCluster
from falconas.errors import Started, Unavailable
from tests.acceptance.several import SeveralNodes, write_scripts
from tests.acceptance.stack import wait_for
from tests.integration.database.lending_cases import replay_paused

WORKERS = 6
STANDBYS = ("n2", "n3")
SCRIPTS = {
    "put": """
def run(ctx, text: str):
    ctx.db.execute("INSERT INTO notes VALUES (%s)", [text])
""",
    "get": """
from falconas import script

@script(access="read")
def run(ctx, text: str):
    found = ctx.db.execute("SELECT 1 FROM notes WHERE text = %s", [text]).fetchone()
    return {"node": ctx.node, "found": bool(found)}
""",
    "fresh": """
from falconas import script

@script(access="read", max_lag=1.0)
def run(ctx):
    ctx.db.execute("SELECT 1")
    return ctx.node
""",
    "linger": """
from falconas import script

@script(access="read")
def run(ctx):
    query = "SELECT count(*), pg_is_in_recovery() FROM notes"
    count, is_standby = ctx.db.execute(query).fetchone()
    if is_standby:
        ctx.db.execute("SELECT pg_sleep(60)")
    return ctx.node
""",
}
SLEEPING = """
SELECT pid FROM pg_stat_activity
WHERE datname = %s AND state = 'active' AND query LIKE '%%pg_sleep%%'
"""


@pytest.fixture
def stack(
    cluster: EmbeddedCluster, cluster_database: str, tmp_path: Path
) -> Iterator[SeveralNodes]:
    with psycopg.connect(cluster.primary.dsn(cluster_database)) as connection:
        connection.execute("CREATE TABLE notes (text text)")
    cluster.wait_until_caught_up()
    nodes = {node.name: {"dsn": node.dsn(cluster_database)} for node in cluster.nodes}
    scripts = write_scripts(tmp_path / "scripts", SCRIPTS)
    with SeveralNodes(tmp_path, scripts, nodes) as stack:
        stack.start_broker()
        stack.start_workers(WORKERS)
        stack.await_workers(WORKERS)
        stack.await_role("n1", "primary")
        yield stack


def get(client: Client, text: str) -> list[dict[str, Any]]:
    """Read once on each worker, or as often where fewer suit."""
    return [client.call("get", {"text": text}) for _ in range(2 * WORKERS)]


def test_a_session_sees_what_it_wrote_and_max_lag_keeps_to_the_fresh(
    stack: SeveralNodes, cluster: EmbeddedCluster
) -> None:
    with (
        replay_paused(cluster, *STANDBYS),
        stack.client() as other,
        stack.client(session=True) as client,
    ):
        client.call("put", {"text": "mine"})
        mine, others = get(client, "mine"), get(other, "mine")
        wait_for(
            lambda: min(stack.nodes()[name]["lag"] or 0 for name in STANDBYS) > 1,
            "both to be late",
        )
        fresh = {client.call("fresh") for _ in range(2 * WORKERS)}

    assert {(answer["node"], answer["found"]) for answer in mine} == {("n1", True)}
    assert {answer["found"] for answer in others if answer["node"] != "n1"} == {False}
    assert {answer["node"] for answer in others} == {"n1", *STANDBYS}
    assert fresh == {"n1"}


def test_what_recovery_cancels_on_a_standby_the_primary_answers(
    stack: SeveralNodes, cluster: EmbeddedCluster, cluster_database: str
) -> None:
    cluster.configure({"max_standby_streaming_delay": "0"})
    there = {name: stack.placed()[name] for name in STANDBYS}
    with stack.client() as client:
        client.call("put", {"text": "to be removed"})
        calls = [client.submit("linger") for _ in range(WORKERS)]
        for name, count in there.items():
            wait_for(
                lambda name=name, count=count: (  # type: ignore[misc]
                    len(cluster[name].execute(SLEEPING, [cluster_database])) == count
                ),
                f"readers on {name}",
            )
        dsn = cluster["n1"].dsn(cluster_database)
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("DELETE FROM notes")
            connection.execute("VACUUM notes")
        nodes = [call.result() for call in calls]

    assert nodes == ["n1"] * WORKERS
    attempts = sorted(call.info["attempt"] for call in calls)
    assert attempts.count(2) == sum(there.values()) > 0


def test_without_a_primary_writes_are_refused_with_the_reason_and_reads_go_on(
    stack: SeveralNodes, cluster: EmbeddedCluster
) -> None:
    with stack.client() as client:
        client.call("put", {"text": "before"})
        cluster.wait_until_caught_up()
        cluster["n1"].kill()
        stack.await_placed(n1=0, n2=WORKERS // 2, n3=WORKERS // 2)

        with pytest.raises(Unavailable) as caught:
            client.call("put", {"text": "after"})
        answers = get(client, "before")

    error = caught.value
    assert (error.started, error.retry_safe) == (Started.NO, True)
    assert all(
        fact in error.message for fact in ("n1: down", "n2: ", "n3: ", "standby")
    )
    assert {(a["node"], a["found"]) for a in answers} == {("n2", True), ("n3", True)}

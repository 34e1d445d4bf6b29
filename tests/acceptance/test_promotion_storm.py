"""Standbys are promoted under write load: what was acknowledged stays, once."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import psycopg
import pytest

from falconas.database.cluster import EmbeddedCluster
from falconas.database.member import Member, until
from falconas.errors import Started
from tests.acceptance.figures import show
from tests.acceptance.several import Callers, Sample, SeveralNodes, write_scripts

WORKERS = 6
CALLERS = 4
SCRIPTS = {
    "insert": """
def run(ctx, mark: str):
    ctx.db.execute("INSERT INTO traces VALUES (%s)", [mark])
    ctx.db.execute("INSERT INTO traces VALUES (%s)", [mark + " again"])
""",
}


@pytest.fixture
def database(cluster: EmbeddedCluster, cluster_database: str) -> str:
    """A database whose commits are on two nodes before anybody hears of them."""
    with psycopg.connect(cluster.primary.dsn(cluster_database)) as connection:
        connection.execute("CREATE TABLE traces (mark text)")
    cluster.wait_until_caught_up()
    cluster.configure({"synchronous_standby_names": "ANY 1 (*)"})
    return cluster_database


@pytest.fixture
def stack(
    cluster: EmbeddedCluster, database: str, tmp_path: Path
) -> Iterator[SeveralNodes]:
    nodes = {node.name: {"dsn": node.dsn(database)} for node in cluster.nodes}
    scripts = write_scripts(tmp_path / "scripts", SCRIPTS)
    with SeveralNodes(tmp_path, scripts, nodes) as stack:
        stack.start_broker()
        stack.start_workers(WORKERS)
        stack.await_workers(WORKERS)
        yield stack


@pytest.mark.parametrize(
    "count",
    [
        pytest.param(2, id="quick"),
        pytest.param(20, id="full", marks=pytest.mark.campaign),
    ],
)
def test_nothing_acknowledged_is_lost_or_doubled_when_a_standby_is_promoted(
    cluster: EmbeddedCluster, database: str, stack: SeveralNodes, count: int
) -> None:
    marks = itertools.count()
    without, after = [], []

    def request() -> tuple[dict[str, Any], float]:
        return {"mark": f"mark {next(marks)}"}, 10.0

    with Callers(stack.endpoints["frontend"], "insert", CALLERS, request) as callers:
        for _ in range(count):
            _rejoin(cluster, stack)
            callers.await_calls(100)
            cluster.primary.kill()
            killed = monotonic()
            _await_rest(cluster)
            cluster.promote(cluster.most_advanced())
            promoted = monotonic()
            callers.await_calls(100)
            first = min(
                s.ended for s in callers.samples if s.began > killed and not s.error
            )
            without.append(first - killed)
            after.append(first - promoted)
    assert [process.poll() for process in stack.processes] == [None, None]
    said = _compare(callers.samples, _written(cluster, database))
    show(
        f"{count} promotions under load, {dict(said)}",
        without_writes=without,
        promoted=after,
    )


def _await_rest(cluster: EmbeddedCluster) -> None:
    """Wait until the standbys have all that their primary had sent when it died.

    One that received more than the next primary could not follow that.
    """
    for node in cluster.standbys:
        until(partial(_is_alone, node), f"{node.name} does not notice")


def _is_alone(node: Member) -> bool:
    return not node.execute("SELECT 1 FROM pg_stat_wal_receiver")


def _rejoin(cluster: EmbeddedCluster, stack: SeveralNodes) -> None:
    """Make a standby of who was killed last, and wait until that is known."""
    for node in cluster.nodes:
        if not node.running:
            cluster.rejoin(node)
            cluster.wait_until_caught_up()
            stack.await_role(node.name, "standby")


def _written(cluster: EmbeddedCluster, database: str) -> Counter[str]:
    with psycopg.connect(cluster.primary.dsn(database)) as connection:
        return Counter(mark for (mark,) in connection.execute("SELECT * FROM traces"))


def _compare(samples: list[Sample], written: Counter[str]) -> Counter[str]:
    """Compare what was said with what the last primary has; return the figures."""
    said = Counter[str]()
    for sample in samples:
        mark, error = sample.params["mark"], sample.error
        halves = {written[mark], written[f"{mark} again"]}
        assert len(halves) == 1, f"{mark} was committed in part"
        assert halves <= {0, 1}, f"{mark} was committed twice"
        (there,) = halves
        if error is None:
            assert there, f"{mark} was acknowledged and is lost"
            said["acknowledged"] += 1
        elif error.started is Started.UNKNOWN:
            said["unknown, there" if there else "unknown, not there"] += 1
        else:
            assert not there, f"{mark} is there: {error!r}"
            said[f"{error.code.name}, started {error.started.value}"] += 1
    return said

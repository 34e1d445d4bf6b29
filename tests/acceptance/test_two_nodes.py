"""The picture: two scripts, two processes each, four connections to two nodes."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from falconas.database.cluster import EmbeddedCluster
from tests.acceptance.stack import COMMAND, PATIENCE, Stack, wait_for

EXAMPLE = Path(__file__).parents[2] / "deploy" / "examples" / "two-nodes"
WORKERS = """
SELECT pid FROM pg_stat_activity
WHERE datname = %s AND application_name ~ '^falconas/.+/[0-9]+$'
"""


@pytest.fixture
def stack(
    cluster: EmbeddedCluster, cluster_database: str, tmp_path: Path
) -> Iterator[Stack]:
    """The example with the cluster's first two nodes."""
    with psycopg.connect(cluster.primary.dsn(cluster_database)) as connection:
        connection.execute((EXAMPLE / "schema.sql").read_bytes())
    cluster.wait_until_caught_up()
    shutil.copytree(EXAMPLE / "workers", tmp_path / "workers")
    text = (EXAMPLE / "falconas.toml").read_text()
    for name, host in ("n1", "host=db1"), ("n2", "host=db2"):
        assert f'"{host}"' in text
        text = text.replace(
            f'"{host}"', json.dumps(cluster[name].dsn(cluster_database))
        )
    config = tmp_path / "falconas.toml"
    config.write_text(text)
    config.chmod(0o600)
    with Stack(
        tmp_path, "", tmp_path / "workers", FALCONAS_CONFIG=str(config)
    ) as stack:
        stack.start_broker()
        stack.start("worker")
        stack.await_workers(4)
        yield stack


def test_each_script_runs_on_the_connections_of_its_node(
    stack: Stack, cluster: EmbeddedCluster, cluster_database: str
) -> None:
    def backends(name: str) -> set[int]:
        found = cluster[name].execute(WORKERS, [cluster_database])
        return {pid for (pid,) in found}

    connections = {name: backends(name) for name in ("n1", "n2", "n3")}
    with stack.client() as client:
        answers: dict[str, list[Any]] = {
            script: [client.call(script) for _ in range(8)]
            for script in ("script1", "script2")
        }

    assert [len(connections[name]) for name in ("n1", "n2", "n3")] == [2, 2, 0]
    placed = sorted((w["group"], w["node"]) for w in stack.workers())
    assert placed == [("first", "n1")] * 2 + [("second", "n2")] * 2
    for script, name in ("script1", "n1"), ("script2", "n2"):
        assert {answer["node"] for answer in answers[script]} == {name}
        used = {answer["backend"] for answer in answers[script]}
        assert used == connections[name], "all of the group's connections, and no other"
    wait_for(lambda: [node["up"] for node in _nodes(stack)] == [True, True], "both up")
    assert [(n["name"], n["role"], n["workers"]) for n in _nodes(stack)] == [
        ("n1", "primary", 2),
        ("n2", "standby", 2),
    ]


def _nodes(stack: Stack) -> list[dict[str, Any]]:
    """Return what the operator is shown."""
    done = subprocess.run(
        [COMMAND, "nodes", "--json"],
        env=stack.environ,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    nodes: list[dict[str, Any]] = json.loads(done.stdout)
    return nodes

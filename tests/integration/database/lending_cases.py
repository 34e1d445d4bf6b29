"""What the tests of both pools need."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from falconas.database.cluster import EmbeddedCluster
from falconas.database.member import until
from falconas.database.nodes import Node
from tests.integration.database.patroni import Patroni, member


class HasStatistics(Protocol):
    def statistics(self) -> dict[str, Any]: ...


def nodes_of(cluster: EmbeddedCluster, database: str, **dsns: str) -> list[Node]:
    """Return the cluster's nodes; some by another DSN."""
    return [
        Node(node.name, dsns.get(node.name, node.dsn(database)))
        for node in cluster.nodes
    ]


def fact(pool: HasStatistics, name: str, key: str) -> Any:
    return pool.statistics()["nodes"][name][key]


def up_or_down(pool: HasStatistics) -> dict[str, bool]:
    return {name: node["up"] for name, node in pool.statistics()["nodes"].items()}


def wait_up(pool: HasStatistics, *names: str, up: bool = True) -> None:
    """Wait until the pool knows nodes to be up, or down."""
    for name in names:
        until(
            lambda name=name: up_or_down(pool).get(name) is up,  # type: ignore[misc]
            f"{name} is {'not ' if up else ''}up",
        )


def make_table(cluster: EmbeddedCluster, database: str) -> None:
    """Make an empty table t on all nodes."""
    with psycopg.connect(cluster.primary.dsn(database)) as connection:
        connection.execute("CREATE TABLE t (n int)")
    cluster.wait_until_caught_up()


def rows(cluster: EmbeddedCluster, database: str) -> list[int]:
    """Return what is committed on the primary."""
    with psycopg.connect(cluster.primary.dsn(database)) as connection:
        return [n for (n,) in connection.execute("SELECT n FROM t ORDER BY n")]


@contextmanager
def replay_paused(cluster: EmbeddedCluster, *names: str) -> Iterator[None]:
    """Let standbys receive and not replay."""
    for name in names:
        cluster[name].execute("SELECT pg_wal_replay_pause()")
    try:
        yield
    finally:
        for name in names:
            cluster[name].execute("SELECT pg_wal_replay_resume()")


def terminate(cluster: EmbeddedCluster, name: str, pid: int) -> None:
    """End a backend, and wait until it is gone."""
    cluster[name].execute("SELECT pg_terminate_backend(%s, 5000)", [pid])


def members(cluster: EmbeddedCluster, *names: str) -> list[dict[str, Any]]:
    """Return how Patroni would list those nodes."""
    return [member(name, cluster[name].dsn()) for name in names]


def behind(patroni: Patroni, cluster: EmbeddedCluster, database: str) -> Node:
    """Return the node that stands for those which Patroni lists."""
    given = {
        key: value
        for key, value in conninfo_to_dict(cluster["n1"].dsn(database)).items()
        if key not in {"host", "port"}
    }
    return Node("pg", make_conninfo("", **given), patroni=(patroni.url,))


def backends(cluster: EmbeddedCluster, name: str, application: str) -> int:
    """Return how many connections a node has from an application."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s"
    ((count,),) = cluster[name].execute(query, [application])
    return int(count)

"""A primary and two streaming standbys for the tests of what spans several nodes.

`cluster` is the session's only one, made when the first test asks for it (1 to 2 s).
Each test that asks for it gets n1 as the primary with n2 and n3 as its standbys, all
running, streaming and with the settings of the start, whatever the test before did:

    cluster["n1"].kill()             every process, as a loss of power would
    cluster["n2"].pause()            stands still; accepts connections, answers nothing
    cluster["n2"].resume()
    cluster["n3"].stop("immediate")  and start()
    cluster.promote(cluster["n2"])   the others follow; the old primary is left alone
    cluster.switch_over(cluster["n2"])
    cluster.rejoin(cluster["n1"])    as a standby, with a fresh copy of the data
    cluster.configure({"synchronous_standby_names": "ANY 1 (*)"})
    cluster.wait_until_caught_up()
    cluster["n2"].execute("SELECT pg_wal_replay_pause()")   lags until it is resumed

That costs 0.05 s after a test that left all as it was, and about 1 s after one that
promoted. `cluster_database` is the name of a fresh database that all nodes have;
`cluster["n2"].dsn(cluster_database)` is a conninfo for it, by TCP, which stays the same
through stops, kills and copies. A standby has it read-only, as the primary made it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from falconas.database.cluster import EmbeddedCluster
from falconas.database.programs import EmbeddedError

numbers = count(1)


@pytest.fixture(scope="session")
def shared_cluster(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[EmbeddedCluster]:
    """The session's cluster, in whatever state; use `cluster`."""
    made = EmbeddedCluster(tmp_path_factory.mktemp("cluster"), durable=False)
    made.start()
    yield made
    made.delete()


@pytest.fixture
def cluster(shared_cluster: EmbeddedCluster) -> EmbeddedCluster:
    """The session's cluster, as at its start."""
    shared_cluster.restore()
    return shared_cluster


@pytest.fixture
def cluster_database(cluster: EmbeddedCluster) -> Iterator[str]:
    """Name of a fresh, empty database, which all nodes have."""
    name = f"test_{next(numbers)}"
    cluster.create_database(name)
    yield name
    if cluster.primary.running:
        # On a cluster that the test broke it stays, until that is deleted.
        with suppress(EmbeddedError, psycopg.Error):
            cluster.drop_database(name)


class Few:
    """A role that may have only so many connections to a node; see `few`."""

    def __init__(self, cluster: EmbeddedCluster) -> None:
        self._cluster = cluster

    def dsn(self, name: str, database: str = "postgres") -> str:
        """Return a conninfo to connect to a node by."""
        return make_conninfo(
            self._cluster[name].dsn(database), user="few", password="few"
        )

    def limit(self, count: int) -> None:
        """Let it have so many from now on."""
        self._cluster.primary.execute(f"ALTER ROLE few CONNECTION LIMIT {count}")
        self._cluster.wait_until_caught_up()

    def shut_out_probe(self, name: str) -> None:
        """End the probe's connection to a node, where all others stay."""
        (ended,) = self._cluster[name].execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE application_name = 'falconas/probe' AND usename = 'few'"
        )
        assert ended == (True,)


@contextmanager
def few(cluster: EmbeddedCluster) -> Iterator[Few]:
    """Make a role whose connections can be limited."""
    cluster.primary.execute("CREATE ROLE few LOGIN PASSWORD 'few'")
    cluster.wait_until_caught_up()
    try:
        yield Few(cluster)
    finally:
        cluster.primary.execute("DROP ROLE few")

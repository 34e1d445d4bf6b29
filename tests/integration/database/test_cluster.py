"""Several embedded servers replicate, fail over, and return to where they began."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import LiteralString

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from falconas.database import cluster as module
from falconas.database.cluster import EmbeddedCluster
from falconas.database.member import Member
from falconas.database.programs import EmbeddedError

PATIENCE = 30.0

# A process that has the cluster in argv[1], and waits for a line.
OWNER = """
import sys
from pathlib import Path
from falconas.database.cluster import EmbeddedCluster
cluster = EmbeddedCluster(Path(sys.argv[1]), standbys=1, durable=False)
cluster.start()
cluster["n2"].pause()
print(cluster._sharing._guard.pid, flush=True)
sys.stdin.readline()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a cluster of two; each test starts it anew."""
    where = tmp_path_factory.mktemp("two") / "cluster"
    yield where
    EmbeddedCluster(where).delete()


def pair(folder: Path) -> EmbeddedCluster:
    return EmbeddedCluster(folder, standbys=1, durable=False)


def run(
    node: Member, dbname: str, statement: LiteralString
) -> list[tuple[object, ...]]:
    """Run a statement by TCP, as users of a node do."""
    with psycopg.connect(node.dsn(dbname)) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


def numbers(node: Member, dbname: str) -> list[object]:
    return [row[0] for row in run(node, dbname, "SELECT n FROM t ORDER BY n")]


@pytest.fixture
def table(cluster: EmbeddedCluster, cluster_database: str) -> str:
    """A database with a table t, which has the row 1 on all nodes."""
    run(cluster.primary, cluster_database, "CREATE TABLE t AS SELECT 1 AS n")
    cluster.wait_until_caught_up()
    return cluster_database


def test_standbys_show_what_the_primary_writes_and_write_nothing(
    cluster: EmbeddedCluster, table: str
) -> None:
    assert [numbers(node, table) for node in cluster.nodes] == [[1]] * 3
    for node in cluster.standbys:
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            run(node, table, "INSERT INTO t VALUES (2)")


def test_a_lag_is_waited_for(cluster: EmbeddedCluster, table: str) -> None:
    cluster["n2"].execute("SELECT pg_wal_replay_pause()")
    run(cluster.primary, table, "INSERT INTO t VALUES (2)")
    cluster.wait_until_caught_up([cluster["n3"]])
    assert numbers(cluster["n3"], table) == [1, 2]
    assert numbers(cluster["n2"], table) == [1]
    with pytest.raises(EmbeddedError, match="n2 does not catch up with n1"):
        cluster.wait_until_caught_up(timeout=0.05)
    cluster.restore()
    assert numbers(cluster["n2"], table) == [1, 2]


def test_standbys_follow_the_promoted_one_and_the_former_primary_may_rejoin(
    cluster: EmbeddedCluster, table: str
) -> None:
    cluster.promote(cluster["n2"])
    assert cluster.primary is cluster["n2"]
    run(cluster["n2"], table, "INSERT INTO t VALUES (2)")
    run(cluster["n1"], table, "INSERT INTO t VALUES (3)")
    cluster.wait_until_caught_up([cluster["n3"]])
    assert [numbers(node, table) for node in cluster.nodes] == [[1, 3], [1, 2], [1, 2]]
    before = cluster["n1"].dsn(table)
    cluster.rejoin(cluster["n1"])
    cluster.wait_until_caught_up()
    assert cluster["n1"].standby
    assert cluster["n1"].dsn(table) == before
    assert numbers(cluster["n1"], table) == [1, 2]


def test_restore_mends_all_and_keeps_the_present_primarys_data(
    cluster: EmbeddedCluster, table: str
) -> None:
    cluster["n1"].kill()
    cluster.promote(cluster["n2"])
    run(cluster["n2"], table, "INSERT INTO t VALUES (2)")
    cluster["n2"].pause()
    cluster["n3"].stop("immediate")
    cluster.restore()
    assert cluster.primary is cluster["n1"]
    assert [node.standby for node in cluster.nodes] == [False, True, True]
    assert [numbers(node, table) for node in cluster.nodes] == [[1, 2]] * 3


def test_restore_renews_a_standby_that_was_ahead_of_the_promoted_one(
    cluster: EmbeddedCluster, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CATCH_UP", 0.5)
    cluster["n2"].stop()
    run(cluster["n1"], table, "INSERT INTO t VALUES (3)")
    cluster.wait_until_caught_up([cluster["n3"]])
    cluster["n1"].kill()
    cluster["n2"].start()
    assert cluster.most_advanced() is cluster["n3"]
    cluster.promote(cluster["n2"])
    run(cluster["n2"], table, "INSERT INTO t VALUES (2)")
    cluster.restore()
    assert [numbers(node, table) for node in cluster.nodes] == [[1, 2]] * 3


def test_a_commit_waits_for_a_standby_where_that_is_asked_for(
    cluster: EmbeddedCluster, table: str
) -> None:
    cluster.configure({"synchronous_standby_names": "FIRST 1 (n2)"})
    cluster["n2"].stop()
    writer = threading.Thread(
        target=run, args=(cluster["n1"], table, "INSERT INTO t VALUES (2)")
    )
    writer.start()
    waiting: LiteralString = (
        "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
    )
    give_up = time.monotonic() + PATIENCE
    while not cluster["n1"].execute(waiting):
        assert time.monotonic() < give_up
    # Administration does not wait.
    cluster["n1"].execute("CREATE ROLE somebody")
    cluster["n1"].execute("DROP ROLE somebody")
    assert writer.is_alive()
    cluster["n2"].start()
    writer.join(PATIENCE)
    assert not writer.is_alive()
    cluster.restore()
    shown = cluster["n1"].execute("SHOW synchronous_standby_names")
    assert shown == [("",)]


def test_databases_are_made_and_dropped_on_all_nodes(cluster: EmbeddedCluster) -> None:
    cluster.create_database("short")
    with psycopg.connect(cluster["n3"].dsn("short")):
        cluster.drop_database("short")
        cluster.drop_database("short")
        cluster.wait_until_caught_up()
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        psycopg.connect(cluster["n2"].dsn("short"))


def test_parameters_reach_every_node_and_data_outlives_a_restart(folder: Path) -> None:
    parameters = {"hot_standby_feedback": "on", "max_standby_streaming_delay": "50ms"}
    first = EmbeddedCluster(folder, standbys=1, durable=False, parameters=parameters)
    with first:
        for node in first.nodes:
            assert run(node, "postgres", "SHOW hot_standby_feedback") == [("on",)]
        run(first["n1"], "postgres", "CREATE TABLE t AS SELECT 1 AS n")
        first.switch_over(first["n2"])
        run(first["n2"], "postgres", "INSERT INTO t VALUES (2)")
    assert not any(node.processes() for node in first.nodes)
    with pair(folder) as second:
        assert second.primary is second["n2"]
        assert numbers(second["n1"], "postgres") == [1, 2]
        run(second["n2"], "postgres", "DROP TABLE t")


def test_who_was_promoted_by_hand_is_the_primary_of_the_next_start(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pair(folder) as first:
        before, other = first.primary, first.standbys[0]
        other.promote()
        assert other.timeline > before.timeline
        run(other, "postgres", "CREATE TABLE promoted AS SELECT 2 AS n")
        run(before, "postgres", "CREATE TABLE behind AS SELECT 1 AS n")
        dsns = [node.dsn() for node in first.nodes]
    with pair(folder) as second:
        assert second.primary.name == other.name
        assert second[before.name].standby
        for node in second.nodes:
            assert run(node, "postgres", "SELECT n FROM promoted") == [(2,)]
            assert run(node, "postgres", "SELECT to_regclass('behind')") == [(None,)]
        assert [node.dsn() for node in second.nodes] == dsns
    assert f"{other.name} is the primary, as it was promoted" in caplog.text


def test_a_primary_that_is_not_to_be_started_is_not_passed_over(folder: Path) -> None:
    with pair(folder) as cluster:
        if cluster.primary.name == "n1":
            cluster["n2"].promote()
        data = cluster["n2"].server.data
    with pytest.raises(EmbeddedError, match=r"primary in .* is n2, which is not"):
        EmbeddedCluster(folder, standbys=0, durable=False).start()
    assert data.is_dir()


def test_others_find_the_nodes_of_one_that_runs(folder: Path) -> None:
    assert EmbeddedCluster.running(folder) is None
    assert EmbeddedCluster.running(folder / "none") is None
    with pair(folder) as cluster:
        cluster["n2"].kill()
        found = EmbeddedCluster.running(folder)
        assert found is not None
        assert [node.dsn() for node in found.nodes] == [n.dsn() for n in cluster.nodes]
        found["n2"].start()
        assert found["n2"].server.settings == cluster["n2"].server.settings
        cluster.wait_until_caught_up()


def test_only_one_at_a_time_has_it(folder: Path) -> None:
    with pair(folder) as cluster:
        cluster.start()
        other = pair(folder)
        with pytest.raises(EmbeddedError, match="another process has the cluster"):
            other.start()
        other.stop()
        assert all(node.running for node in cluster.nodes)
    cluster.stop()


def test_when_its_process_is_killed_its_guard_ends_all(folder: Path) -> None:
    with owner_of(folder) as process:
        gone = watch(folder)
        process.kill()
        assert gone()
    with pair(folder) as cluster:
        assert all(node.running for node in cluster.nodes)


def test_when_the_guard_is_killed_too_the_next_start_ends_the_old(folder: Path) -> None:
    with owner_of(folder) as process:
        gone = watch(folder)
        os.kill(process.guard, signal.SIGKILL)
        process.kill()
    with pair(folder) as cluster:
        assert gone()
        assert numbers_of(cluster) == [1, 1]


def test_delete_leaves_nothing(folder: Path) -> None:
    cluster = pair(folder)
    cluster.start()
    home = Path(str(conninfo_to_dict(cluster["n1"].dsn(tcp=False))["host"])).parent
    gone = watch(folder)
    cluster["n1"].pause()
    cluster.delete()
    assert gone()
    assert not home.exists()
    assert not folder.exists()


class owner_of(subprocess.Popen[str]):  # noqa: N801 - reads like a function
    """A process that has the cluster, with n2 paused; running when this returns."""

    def __init__(self, folder: Path) -> None:
        super().__init__(
            [sys.executable, "-c", OWNER, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.stdout
        self.guard = int(self.stdout.readline())


class watch:  # noqa: N801 - reads like a function
    """Wait for the end of every process of a cluster."""

    def __init__(self, folder: Path) -> None:
        nodes = pair(folder).nodes
        pids = [pid for node in nodes for pid in node.processes()]
        assert len(pids) > len(nodes)
        self.handles: list[int] = []
        for pid in pids:
            with suppress(ProcessLookupError):  # some do not live long
                self.handles.append(os.pidfd_open(pid))

    def __call__(self) -> bool:
        try:
            return all(
                select.select([handle], [], [], PATIENCE)[0] for handle in self.handles
            )
        finally:
            for handle in self.handles:
                os.close(handle)


def numbers_of(cluster: EmbeddedCluster) -> list[object]:
    return [run(node, "postgres", "SELECT 1")[0][0] for node in cluster.nodes]

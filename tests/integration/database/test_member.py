"""A node fails in the ways that hosts do, and comes back as what it was."""

from __future__ import annotations

import os
import select
from pathlib import Path

import psycopg
import pytest

from falconas.database.cluster import EmbeddedCluster
from falconas.database.member import Member, until
from falconas.database.programs import EmbeddedError, Programs

PATIENCE = 30.0
MOMENT = 0.1  # in which nothing is to happen


def test_killed_it_is_gone_at_once_and_comes_back_the_same(
    cluster: EmbeddedCluster, cluster_database: str
) -> None:
    node = cluster["n1"]
    dsn = node.dsn(cluster_database)
    with psycopg.connect(dsn) as connection:
        connection.execute("CREATE TABLE t AS SELECT 42 AS n")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SELECT 1")
        processes = node.processes()
        assert connection.info.backend_pid in processes
        node.kill()
        assert not any(alive(pid) for pid in processes)
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    assert not node.running
    with pytest.raises(psycopg.OperationalError, match="refused"):
        psycopg.connect(dsn)
    node.start()
    assert node.dsn(cluster_database) == dsn
    with psycopg.connect(dsn) as connection:
        assert connection.execute("SELECT n FROM t").fetchone() == (42,)


def test_paused_it_answers_nothing_until_it_is_resumed(
    cluster: EmbeddedCluster,
) -> None:
    node = cluster["n2"]
    with psycopg.connect(node.dsn(), autocommit=True) as connection:
        node.pause()
        assert (node.paused, node.running) == (True, False)
        connection.pgconn.send_query(b"SELECT 1")
        assert not select.select([connection.fileno()], [], [], MOMENT)[0]
        with pytest.raises(psycopg.errors.ConnectionTimeout):
            psycopg.connect(node.dsn(), connect_timeout=2)
        node.resume()
        assert select.select([connection.fileno()], [], [], PATIENCE)[0]
        while connection.pgconn.get_result():
            pass
    assert (node.paused, node.running) == (False, True)


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_it_stops_in_the_way_asked_for_also_when_paused(
    cluster: EmbeddedCluster, mode: str
) -> None:
    node = cluster["n3"]
    node.pause()
    node.stop(mode)
    assert node.processes() == []
    node.stop()
    log = node.server.log.read_text()
    assert f"received {mode} shutdown request" in log
    node.start()
    node.start()
    assert node.running


def test_a_standby_stays_one_until_it_is_promoted(cluster: EmbeddedCluster) -> None:
    node = cluster["n2"]
    node.kill()
    node.start()
    assert node.standby
    assert node.execute("SELECT pg_is_in_recovery()") == [(True,)]
    node.promote()
    assert not node.standby
    assert node.execute("SELECT pg_is_in_recovery()") == [(False,)]


def test_it_has_its_settings_when_configure_returns(cluster: EmbeddedCluster) -> None:
    node = cluster["n1"]
    node.configure({**node.server.settings, "work_mem": "5MB"})
    with psycopg.connect(node.dsn()) as connection:
        assert connection.execute("SHOW work_mem").fetchone() == ("5MB",)


def test_before_its_first_start_there_is_no_conninfo(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedError, match="n1 was never started"):
        Member("n1", Programs(tmp_path), {}).dsn()


def test_until_ends_when_it_is_true_or_too_late() -> None:
    answers = iter([0, 0, 1])
    until(lambda: next(answers), "not in time")
    assert list(answers) == []
    with pytest.raises(EmbeddedError, match="not in time"):
        until(lambda: False, "not in time", timeout=0)


def alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be reaped does not."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        return not select.select([handle], [], [], 0)[0]
    finally:
        os.close(handle)

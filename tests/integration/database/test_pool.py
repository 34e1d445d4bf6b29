from __future__ import annotations

import json
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import dict_row, tuple_row
from psycopg_pool import ConnectionPool

from falconas import Aborted, ResourceExhausted, Started, Unavailable
from falconas.database.cluster import EmbeddedCluster
from falconas.database.hygiene import IDLE, needs_check
from falconas.database.member import until
from falconas.database.nodes import Probe, Role
from falconas.database.pool import Node, NodePool, PoolOptions
from falconas.database.topology import lsn_text
from tests.cluster import few
from tests.integration.database.lending_cases import (
    backends,
    behind,
    fact,
    make_table,
    members,
    nodes_of,
    replay_paused,
    rows,
    terminate,
    wait_up,
)
from tests.integration.database.patroni import member, standing_in
from tests.proxy import Moment, Proxy

Boom = ZeroDivisionError


@pytest.fixture
def pool(cluster: EmbeddedCluster, cluster_database: str) -> Iterator[NodePool]:
    """All three nodes, known to be up, and an empty table t."""
    make_table(cluster, cluster_database)
    with NodePool(nodes_of(cluster, cluster_database), PoolOptions(max_size=4)) as pool:
        wait_up(pool, "n1", "n2", "n3")
        yield pool


def where(connection: psycopg.Connection[Any]) -> int:
    return connection.info.port


# What balancing pools of the older kind got wrong


def test_an_exception_in_the_block_rolls_back(
    pool: NodePool, cluster: EmbeddedCluster, cluster_database: str
) -> None:
    def fail() -> None:
        with pool.connection() as connection:
            connection.execute("INSERT INTO t VALUES (1)")
            raise Boom

    with pytest.raises(Boom):
        fail()
    with pool.connection() as connection:
        connection.execute("INSERT INTO t VALUES (2)")
    assert rows(cluster, cluster_database) == [2]


def test_a_connection_lost_in_mid_transaction_is_an_error(
    pool: NodePool, cluster: EmbeddedCluster, cluster_database: str
) -> None:
    def write() -> None:
        with pool.connection() as connection:
            connection.execute("INSERT INTO t VALUES (1)")
            terminate(cluster, "n1", connection.info.backend_pid)
            connection.execute("INSERT INTO t VALUES (2)")

    with pytest.raises(psycopg.OperationalError):
        write()
    assert rows(cluster, cluster_database) == []
    assert fact(pool, "n1", "lost") == 1
    with pool.connection() as connection:
        connection.execute("INSERT INTO t VALUES (3)")
    assert rows(cluster, cluster_database) == [3]


def test_a_lost_connection_is_an_error_even_if_the_block_says_nothing(
    pool: NodePool, cluster: EmbeddedCluster, cluster_database: str
) -> None:
    def write() -> None:
        with pool.connection() as connection, suppress(psycopg.OperationalError):
            connection.execute("INSERT INTO t VALUES (1)")
            terminate(cluster, "n1", connection.info.backend_pid)
            connection.execute("INSERT INTO t VALUES (2)")

    with pytest.raises(Unavailable) as caught:
        write()
    assert caught.value.started is Started.YES
    assert rows(cluster, cluster_database) == []


@pytest.mark.parametrize(
    ("access", "started"), [("write", Started.UNKNOWN), ("read", Started.YES)]
)
def test_so_is_one_where_each_statement_is_for_itself(
    cluster: EmbeddedCluster, cluster_database: str, access: str, started: Started
) -> None:
    def lose(pool: NodePool) -> None:
        with pool.connection(access) as connection:
            terminate(cluster, "n1", connection.info.backend_pid)
            with suppress(psycopg.OperationalError):
                connection.execute("SELECT 1")

    (n1, *_) = nodes_of(cluster, cluster_database)
    with (
        NodePool([n1], PoolOptions(autocommit=True)) as pool,
        pytest.raises(Unavailable, match="the connection to n1 was lost; ") as caught,
    ):
        lose(pool)
    assert caught.value.started is started


def test_a_connection_in_use_is_never_lent_again(pool: NodePool) -> None:
    held: set[int] = set()
    lock = threading.Lock()
    count = Counter[int]()

    def borrow(index: int) -> None:
        access = "write" if index % 4 == 0 else "read"
        with pool.connection(access) as connection:
            with lock:
                assert id(connection.pgconn) not in held
                held.add(id(connection.pgconn))
                count[where(connection)] += 1
            pid = connection.execute("SELECT pg_backend_pid()").fetchone()
            assert pid == (connection.info.backend_pid,)
            with lock:
                held.remove(id(connection.pgconn))

    with ThreadPoolExecutor(24) as threads:
        list(threads.map(borrow, range(600)))

    assert sum(count.values()) == 600
    assert pool.statistics()["waiting"] == 0
    for name in ("n1", "n2", "n3"):
        assert fact(pool, name, "in_use") == 0
        assert fact(pool, name, "size") <= 4


def test_it_starts_with_one_node_down(
    cluster: EmbeddedCluster, cluster_database: str
) -> None:
    cluster["n2"].kill()

    with NodePool(nodes_of(cluster, cluster_database)) as pool:
        begun = time.monotonic()
        with pool.connection() as connection:
            connection.execute("SELECT 1")
        with pool.connection("read") as connection:
            connection.execute("SELECT 1")
        assert time.monotonic() - begun < 4
        wait_up(pool, "n2", up=False)
        cluster["n2"].start()
        wait_up(pool, "n2")


# Nodes that come and go


def test_nodes_come_and_go_and_loans_go_on(
    cluster: EmbeddedCluster, cluster_database: str
) -> None:
    make_table(cluster, cluster_database)
    options = PoolOptions(lookup_interval=0.02, application_name="come-and-go")
    with standing_in() as patroni:
        patroni.members = members(cluster, "n1", "n2")
        source = behind(patroni, cluster, cluster_database)
        with NodePool([source], options) as pool:
            wait_up(pool, "pg/n1", "pg/n2")
            with pool.connection("read", max_lag=60) as _, pool.connection() as last:
                patroni.members = members(cluster, "n2", "n3")
                wait_up(pool, "pg/n3")
                assert list(pool.statistics()["nodes"]) == ["pg/n2", "pg/n3"]
                last.execute(
                    "INSERT INTO t VALUES (1)"
                )  # to its end, though n1 is gone
            assert rows(cluster, cluster_database) == [1]
            until(lambda: not backends(cluster, "n1", "come-and-go"), "they stay")
            with (
                pytest.raises(Unavailable, match="pg/n2: a standby; pg/n3: a standby"),
                pool.connection(timeout=0.1),
            ):
                pass
            patroni.members = members(cluster, "n1")
            with pool.connection() as connection:
                connection.execute("INSERT INTO t VALUES (2)")
    assert rows(cluster, cluster_database) == [1, 2]


def test_another_server_by_the_same_name_gets_connections_of_its_own(
    cluster: EmbeddedCluster, cluster_database: str
) -> None:
    ports = {name: cluster[name].port for name in ("n2", "n3")}
    with standing_in() as patroni:
        patroni.members = [member("here", cluster["n2"].dsn())]
        source = behind(patroni, cluster, cluster_database)
        options = PoolOptions(lookup_interval=0.02, application_name="moved")
        with NodePool([source], options) as pool:
            with pool.connection("read") as connection:
                assert where(connection) == ports["n2"]
                patroni.members = [member("here", cluster["n3"].dsn())]
                until(lambda: backends(cluster, "n3", "moved"), "none is made to n3")
                assert connection.execute("SELECT 1").fetchone() == (1,)
            for _ in range(3):
                with pool.connection("read") as connection:
                    assert where(connection) == ports["n3"]
            assert fact(pool, "pg/here", "in_use") == 0


def test_the_hosts_of_one_dsn_are_nodes(
    cluster: EmbeddedCluster, cluster_database: str
) -> None:
    parts = conninfo_to_dict(cluster["n1"].dsn(cluster_database))
    ports = [str(cluster[name].port) for name in ("n2", "n1")]
    dsn = make_conninfo(
        "", **parts | {"host": "127.0.0.1,127.0.0.1", "port": ",".join(ports)}
    )
    with NodePool(dsn) as pool:
        wait_up(pool, *(f"main/127.0.0.1:{port}" for port in ports))
        with pool.connection() as connection:
            assert where(connection) == cluster["n1"].port


def test_a_group_lends_its_own_nodes_and_watches_all(
    cluster: EmbeddedCluster, cluster_database: str, tmp_path: Path
) -> None:
    lines = ["[groups.reports]", 'nodes = ["n2"]', 'access = "read"', "size = 3"]
    for node in cluster.nodes:
        dsn = json.dumps(node.dsn(cluster_database))
        lines += [f"[nodes.{node.name}]", f"dsn = {dsn}"]
    file = tmp_path / "falconas.toml"
    file.write_text("\n".join(lines))
    file.chmod(0o600)

    with NodePool.from_config(file, "reports", environ={}) as pool:
        wait_up(pool, "n1", "n2", "n3")
        for _ in range(4):
            with pool.connection() as connection:
                assert where(connection) == cluster["n2"].port
                with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
                    connection.execute("CREATE TABLE no ()")
                connection.rollback()
        assert fact(pool, "n1", "size") == 0
        assert fact(pool, "n2", "lag") is not None  # by the primary's position
        with pytest.raises(ValueError, match="only reads"):
            pool.connection("write").__enter__()


class Unconnected(NodePool):
    """Notes which nodes it is to connect to."""

    def __init__(self, *nodes: Node) -> None:
        super().__init__(nodes)
        self.opening: list[Node] = []
        self.shut: list[object] = []

    def _open(self, node: Node) -> None:
        self.opening.append(node)

    def _shut(self, pool: object) -> None:
        self.shut.append(pool)


def test_each_server_gets_one_pool_whatever_happens_meanwhile() -> None:
    probe, moved = Probe(Role.PRIMARY, 1, 1), Node("a", "port=2")
    pool = Unconnected(Node("a", "port=1"))
    pool._answered("a", probe)
    pool._found([Node("a", "port=1", weight=2.0)])  # the same server
    pool._answered("a", probe)
    assert pool.opening == [Node("a", "port=1")]

    pool._found([moved])
    pool._answered("a", probe)
    assert pool.opening == [Node("a", "port=1"), moved]
    inner = ConnectionPool[psycopg.Connection[Any]](moved.dsn, open=False)
    assert not pool._add(Node("a", "port=1"), inner)
    assert pool._add(moved, inner)
    pool._answered("a", probe)
    assert len(pool.opening) == 2
    pool._found([Node("b")])
    assert pool.shut == [inner]
    assert not pool._add(moved, inner)


def test_the_nodes_of_a_pool_are_of_one_database() -> None:
    with pytest.raises(ValueError, match="one database"):
        NodePool([Node("a"), Node("x", database="other")])
    with pytest.raises(ValueError, match="a pool has nodes"):
        NodePool([])


# Which node


def test_reads_are_spread_by_weight(
    cluster: EmbeddedCluster, cluster_database: str
) -> None:
    nodes = nodes_of(cluster, cluster_database)
    nodes[2] = Node("n3", nodes[2].dsn, weight=2.0)
    with NodePool(nodes, PoolOptions(min_size=6)) as pool:
        wait_up(pool, "n1", "n2", "n3")

        together = threading.Barrier(12, timeout=30)

        def read(_: int) -> None:
            with pool.connection("read") as connection:
                connection.execute("SELECT 1")
                together.wait()  # all hold one
            together.wait()  # nobody does

        def served() -> Counter[str]:
            names = ("n1", "n2", "n3")
            return Counter({name: fact(pool, name, "served") for name in names})

        with ThreadPoolExecutor(12) as threads:
            list(threads.map(read, range(60)))  # while connections are made
            before = served()
            list(threads.map(read, range(600)))
            found = dict(served() - before)

    assert found == {"n1": 150, "n2": 150, "n3": 300}


def test_reads_are_read_only_on_the_primary_too(
    cluster: EmbeddedCluster, cluster_database: str
) -> None:
    make_table(cluster, cluster_database)
    for autocommit in (False, True):
        with NodePool(
            cluster["n1"].dsn(cluster_database), PoolOptions(autocommit=autocommit)
        ) as pool:
            with (
                pytest.raises(psycopg.errors.ReadOnlySqlTransaction),
                pool.connection("read") as connection,
            ):
                connection.execute("INSERT INTO t VALUES (1)")
            with pool.connection("write") as connection:
                connection.execute("INSERT INTO t VALUES (1)")
            assert fact(pool, "main", "lost") == 0


def test_writes_go_on_after_a_promotion(
    pool: NodePool, cluster: EmbeddedCluster, cluster_database: str
) -> None:
    with pool.connection() as connection:
        connection.execute("INSERT INTO t VALUES (1)")
    cluster.wait_until_caught_up()
    cluster["n1"].kill()
    cluster.promote(cluster["n2"])

    with pool.connection() as connection:
        connection.execute("INSERT INTO t VALUES (2)")

    assert rows(cluster, cluster_database) == [1, 2]
    assert fact(pool, "n2", "role") == "primary"
    with pool.connection("read") as connection:
        assert where(connection) != cluster["n1"].port


def test_an_old_primary_gets_no_writes(
    pool: NodePool,
    cluster: EmbeddedCluster,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Two primaries at once: the newer timeline wins."""
    cluster.promote(cluster["n2"])
    until(lambda: fact(pool, "n2", "role") == "primary", "n2 is not promoted")

    ports = set()
    for _ in range(6):
        with pool.connection() as connection:
            ports.add(where(connection))
        with pool.connection("read") as connection:
            assert where(connection) != cluster["n1"].port

    assert ports == {cluster["n2"].port}
    assert "left behind" in fact(pool, "n1", "reason")
    warning = re.compile(r"node n1 is a primary left behind on timeline \d+ \(n\d is")
    assert any(map(warning.match, caplog.messages)), caplog.messages


def test_a_standby_that_does_not_follow_the_new_primary_shows_nothing_fresh(
    pool: NodePool, cluster: EmbeddedCluster
) -> None:
    """It has replayed more than the new primary has, but not what that wrote."""
    cluster["n2"].execute("ALTER SYSTEM SET primary_conninfo = ''")
    cluster["n2"].execute("SELECT pg_reload_conf()")
    receiving = "SELECT count(pid)::int FROM pg_stat_get_wal_receiver()"
    until(lambda: cluster["n2"].execute(receiving) == [(0,)], "n2 still receives")
    with pool.connection() as connection:
        connection.execute("INSERT INTO t SELECT generate_series(1000, 20000)")
        lost = pool.lsn()
    replayed = f"SELECT pg_last_wal_replay_lsn() >= '{lsn_text(lost)}'"
    until(lambda: cluster["n3"].execute(replayed) == [(True,)], "n3 has it not")
    cluster["n1"].kill()
    cluster["n2"].execute("SELECT pg_promote()")

    with pool.connection() as connection:
        connection.execute("INSERT INTO t VALUES (1)")
    written = pool.lsn()
    assert written < lost

    seen = "SELECT count(*)::int FROM t WHERE n = 1"
    for limits in ({"min_lsn": written}, {"max_lag": 1e9}):
        for _ in range(6):
            with pool.connection("read", **limits) as connection:
                assert connection.execute(seen).fetchone() == (1,), limits
    why = r"it follows timeline \d+, the primary n2 is on \d+"
    assert re.fullmatch(why, fact(pool, "n3", "reason"))
    served = set()
    for _ in range(6):
        with pool.connection("read") as connection:
            served.add(where(connection))
    assert cluster["n3"].port in served


def test_the_first_write_of_a_pool_goes_to_no_primary_that_was_left_behind(
    cluster: EmbeddedCluster, cluster_database: str
) -> None:
    make_table(cluster, cluster_database)
    cluster.promote(cluster["n2"])
    with Proxy(cluster["n2"].dsn(cluster_database)) as proxy:
        proxy.hold()
        nodes = nodes_of(cluster, cluster_database, n2=proxy.dsn)
        with NodePool(nodes[:2]) as pool, ThreadPoolExecutor(1) as thread:

            def write() -> int:
                with pool.connection() as connection:
                    return where(connection)

            writing = thread.submit(write)
            until(lambda: fact(pool, "n1", "up"), "n1 is not up")
            assert "n2 may be a newer one" in fact(pool, "n1", "reason")
            proxy.heal()

            assert writing.result(10) == proxy.port


def test_a_black_hole_is_ejected_hangs_nobody_and_returns(
    cluster: EmbeddedCluster, cluster_database: str
) -> None:
    with Proxy(cluster["n2"].dsn(cluster_database)) as proxy:
        nodes = nodes_of(cluster, cluster_database, n2=proxy.dsn)
        with NodePool(nodes) as pool:
            wait_up(pool, "n1", "n2", "n3")
            stuck = threading.Event()

            def hang() -> None:
                for _ in range(1000):  # until it is that node's turn
                    with pool.connection("read", timeout=5) as connection:
                        if where(connection) == proxy.port:
                            stuck.set()
                            connection.execute("SELECT pg_sleep(60)")

            with ThreadPoolExecutor(1) as thread:
                hanging = thread.submit(hang)
                assert stuck.wait(20)
                proxy.hold()
                begun = time.monotonic()
                while fact(pool, "n2", "up"):
                    with pool.connection("read", timeout=4) as connection:
                        connection.execute("SELECT 1")
                    assert time.monotonic() - begun < 5
                error = hanging.exception(5)
                assert type(error) is psycopg.OperationalError
                assert "n2 does not answer (" in str(error)
                assert "server" not in str(error)  # which closed nothing
            proxy.heal()
            wait_up(pool, "n2")
            before = fact(pool, "n2", "served")
            for _ in range(40):
                with pool.connection("read") as connection:
                    connection.execute("SELECT 1")
            assert fact(pool, "n2", "served") > before


def test_max_lag_is_honoured(pool: NodePool, cluster: EmbeddedCluster) -> None:
    with replay_paused(cluster, "n2", "n3"):
        with pool.connection() as connection:
            connection.execute("INSERT INTO t VALUES (1)")
        until(
            lambda: all((fact(pool, n, "lag") or 0) > 1.0 for n in ("n2", "n3")),
            "nobody lags",
        )
        for _ in range(6):
            with pool.connection("read", max_lag=0.5) as connection:
                assert where(connection) == cluster["n1"].port
        ports = set()
        for _ in range(6):
            with pool.connection("read") as connection:
                ports.add(where(connection))
        assert ports >= {cluster["n2"].port, cluster["n3"].port}
    until(lambda: fact(pool, "n2", "lag") == 0, "n2 still lags")


def test_reads_see_what_was_written_before(
    pool: NodePool, cluster: EmbeddedCluster
) -> None:
    with replay_paused(cluster, "n2"):
        with pool.connection() as connection:
            connection.execute("INSERT INTO t VALUES (1)")
        lsn = pool.lsn()
        for _ in range(6):
            with pool.connection("read", min_lsn=lsn) as connection:
                assert where(connection) != cluster["n2"].port
                assert connection.execute("SELECT n FROM t").fetchall() == [(1,)]


@pytest.mark.parametrize("committing", [False, True])
def test_who_swallows_the_error_of_a_silent_node_gets_another(
    cluster: EmbeddedCluster, cluster_database: str, *, committing: bool
) -> None:
    def hang(pool: NodePool, proxy: Proxy) -> None:
        with pool.connection() as connection:
            connection.execute("SELECT 1")
            proxy.hold()
            if not committing:
                with suppress(psycopg.OperationalError):
                    connection.execute("SELECT 2")

    with (
        Proxy(cluster["n1"].dsn(cluster_database)) as proxy,
        NodePool([Node("n1", proxy.dsn)]) as pool,
    ):
        with pytest.raises(Unavailable, match=r"n1 does not answer \(") as caught:
            hang(pool, proxy)
        assert caught.value.started is (Started.UNKNOWN if committing else Started.YES)
        proxy.heal()


# Idle connections


def test_an_idle_connection_that_died_is_not_lent(
    pool: NodePool, cluster: EmbeddedCluster
) -> None:
    for _ in range(5):
        with pool.connection() as connection:
            pid = connection.info.backend_pid
        terminate(cluster, "n1", pid)

        with pool.connection() as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_connection_is_asked_after_half_a_second(pool: NodePool) -> None:
    with pool.connection() as connection:
        assert not needs_check(connection, IDLE / 2)
        assert needs_check(connection, IDLE + 0.1)
        connection.close()
        assert needs_check(connection, 0.0)


def test_a_server_that_restarted_is_used_again(
    pool: NodePool, cluster: EmbeddedCluster
) -> None:
    cluster["n1"].stop("immediate")
    cluster["n1"].start()

    with pool.connection() as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


# The end of a block


def test_a_swallowed_error_is_not_taken_for_a_commit(pool: NodePool) -> None:
    def write() -> None:
        with pool.connection() as connection, suppress(psycopg.errors.DivisionByZero):
            connection.execute("INSERT INTO t VALUES (1)")
            connection.execute("SELECT 1/0")

    with pytest.raises(Aborted, match="rolled back"):
        write()


@pytest.mark.parametrize("moment", [Moment.SENT, Moment.ANSWERED])
def test_a_commit_without_an_answer_is_unknown(
    cluster: EmbeddedCluster, cluster_database: str, moment: Moment
) -> None:
    make_table(cluster, cluster_database)
    with (
        Proxy(cluster["n1"].dsn(cluster_database)) as proxy,
        NodePool(proxy.dsn) as pool,
    ):

        def write() -> None:
            with pool.connection() as connection:
                connection.execute("INSERT INTO t VALUES (1)")
                proxy.cut_at(b"COMMIT", moment)

        with pytest.raises(Unavailable) as caught:
            write()
        assert proxy.cut is None
    assert caught.value.started is Started.UNKNOWN


@pytest.mark.parametrize("reset", ["soft", "discard"])
@pytest.mark.parametrize("autocommit", [False, True])
def test_nothing_of_one_borrower_reaches_the_next(
    cluster: EmbeddedCluster, cluster_database: str, reset: str, autocommit: bool
) -> None:
    options = PoolOptions(
        max_size=1,
        reset=reset,
        autocommit=autocommit,
        statement_timeout=7.0,
        temp_buffers="16MB",
        settings={"work_mem": "5MB"},
    )
    with NodePool(cluster["n1"].dsn(cluster_database), options) as pool:
        with pool.connection() as connection:
            pid = connection.info.backend_pid
            connection.row_factory = dict_row
            connection.add_notice_handler(print)
            connection.execute("SET work_mem = '9MB'")
            connection.execute("SET statement_timeout = 0")
            connection.execute("CREATE TEMP TABLE mine (n int)")
            connection.execute("SELECT pg_advisory_lock(1)")
            for _ in range(8):  # psycopg prepares it
                connection.execute("SELECT %s::int", [1])
            connection.rollback() if not autocommit else None
            connection.autocommit = not autocommit

        with pool.connection() as connection:
            assert connection.info.backend_pid == pid
            assert connection.autocommit is autocommit
            found = connection.execute(
                "SELECT current_setting('work_mem'), current_setting('temp_buffers'),"
                " current_setting('statement_timeout'), to_regclass('mine'),"
                " (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory')"
            ).fetchone()
            for _ in range(8):
                connection.execute("SELECT %s::int", [1])
        assert found == ("5MB", "16MB", "7s", None, 0)


def test_rows_are_made_as_the_options_say(
    cluster: EmbeddedCluster, cluster_database: str
) -> None:
    options = PoolOptions(max_size=1, row_factory=dict_row)
    with NodePool(cluster["n1"].dsn(cluster_database), options) as pool:
        for other in (tuple_row, dict_row):
            with pool.connection() as connection:
                assert connection.execute("SELECT 1 AS n").fetchone() == {"n": 1}
                connection.row_factory = other
        assert pool.lsn() > 0


def test_a_prepared_statement_of_sqls_own_costs_the_connection(
    cluster: EmbeddedCluster, cluster_database: str
) -> None:
    with NodePool(cluster["n1"].dsn(cluster_database), PoolOptions(max_size=1)) as pool:
        for _ in range(2):
            with pool.connection() as connection:
                connection.execute("PREPARE mine AS SELECT 1")


def test_what_is_left_running_costs_the_connection(pool: NodePool) -> None:
    with pool.connection("read") as connection:
        connection.pgconn.send_query(b"SELECT pg_sleep(60)")
        busy = connection
    assert busy.closed
    for _ in range(6):
        with pool.connection("read") as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)


# Waiting


def test_waiting_is_bounded_and_the_error_names_the_nodes(
    cluster: EmbeddedCluster, cluster_database: str
) -> None:
    options = PoolOptions(max_size=1, max_waiting=1)
    with (
        NodePool(nodes_of(cluster, cluster_database), options) as pool,
        ThreadPoolExecutor(1) as threads,
        pool.connection() as held,
    ):
        assert held.execute("SELECT 1").fetchone() == (1,)
        with pytest.raises(Unavailable, match="n1: 1 of 1 in use") as caught:
            pool.connection(timeout=0.05).__enter__()
        waiting = threads.submit(pool.lsn, 10)
        until(lambda: pool.statistics()["waiting"] == 1, "nobody waits")
        with pytest.raises(ResourceExhausted, match="1 are waiting"):
            pool.connection().__enter__()
        assert not waiting.done()
    assert (caught.value.started, caught.value.retry_safe) == (Started.NO, True)
    assert waiting.result() > 0


def test_the_error_says_why_no_connection_is_made(
    cluster: EmbeddedCluster, cluster_database: str
) -> None:
    nodes = nodes_of(cluster, cluster_database)[:2]
    with NodePool(nodes, PoolOptions(role="nope")) as pool:
        wait_up(pool, "n1", "n2")
        until(lambda: "nope" in fact(pool, "n2", "reason"), "nothing is said")
        with pytest.raises(Unavailable) as caught:
            pool.connection("read", timeout=0.1).__enter__()
        for name in ("n1", "n2"):
            why = rf'{name}: 0 of 10 in use, and no other .* role "nope" does not exist'
            assert re.search(why, caught.value.message)


def test_no_node_at_all_is_an_error_that_says_why() -> None:
    with NodePool(
        [Node("a", "host=127.0.0.1 port=1 dbname=x"), Node("b", "host=/nowhere")],
        PoolOptions(node_wait=0.3),
    ) as pool:
        with pytest.raises(Unavailable, match=r"(?s)no node suits a read: a: .*; b: "):
            pool.connection("read", timeout=5).__enter__()
        assert pool.statistics()["refused"] == 1


def test_what_is_no_wish_is_refused_before_anything_is_opened() -> None:
    pool = NodePool("host=/nowhere")

    with pytest.raises(ValueError, match='"read" or "write"'):
        pool.connection("both").__enter__()
    with pytest.raises(ValueError, match="0/3000148"):
        pool.connection("read", min_lsn="x").__enter__()
    pool.close()
    with pytest.raises(RuntimeError, match="closed"):
        pool.connection().__enter__()


# Processes


def test_a_child_may_open_a_pool_and_not_use_the_parents(
    pool: NodePool, cluster: EmbeddedCluster, cluster_database: str
) -> None:
    unopened = NodePool(cluster["n1"].dsn(cluster_database))
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover
        said = "nothing"
        try:
            with pytest.raises(RuntimeError, match="before a fork"):
                pool.connection().__enter__()
            pool.close()
            with unopened.connection() as connection:
                connection.execute("SELECT 1")
            said = "well"
        except BaseException as error:
            said = repr(error)
        finally:
            os.write(writer, said.encode())
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        assert pipe.read() == "well"
    os.waitpid(child, 0)
    unopened.close()
    with pool.connection() as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_block_that_is_forked_ends_only_in_its_own_process(
    pool: NodePool, cluster: EmbeddedCluster, cluster_database: str
) -> None:
    def fork() -> int:
        with pool.connection() as connection:
            connection.execute("INSERT INTO t VALUES (1)")
            return os.fork()

    child, mine = -1, os.getpid()
    try:
        child = fork()
    except RuntimeError:
        if os.getpid() != mine:  # pragma: no cover
            os._exit(42)
        raise
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 42
    assert rows(cluster, cluster_database) == [1]


def test_close_returns_what_is_in_use_later(
    cluster: EmbeddedCluster, cluster_database: str
) -> None:
    pool = NodePool(cluster["n1"].dsn(cluster_database))
    with pool.connection() as connection:
        pool.close()
        assert connection.execute("SELECT 1").fetchone() == (1,)
    assert connection.closed


def test_a_node_that_takes_no_new_connections_lends_those_it_has(
    cluster: EmbeddedCluster,
) -> None:
    options = PoolOptions(min_size=2, max_size=2, probe_interval=0.1)
    with few(cluster) as role, NodePool(role.dsn("n1"), options) as pool:
        wait_up(pool, "main")
        until(lambda: fact(pool, "main", "size") == 2, "the pool is not filled")
        with pool.connection() as one, pool.connection() as two:
            pids = {one.info.backend_pid, two.info.backend_pid}
        role.limit(2)
        role.shut_out_probe("n1")
        until(
            lambda: fact(pool, "main", "reason").startswith("takes no new connections"),
            "it is not noted",
        )
        assert fact(pool, "main", "up")
        with pool.connection() as one, pool.connection() as two:
            assert {one.info.backend_pid, two.info.backend_pid} == pids


def test_a_new_cluster_behind_the_same_address_takes_the_writes(
    cluster: EmbeddedCluster, tmp_path: Path
) -> None:
    """Its timeline is older, which says nothing about other data."""
    other = EmbeddedCluster(tmp_path / "other", standbys=0, durable=False)
    options = PoolOptions(min_size=1, max_size=1, probe_interval=0.1)
    try:
        other.start()
        with few(other), few(cluster) as role:
            cluster.promote(cluster["n2"])
            with Proxy(role.dsn("n2")) as proxy, NodePool(proxy.dsn, options) as pool:
                with pool.connection() as connection:
                    old = fact(pool, "main", "role"), where_really(connection)
                before = proxy.target
                proxy.target = proxy.target[0], port_of(other.primary.dsn())
                proxy.reset()
                state = pool._lending.nodes.state("main")
                until(lambda: state.timeline == 1, "it was not probed")
                with pool.connection() as connection:
                    new = fact(pool, "main", "role"), where_really(connection)
        assert old == ("primary", before[1])
        assert new == ("primary", port_of(other.primary.dsn()))
    finally:
        other.delete()


def port_of(dsn: str) -> int:
    return int(str(conninfo_to_dict(dsn)["port"]))


def where_really(connection: psycopg.Connection[Any]) -> int:
    """Return the port of the server behind a proxy."""
    (port,) = connection.execute("SELECT inet_server_port()").fetchone() or (0,)
    return int(port)

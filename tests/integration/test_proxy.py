"""The proxy of the tests fails in the ways it says, before a real PostgreSQL."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import psycopg
import pytest
from psycopg import pq

from falconas.database.embedded import EmbeddedPostgres
from tests.proxy import Moment, Proxy

PATIENCE = 10.0
MOMENT = 0.1  # in which nothing is to happen


@pytest.fixture
def proxy(postgres: EmbeddedPostgres, database: str) -> Iterator[Proxy]:
    name = psycopg.conninfo.conninfo_to_dict(database)["dbname"]
    with Proxy(postgres.dsn(str(name), tcp=True)) as running:
        yield running


@pytest.fixture
def echo() -> Iterator[Proxy]:
    """A proxy before a server that sends back what it gets, for one connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            end, _ = listener.accept()
            with end, suppress(ConnectionResetError):
                while data := end.recv(1000):
                    end.sendall(data)

        thread = threading.Thread(target=serve)
        thread.start()
        with Proxy(f"host=127.0.0.1 port={listener.getsockname()[1]}") as running:
            yield running
            running.reset()
        if thread.is_alive():
            # The server waits for its connection, if the test made none.
            socket.create_connection(listener.getsockname()[:2]).close()
        thread.join(PATIENCE)


def dial(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), PATIENCE)


def silent(connection: psycopg.Connection) -> bool:
    return not select.select([connection.fileno()], [], [], MOMENT)[0]


def ask(connection: psycopg.Connection, query: bytes = b"SELECT 1") -> None:
    """Send a query, without waiting for its answer."""
    connection.pgconn.send_query(query)
    while connection.pgconn.flush():
        pass


def answer(connection: psycopg.Connection) -> bytes | None:
    """Wait for the answer to the query."""
    # libpq itself would wait with the GIL, which the proxy's thread needs.
    while connection.pgconn.is_busy():
        assert select.select([connection.fileno()], [], [], PATIENCE)[0]
        connection.pgconn.consume_input()
    result = connection.pgconn.get_result()
    assert result
    assert result.status == pq.ExecStatus.TUPLES_OK
    assert connection.pgconn.get_result() is None
    return result.get_value(0, 0)


def test_it_passes_on_and_counts(proxy: Proxy) -> None:
    for number in 1, 2:
        with psycopg.connect(proxy.dsn) as connection:
            row = connection.execute("SELECT repeat('x', 300000)").fetchone()
            assert row == ("x" * 300_000,)
            assert proxy.accepted == number
            assert len(proxy.links) == 1
        until_empty(proxy)
    assert proxy.answers.bytes > 600_000
    assert 0 < proxy.requests.bytes < 10_000


def test_delay_makes_late(proxy: Proxy) -> None:
    with psycopg.connect(proxy.dsn, autocommit=True) as connection:
        proxy.answers.delay = 0.2
        begin = time.monotonic()
        connection.execute("SELECT 1")
        assert time.monotonic() - begin >= 0.2
        proxy.heal()


def test_what_is_held_goes_on_when_the_network_heals(proxy: Proxy) -> None:
    with psycopg.connect(proxy.dsn, autocommit=True) as connection:
        proxy.hold()
        ask(connection)
        assert silent(connection)
        proxy.heal()
        assert answer(connection) == b"1"


def test_one_way_can_be_held_alone(
    proxy: Proxy, postgres: EmbeddedPostgres, database: str
) -> None:
    with (
        psycopg.connect(proxy.dsn, autocommit=True) as connection,
        psycopg.connect(database, autocommit=True) as witness,
    ):
        proxy.answers.hold()
        ask(connection, b"SELECT pg_advisory_lock(1), 1")
        while not witness.execute(
            "SELECT FROM pg_locks WHERE locktype = 'advisory'"
        ).rowcount:
            time.sleep(0.005)
        assert silent(connection)
        proxy.heal()
        assert answer(connection) == b""


def test_what_is_swallowed_is_lost(proxy: Proxy) -> None:
    connection = psycopg.connect(proxy.dsn, autocommit=True)
    proxy.requests.swallow()
    ask(connection)
    assert silent(connection)
    proxy.heal()
    assert silent(connection)
    connection.close()


def test_a_black_hole_ends_by_connect_timeout(proxy: Proxy) -> None:
    proxy.hold()
    with pytest.raises(psycopg.errors.ConnectionTimeout):
        psycopg.connect(proxy.dsn, connect_timeout=2)
    assert proxy.accepted == 1


def test_without_accept_the_kernel_connects_and_nobody_answers(proxy: Proxy) -> None:
    proxy.stop_accepting()
    with dial(proxy) as end:
        end.sendall(bytes(8))
        assert not select.select([end], [], [], MOMENT)[0]
        assert proxy.accepted == 0
        proxy.heal()
        # The server does not understand the eight bytes.
        assert select.select([end], [], [], PATIENCE)[0]
    assert proxy.accepted == 1


def test_it_refuses_until_it_heals_at_the_same_port(proxy: Proxy) -> None:
    proxy.refuse()
    with pytest.raises(psycopg.OperationalError, match="refused"):
        psycopg.connect(proxy.dsn)
    proxy.heal()
    psycopg.connect(proxy.dsn).close()


def test_a_server_that_is_down_is_a_reset(echo: Proxy) -> None:
    echo.target = ("127.0.0.1", 1)
    # It may come while this end is still connecting.
    with pytest.raises(ConnectionResetError), dial(echo) as end:
        end.recv(1)


def test_reset_reaches_both_sides(proxy: Proxy, database: str) -> None:
    connection = psycopg.connect(proxy.dsn)
    pid = connection.info.backend_pid
    connection.execute("SELECT 1")
    proxy.reset()
    with pytest.raises(psycopg.OperationalError):
        connection.execute("SELECT 1")
    connection.close()
    until_gone(database, pid)
    psycopg.connect(proxy.dsn).close()


def test_reset_is_a_reset_and_a_close_is_a_close(echo: Proxy) -> None:
    with dial(echo) as end:
        end.sendall(b"one")
        assert end.recv(10) == b"one"
        end.shutdown(socket.SHUT_WR)
        assert end.recv(10) == b""
    with dial(echo) as end:
        while not echo.links:
            time.sleep(0.001)
        echo.reset()
        with pytest.raises(ConnectionResetError):
            end.recv(10)


def test_it_cuts_after_so_many_bytes(echo: Proxy) -> None:
    echo.answers.cut_after(4)
    with dial(echo) as end:
        end.sendall(b"123456")
        assert end.recv(10) == b"1234"
        with pytest.raises(ConnectionResetError):
            end.recv(10)
    assert echo.answers.bytes == 4


def test_a_spared_connection_passes_and_is_not_counted(proxy: Proxy) -> None:
    proxy.spared = b"spared here"
    with psycopg.connect(proxy.dsn, application_name="spared here") as connection:
        proxy.answers.cut_after(1)
        connection.execute("SELECT 1")
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(proxy.dsn)


def test_it_cuts_a_result_in_the_middle(proxy: Proxy) -> None:
    with psycopg.connect(proxy.dsn) as connection:
        proxy.answers.cut_after(100_000)
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT repeat('x', 300000)")
    psycopg.connect(proxy.dsn).close()


def test_a_pattern_is_found_across_two_pieces(echo: Proxy) -> None:
    cut = echo.cut_at(b"COMMIT", Moment.UNSENT)
    with dial(echo) as end:
        end.sendall(b"COM")
        assert end.recv(10) == b"COM"
        end.sendall(b"MIT")
        with pytest.raises(ConnectionResetError):
            end.recv(10)
    assert cut.wait(PATIENCE)
    assert echo.requests.bytes == 3


@pytest.mark.parametrize(
    ("moment", "rows"),
    [(Moment.UNSENT, {0}), (Moment.SENT, {0, 1}), (Moment.ANSWERED, {1})],
)
def test_it_cuts_around_commit(
    proxy: Proxy, database: str, moment: Moment, rows: set[int]
) -> None:
    with psycopg.connect(database, autocommit=True) as witness:
        witness.execute("CREATE TABLE t (n int)")
        connection = psycopg.connect(proxy.dsn)
        pid = connection.info.backend_pid
        connection.execute("INSERT INTO t VALUES (1)")
        cut = proxy.cut_at(b"COMMIT", moment)
        with pytest.raises(psycopg.OperationalError):
            connection.commit()
        connection.close()
        assert cut.wait(PATIENCE)
        until_gone(database, pid)
        found = witness.execute("SELECT count(*) FROM t").fetchone()
        assert found
        assert found[0] in rows
        # The next commit passes.
        with psycopg.connect(proxy.dsn) as connection:
            connection.execute("INSERT INTO t VALUES (2)")


def test_it_leaves_no_thread_and_no_connection(postgres: EmbeddedPostgres) -> None:
    threads = threading.active_count()
    with Proxy(postgres.dsn(tcp=True)) as proxy:
        connection = psycopg.connect(proxy.dsn)
        assert threading.active_count() > threads
    assert threading.active_count() == threads
    with pytest.raises(psycopg.OperationalError):
        connection.execute("SELECT 1")
    connection.close()


def until_gone(dsn: str, pid: int) -> None:
    query = "SELECT pid FROM pg_stat_activity WHERE pid = %s"
    with psycopg.connect(dsn, autocommit=True) as witness:
        while witness.execute(query, [pid]).fetchone():
            time.sleep(0.005)


def until_empty(proxy: Proxy) -> None:
    while proxy.links:
        time.sleep(0.001)

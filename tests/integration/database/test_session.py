from __future__ import annotations

import socket
import threading
from contextlib import closing
from typing import TYPE_CHECKING, Any, Self

import psycopg
import pytest
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import dict_row

from falconas.database import flight
from falconas.database.session import (
    ConnectFailed,
    InvalidDsn,
    Session,
)
from falconas.database.unserved import SessionLost
from falconas.database.working import JOINED
from falconas.errors import Aborted, Code, FalconError, Started, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from falconas.database.embedded import EmbeddedPostgres


@pytest.fixture(scope="module")
def database(postgres: EmbeddedPostgres) -> Iterator[str]:
    yield postgres.create_database("session")
    postgres.drop_database("session")


@pytest.fixture
def admin(database: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        connection.execute("CREATE TABLE item (id int PRIMARY KEY)")
        yield connection


@pytest.fixture
def session(
    database: str,
    admin: psycopg.Connection[Any],
) -> Iterator[Session]:
    with closing(Session.connect(database)) as session:
        yield session


def execute(session: Session, sql: str, params: Any = None) -> list[Any]:
    with session.statement() as connection:
        cursor = connection.execute(sql, params)
    return cursor.fetchall() if cursor.description else []


def items(admin: psycopg.Connection[Any]) -> list[int]:
    return [row[0] for row in admin.execute("SELECT id FROM item ORDER BY id")]


def write(session: Session, number: int) -> None:
    session.begin_write()
    execute(session, "INSERT INTO item VALUES (%s)", (number,))
    session.verify()


def test_a_write_is_seen_after_the_commit_and_not_before(
    session: Session, admin: psycopg.Connection[Any]
) -> None:
    write(session, 1)
    assert items(admin) == []
    session.commit()
    assert items(admin) == [1]
    assert session.reset()


def test_without_a_commit_the_reset_rolls_back(
    session: Session, admin: psycopg.Connection[Any]
) -> None:
    write(session, 1)
    assert session.reset()
    assert items(admin) == []


def test_settings_of_the_dsn_survive_and_those_of_a_request_do_not(
    database: str, admin: psycopg.Connection[Any]
) -> None:
    admin.execute("CREATE ROLE app")
    dsn = f"{database} options='-c role=app -c work_mem=5MB'"
    settings = {"statement_timeout": "9s"}
    try:
        with closing(Session.connect(dsn, settings=settings)) as session:
            session.begin_read()
            shown = "SELECT current_setting(%s)"
            for sql in ("SET work_mem = '9MB'", "SET statement_timeout = 0"):
                execute(session, sql)
            execute(session, "SET ROLE pg_monitor")
            assert session.reset()
            for name, value in {
                "work_mem": "5MB",
                "statement_timeout": "9s",
                "role": "app",
                "client_connection_check_interval": "250ms",
            }.items():
                session.begin_read()
                assert execute(session, shown, (name,)) == [(value,)]
    finally:
        admin.execute("DROP ROLE app")


LEAKS = {
    "setting": ("SET work_mem = '9MB'", "SHOW work_mem"),
    "own setting": (
        "SELECT set_config('my.tenant', 'a', false)",
        "SELECT coalesce(nullif(current_setting('my.tenant', true), ''), 'none')",
    ),
    "role": ("SET ROLE pg_monitor", "SELECT current_user"),
    "authorization": ("SET SESSION AUTHORIZATION pg_monitor", "SELECT session_user"),
    "temporary table": (
        "CREATE TEMP TABLE secret AS SELECT 1",
        "SELECT to_regclass('secret')::text",
    ),
    "advisory lock": (
        "SELECT pg_advisory_lock(7)",
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'",
    ),
    "listen": ("LISTEN news", "SELECT count(*) FROM pg_listening_channels()"),
    "cursor": (
        "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
        "SELECT count(*) FROM pg_cursors",
    ),
    "sequence": (
        "SELECT nextval('numbers')",
        "SELECT count(*) FROM pg_sequences WHERE last_value IS NULL",
    ),
    "characteristics": (
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
        "SHOW default_transaction_read_only",
    ),
}


@pytest.mark.parametrize("kind", LEAKS)
@pytest.mark.parametrize("committed", [True, False])
def test_nothing_of_a_request_is_left_for_the_next(
    session: Session,
    admin: psycopg.Connection[Any],
    kind: str,
    committed: bool,
) -> None:
    admin.execute("CREATE SEQUENCE numbers")
    leak, probe = LEAKS[kind]
    if kind == "sequence":
        probe = "SELECT 1"
    session.begin_read()
    before = execute(session, probe)
    session.reset()
    session.begin_write()
    execute(session, leak)
    session.verify()
    if committed:
        session.commit()
    assert session.reset()
    session.begin_read()
    assert execute(session, probe) == before
    if kind == "sequence":
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
            execute(session, "SELECT currval('numbers')")


def test_prepared_statements_survive_the_reset(session: Session) -> None:
    names = "SELECT count(*) FROM pg_prepared_statements WHERE statement ~ 'item'"
    for _ in range(8):
        session.begin_read()
        execute(session, "SELECT id FROM item WHERE id = %s", (1,))
        assert session.reset()
    session.begin_read()
    assert execute(session, names) == [(1,)]


@pytest.mark.parametrize("sql", ["PREPARE p AS SELECT 1", "DEALLOCATE ALL"])
def test_what_no_reset_removes_costs_the_connection(session: Session, sql: str) -> None:
    session.begin_write()
    execute(session, sql)
    session.verify()
    session.commit()
    assert not session.reset()


def test_an_untouched_session_is_not_spoken_to(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[bytes] = []
    run, depart = session._command, flight.depart

    def spy(sql: bytes) -> Any:
        sent.append(sql)
        return run(sql)

    def watch(connection: Any, message: bytes) -> bool:
        sent.append(message)
        return depart(connection, message)

    monkeypatch.setattr(session, "_command", spy)
    monkeypatch.setattr("falconas.database.session.depart", watch)
    session.begin_read()
    session.verify()
    assert session.reset()
    assert sent == []
    session.begin_write()
    session.verify()
    assert session.reset()
    begin, end = sent
    assert begin.startswith(b"BEGIN READ WRITE; ")
    assert end == b"ROLLBACK"


def test_a_setting_of_psycopg_costs_the_connection(session: Session) -> None:
    session.begin_read()
    with session.statement() as connection:
        connection.row_factory = dict_row
    assert not session.reset()


def test_a_failed_reset_costs_the_connection(
    session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    session.begin_write()
    execute(session, "SELECT pg_backend_pid()")
    session._connection.pgconn.finish()
    assert not session.reset()
    assert "reset failed" in caplog.text


def test_commit_of_a_failed_transaction_is_read_by_its_tag(session: Session) -> None:
    session.begin_write()
    with pytest.raises(psycopg.errors.DivisionByZero):
        execute(session, "SELECT 1/0")
    with pytest.raises(Aborted, match="division by zero") as caught:
        session.commit()  # PostgreSQL answers ROLLBACK, without an error
    assert caught.value.sqlstate == "22012"
    assert session.reset()


def test_an_error_that_comes_with_commit_is_a_rollback(
    session: Session, admin: psycopg.Connection[Any]
) -> None:
    admin.execute(
        "CREATE TABLE part (item int REFERENCES item DEFERRABLE INITIALLY DEFERRED)"
    )
    session.begin_write()
    execute(session, "INSERT INTO part VALUES (99)")
    session.verify()
    with pytest.raises(FalconError) as caught:
        session.commit()
    assert caught.value.code is Code.UNKNOWN
    assert caught.value.sqlstate == "23503"
    assert caught.value.details is not None
    assert caught.value.details["table"] == "part"
    assert "(99)" not in caught.value.message  # DETAIL stays here
    assert session.reset()


def test_a_warning_of_a_deferred_trigger_is_no_doubt(
    session: Session, admin: psycopg.Connection[Any]
) -> None:
    admin.execute(
        "CREATE FUNCTION warn() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE WARNING 'look'; RETURN NULL; END $$;"
        "CREATE CONSTRAINT TRIGGER late AFTER INSERT ON item"
        " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION warn()"
    )
    write(session, 1)
    session.commit()
    assert [notice.text for notice in session.notices] == ["look"]


def cancel_sync_waits(
    admin: psycopg.Connection[Any], pid: int, thread: threading.Thread
) -> bool:
    """While `thread` runs, cancel each wait of backend `pid` for the standby."""
    cancelled = False
    while thread.is_alive():
        cancelled |= bool(
            admin.execute(
                "SELECT pg_cancel_backend(pid) FROM pg_stat_activity"
                " WHERE pid = %s AND wait_event = 'SyncRep'",
                (pid,),
            ).fetchall()
        )
    return cancelled


@pytest.fixture
def ghost_standby(admin: psycopg.Connection[Any], database: str) -> Iterator[None]:
    """A synchronous standby that never answers."""
    admin.execute("CREATE TABLE probe ()")
    admin.execute("SET synchronous_commit = local")
    admin.execute("ALTER SYSTEM SET synchronous_standby_names = 'ghost'")
    admin.execute("SELECT pg_reload_conf()")
    try:
        with psycopg.connect(database, autocommit=True) as probe:
            waited = False
            while not waited:  # until the server has noticed
                insert = threading.Thread(
                    target=probe.execute, args=("INSERT INTO probe DEFAULT VALUES",)
                )
                insert.start()
                waited = cancel_sync_waits(admin, probe.info.backend_pid, insert)
        yield
    finally:
        admin.execute("ALTER SYSTEM RESET synchronous_standby_names")
        admin.execute("SELECT pg_reload_conf()")


@pytest.mark.usefixtures("ghost_standby")
@pytest.mark.parametrize("level", ["notice", "error"])
def test_cancelled_synchronous_replication_is_an_unknown_outcome(
    session: Session, admin: psycopg.Connection[Any], level: str
) -> None:
    session.begin_write()
    execute(session, f"SET client_min_messages = {level}")
    execute(session, "INSERT INTO item VALUES (1)")
    session.verify()
    caught: list[FalconError] = []

    def commit() -> None:
        try:
            session.commit()
        except FalconError as error:
            caught.append(error)

    thread = threading.Thread(target=commit)
    thread.start()
    assert cancel_sync_waits(admin, session._connection.info.backend_pid, thread)
    (error,) = caught
    assert "synchronous replication" in error.message
    assert (error.code, error.started) == (Code.UNAVAILABLE, Started.UNKNOWN)
    assert not error.retry_safe
    assert session.reset()
    assert items(admin) == [1]


def test_a_commit_that_libpq_gave_up_is_an_unknown_outcome(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(session, 1)
    empty = session._pgconn.make_empty_result(pq.ExecStatus.FATAL_ERROR)

    class Gone:
        status = pq.ConnStatus.OK
        socket = session.fileno()
        answers = iter([empty, None])
        send_query = staticmethod(lambda _sql: None)
        flush = is_busy = consume_input = staticmethod(lambda: 0)
        get_result = staticmethod(lambda: next(Gone.answers))

    monkeypatch.setattr(session, "_pgconn", Gone())
    with pytest.raises(Unavailable, match="lost in COMMIT") as caught:
        session.commit()
    assert caught.value.started is Started.UNKNOWN
    assert not session.sound


@pytest.mark.parametrize(
    "sql", ["COMMIT AND CHAIN", "ROLLBACK AND CHAIN", "COMMIT; BEGIN"]
)
def test_a_transaction_that_is_not_ours_is_not_committed(
    session: Session, admin: psycopg.Connection[Any], sql: str
) -> None:
    write(session, 1)
    session._pgconn.exec_(sql.encode())  # nobody sees its tags
    execute(session, "INSERT INTO item VALUES (2)")
    session.verify()
    with pytest.raises(FalconError, match="ended its transaction itself") as caught:
        session.commit()
    assert caught.value.started is Started.UNKNOWN
    assert session.reset()
    assert items(admin) == ([] if "ROLLBACK" in sql else [1])


def test_a_mark_outlives_settings_and_savepoints(
    session: Session, admin: psycopg.Connection[Any]
) -> None:
    write(session, 1)
    for sql in (
        "RESET ALL",
        "SET search_path = ''",
        "SAVEPOINT s",
        "RESET ALL",
        "ROLLBACK TO s",
    ):
        execute(session, sql)
    session.verify()
    session.commit()
    assert session.reset()
    session.begin_write()
    execute(session, "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
    execute(session, "INSERT INTO public.item VALUES (2)")
    session.verify()
    session.commit()
    assert items(admin) == [1, 2]


def test_a_reset_does_not_mark_a_transaction_that_is_not_ours(
    session: Session,
) -> None:
    write(session, 1)
    execute(session, "ROLLBACK AND CHAIN")
    execute(session, "RESET ALL")
    session.verify()
    with pytest.raises(FalconError, match="ended its transaction itself"):
        session.commit()
    assert session.reset()


class Proxy:
    """A TCP proxy that cuts the connection at COMMIT, before or after the server."""

    def __init__(self, port: int, *, deliver: bool) -> None:
        self._target = port
        self._deliver = deliver
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        client, _ = self._listener.accept()
        with client, socket.create_connection(("127.0.0.1", self._target)) as server:
            back = threading.Thread(target=self._answers, args=(server, client))
            back.start()
            while data := client.recv(65536):
                if b"; COMMIT; " in data:
                    if self._deliver:
                        self.cut = True
                        server.sendall(data)
                        back.join()
                    break
                server.sendall(data)
            client.shutdown(socket.SHUT_RDWR)
            server.shutdown(socket.SHUT_RDWR)
            back.join()

    cut = False

    def _answers(self, server: socket.socket, client: socket.socket) -> None:
        while (data := server.recv(65536)) and not self.cut:
            client.sendall(data)


@pytest.mark.parametrize("deliver", [True, False])
def test_a_connection_lost_in_commit_is_an_unknown_outcome(
    postgres: EmbeddedPostgres,
    database: str,
    admin: psycopg.Connection[Any],
    deliver: bool,
) -> None:
    known = conninfo_to_dict(database)
    dsn = conninfo_to_dict(postgres.dsn(str(known["dbname"]), tcp=True))
    port = int(str(dsn["port"]))
    with Proxy(port, deliver=deliver) as proxy:
        through = make_conninfo(
            "", **(dsn | {"port": proxy.port, "sslmode": "disable"})
        )
        with closing(Session.connect(through)) as session:
            write(session, 1)
            with pytest.raises(Unavailable, match="lost in COMMIT") as caught:
                session.commit()
            assert caught.value.started is Started.UNKNOWN
            assert not caught.value.retry_safe
            assert not session.reset()
    assert items(admin) == ([1] if deliver else [])


def test_a_terminated_backend_is_found_while_idle(
    session: Session, admin: psycopg.Connection[Any]
) -> None:
    assert session.check()
    pid = session._connection.info.backend_pid
    admin.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))
    assert not session.check()
    assert not session.sound


def test_a_write_that_cannot_begin_was_not_started(
    session: Session, admin: psycopg.Connection[Any]
) -> None:
    pid = session._connection.info.backend_pid
    admin.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))
    with pytest.raises(SessionLost):
        session.begin_write()
    assert not session.reset()


def test_a_read_begins_with_its_first_statement(session: Session) -> None:
    session.begin_read()
    with session.statement(JOINED) as connection:
        cursor = connection.execute("SHOW transaction_isolation")
    assert cursor.fetchall() == [("repeatable read",)]
    assert execute(session, "SHOW transaction_read_only") == [("on",)]
    session.verify()
    assert session.reset()


def test_a_read_without_snapshot_is_read_only_too(
    session: Session, admin: psycopg.Connection[Any]
) -> None:
    session.begin_read(snapshot=False)
    count = "SELECT count(*) FROM item"
    assert execute(session, count) == [(0,)]
    admin.execute("INSERT INTO item VALUES (1)")
    assert execute(session, count) == [(1,)]
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        execute(session, "INSERT INTO item VALUES (2)")
    session.verify()
    assert session.reset()
    write(session, 3)
    session.commit()


def test_an_open_transaction_of_a_read_without_snapshot_is_an_error(
    session: Session,
) -> None:
    session.begin_read(snapshot=False)
    session._pgconn.exec_(b"BEGIN")
    with pytest.raises(FalconError, match="left a transaction open"):
        session.verify()
    assert session.reset()


def test_a_running_statement_is_cancelled_and_costs_the_connection(
    session: Session, admin: psycopg.Connection[Any]
) -> None:
    session.begin_read()
    execute(session, "SELECT 1")
    pid = session._connection.info.backend_pid
    session._pgconn.send_query(b"SELECT pg_sleep(60)")
    with pytest.raises(FalconError, match="left a statement"):
        session.verify()
    assert not session.reset()
    alive = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s AND state = 'active'"
    while admin.execute(alive, (pid,)).fetchone() != (0,):
        pass


def test_pipeline_mode_left_on_costs_the_connection(session: Session) -> None:
    session.begin_read()
    with session.statement() as connection:
        connection.pgconn.enter_pipeline_mode()
    with pytest.raises(FalconError, match="left a statement"):
        session.verify()
    assert not session.reset()


def test_notifications_do_not_pile_up(session: Session) -> None:
    session.begin_write()
    execute(session, "LISTEN news")
    execute(session, "NOTIFY news, 'x'")
    session.commit()
    assert session.reset()
    session.begin_read()
    execute(session, "SELECT 1")  # psycopg looks at notifications now
    assert not session._connection._notifies_backlog


def test_a_server_that_is_not_there_is_one_clear_line(
    postgres: EmbeddedPostgres,
) -> None:
    with pytest.raises(ConnectFailed, match="does not exist") as caught:
        Session.connect(f"{postgres.dsn('nowhere')} password=s3cret")
    assert "s3cret" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.__context__ is None
    with pytest.raises(InvalidDsn):
        Session.connect("nonsense")

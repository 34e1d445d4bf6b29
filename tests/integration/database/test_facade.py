from __future__ import annotations

import threading
from contextlib import closing
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row, scalar_row

from falconas.database.blocks import Lease
from falconas.database.facade import Database
from falconas.database.session import Session
from falconas.errors import ScriptError, Started

if TYPE_CHECKING:
    from collections.abc import Iterator

    from falconas.database.embedded import EmbeddedPostgres


@pytest.fixture(scope="module")
def database(postgres: EmbeddedPostgres) -> Iterator[str]:
    yield postgres.create_database("facade")
    postgres.drop_database("facade")


@pytest.fixture
def session(database: str) -> Iterator[Session]:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        connection.execute("CREATE TABLE item (id int PRIMARY KEY, name text)")
    with closing(Session.connect(database)) as session:
        yield session


@pytest.fixture
def db(session: Session) -> Database:
    session.begin_write()
    return Database(Lease(session))


@pytest.fixture
def reading(session: Session) -> Database:
    session.begin_read()
    return Database(Lease(session))


def test_rows_come_as_psycopg_gives_them(db: Database) -> None:
    db.executemany("INSERT INTO item VALUES (%s, %s)", [(1, "a"), (2, None)])
    query = "SELECT id, name FROM item ORDER BY id"
    assert db.execute(query).fetchall() == [(1, "a"), (2, None)]
    assert db.execute(query, row_factory=dict_row).fetchone() == {"id": 1, "name": "a"}
    names = "SELECT name FROM item ORDER BY id DESC"
    assert list(db.execute(names, row_factory=scalar_row)) == [None, "a"]
    cursor = db.execute(query)
    assert cursor.fetchone() == (1, "a")
    assert cursor.fetchmany(5) == [(2, None)]
    cursor.scroll(0, "absolute")
    assert next(cursor) == (1, "a")
    assert [column.name for column in cursor.description or []] == ["id", "name"]
    assert (cursor.rowcount, cursor.statusmessage) == (2, "SELECT 2")


FIRST: dict[str, tuple[Any, Any]] = {
    "parameters": ("SELECT %s + 1", (1,)),
    "none": ("SELECT 2", None),
    "composed": (sql.SQL("SELECT {}").format(sql.Literal(2)), None),
    "bytes": (b"SELECT 2", None),
    "semicolon": ("SELECT 2;", None),
}


@pytest.mark.parametrize("kind", FIRST)
def test_the_first_statement_of_a_read_begins_its_snapshot(
    reading: Database, session: Session, kind: str
) -> None:
    query, params = FIRST[kind]
    assert reading.execute(query, params).fetchall() == [(2,)]
    isolation = reading.execute("SHOW transaction_isolation").fetchone()
    assert isolation == ("repeatable read",)
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        reading.execute("INSERT INTO item VALUES (1)")
    assert session.reset()


def test_several_statements_in_one_string_work_also_as_the_first(
    reading: Database, session: Session
) -> None:
    cursor = reading.execute("SELECT 1; SELECT 2, 3")
    assert [result.fetchall() for result in cursor.results()] == [[(1,)], [(2, 3)]]
    cursor = reading.execute("SELECT 1; SELECT 2")
    assert cursor.fetchall() == [(1,)]
    assert cursor.nextset()
    assert cursor.fetchall() == [(2,)]
    session.verify()
    assert session.reset()


@pytest.mark.parametrize(
    ("query", "params", "error"),
    [
        ("SELEC 1", None, psycopg.errors.SyntaxError),
        ("SELECT 1/%s", (0,), psycopg.errors.DivisionByZero),
        ("SELECT %s, %s", (1,), psycopg.ProgrammingError),
        ("SELECT %s", (object(),), psycopg.ProgrammingError),
        ("COPY item TO STDOUT", None, psycopg.ProgrammingError),
        ("SELECT 1; SELECT 1/0", None, psycopg.errors.DivisionByZero),
    ],
)
def test_a_first_statement_that_fails_says_its_own_error(
    reading: Database, query: str, params: Any, error: type[Exception]
) -> None:
    with pytest.raises(error):
        reading.execute(query, params)


def test_a_savepoint_undoes_its_part_alone(db: Database, session: Session) -> None:
    db.execute("INSERT INTO item VALUES (1)")
    with pytest.raises(psycopg.errors.UniqueViolation), db.transaction():  # noqa: PT012
        db.execute("INSERT INTO item VALUES (2)")
        db.execute("INSERT INTO item VALUES (1)")
    with db.transaction() as savepoint:
        db.execute("INSERT INTO item VALUES (3)")
        raise psycopg.Rollback(savepoint)
    with db.transaction(force_rollback=True):
        db.execute("INSERT INTO item VALUES (4)")
    with db.transaction():
        db.execute("INSERT INTO item VALUES (5)")
    rows = db.execute("SELECT id FROM item ORDER BY id").fetchall()
    assert rows == [(1,), (5,)]
    session.verify()


def test_savepoints_in_sql_are_fine(db: Database, session: Session) -> None:
    db.execute("SAVEPOINT a")
    db.execute("ROLLBACK TO a")
    db.execute("ROLLBACK TO SAVEPOINT a; RELEASE a")
    session.verify()


@pytest.mark.parametrize(
    ("query", "started"),
    [
        ("COMMIT", Started.UNKNOWN),
        ("END", Started.UNKNOWN),
        ("INSERT INTO item VALUES (7); COMMIT; BEGIN", Started.UNKNOWN),
        ("COMMIT; SELECT 1/0", Started.UNKNOWN),
        ("ROLLBACK", Started.YES),
        ("ABORT", Started.YES),
        ("BEGIN", Started.YES),
        ("START TRANSACTION", Started.YES),
    ],
)
def test_a_script_that_ends_its_transaction_hears_so_and_can_go_no_further(
    db: Database, session: Session, query: str, started: Started
) -> None:
    with pytest.raises((ScriptError, psycopg.errors.DivisionByZero)):
        db.execute(query)
    with pytest.raises(ScriptError):  # what follows would not be undone
        db.execute("INSERT INTO item VALUES (8)")
    with pytest.raises(ScriptError) as caught:
        session.verify()
    assert caught.value.started is started
    assert session.reset()
    session.begin_read()
    rows = Database(Lease(session)).execute("SELECT id FROM item WHERE id = 8")
    assert rows.fetchall() == []


def test_streams_arrive_row_by_row_and_nothing_else_runs(db: Database) -> None:
    query = "SELECT generate_series(1, %s)"
    stream = db.stream(query, (1000,))
    assert next(stream) == (1,)
    with pytest.raises(psycopg.ProgrammingError, match="another statement"):
        db.execute("SELECT 1")
    stream.close()  # type: ignore[attr-defined]
    assert len(list(db.stream(query, (10,), size=4))) == 10


def test_copy_goes_both_ways(db: Database) -> None:
    with db.copy("COPY item FROM STDIN") as copy:
        copy.write_row((1, "a"))
        copy.write("2\tb\n")
    with db.copy("COPY (SELECT * FROM item ORDER BY id) TO STDOUT") as copy:
        copy.set_types(["int4", "text"])
        assert list(copy.rows()) == [(1, "a"), (2, "b")]
    with db.copy("COPY (SELECT 1, 'a') TO STDOUT") as copy:
        assert b"".join(bytes(block) for block in copy) == b"1\ta\n"


def test_executemany_can_return_rows(db: Database) -> None:
    with db.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO item VALUES (%s) RETURNING id", [(1,), (2,)], returning=True
        )
        assert [result.fetchone() for result in cursor.results()] == [(1,), (2,)]


def test_there_is_no_way_to_the_connection(db: Database) -> None:
    for name in ("commit", "rollback", "close", "connection", "autocommit"):
        assert not hasattr(db, name)
    cursor = db.execute("SELECT 1")
    with db.transaction() as savepoint:
        for handle in (cursor, savepoint):
            with pytest.raises(AttributeError, match="no connection"):
                _ = handle.connection
    assert cursor.adapters is not None


def test_after_the_request_nothing_can_be_used(session: Session) -> None:
    lease = Lease(session)
    session.begin_write()
    db = Database(lease)
    cursor = db.execute("SELECT 1")
    lease.end()
    with pytest.raises(psycopg.InterfaceError, match="has ended"):
        db.execute("SELECT 1")
    with pytest.raises(psycopg.InterfaceError, match="has ended"):
        cursor.fetchall()
    with pytest.raises(psycopg.InterfaceError, match="has ended"):
        cursor.execute("SELECT 1")
    cursor.close()


def test_a_cursor_without_a_result_says_so(db: Database) -> None:
    cursor = db.cursor()
    assert (cursor.rowcount, cursor.statusmessage) == (-1, None)
    with pytest.raises(psycopg.ProgrammingError, match="no result"):
        cursor.fetchone()


def test_a_thread_cannot_use_the_connection_beside_the_script(db: Database) -> None:
    seen: list[BaseException] = []

    def other() -> None:
        try:
            db.execute("SELECT 1")
        except psycopg.Error as error:
            seen.append(error)

    stream = db.stream("SELECT generate_series(1, 5)")
    next(stream)
    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    stream.close()  # type: ignore[attr-defined]
    assert len(seen) == 1


def test_a_cursor_may_change_what_it_makes_of_rows(reading: Database) -> None:
    cursor: Any = reading.cursor()
    assert cursor.description is None
    cursor.row_factory = dict_row
    cursor.arraysize = 2
    cursor.execute("SELECT generate_series(1, 4) AS a")
    assert cursor.fetchmany() == [{"a": 1}, {"a": 2}]
    cursor.row_factory = scalar_row
    assert cursor.fetchone() == 3
    assert (cursor.row_factory, cursor.arraysize) == (scalar_row, 2)


@pytest.mark.parametrize("name", ["row_factory", "autocommit", "anything"])
def test_what_would_be_of_no_effect_cannot_be_set(reading: Database, name: str) -> None:
    with pytest.raises(AttributeError, match=name):
        setattr(reading, name, dict_row)
    with pytest.raises(AttributeError, match="anything"):
        reading.cursor().anything = 1  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("commit", "committed when it returns"),
        ("rollback", "rolled back when it raises"),
        ("row_factory", "give `row_factory` to"),
        ("autocommit", "the connection is the worker's"),
        ("anything", "ctx.db has no anything"),
    ],
)
def test_what_it_lacks_is_told(reading: Database, name: str, instead: str) -> None:
    with pytest.raises(AttributeError, match=instead):
        getattr(reading, name)


def test_rows_that_are_left_are_refused_when_the_request_has_ended(
    session: Session,
) -> None:
    session.begin_read()
    lease = Lease(session)
    cursor = Database(lease).execute("SELECT generate_series(1, 3)")
    assert cursor.fetchone() == (1,)
    lease.end()
    for fetch in (cursor.fetchone, cursor.fetchmany, cursor.fetchall):
        with pytest.raises(psycopg.InterfaceError, match="ended"):
            fetch()

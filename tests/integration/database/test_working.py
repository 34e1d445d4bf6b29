"""Pipelines of a script: its transaction is watched as ever, only later."""

from __future__ import annotations

from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from falconas.database.blocks import Lease
from falconas.database.facade import Database
from falconas.database.session import Session
from falconas.errors import Aborted, ScriptError, Started, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from falconas.database.embedded import EmbeddedPostgres


@pytest.fixture(scope="module")
def database(postgres: EmbeddedPostgres) -> Iterator[str]:
    yield postgres.create_database("working")
    postgres.drop_database("working")


@pytest.fixture
def admin(database: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS item")
        connection.execute("CREATE TABLE item (id int PRIMARY KEY)")
        yield connection


@pytest.fixture
def session(database: str, admin: psycopg.Connection[Any]) -> Iterator[Session]:
    with closing(Session.connect(database)) as session:
        yield session


@pytest.fixture
def lease(session: Session) -> Lease:
    session.begin_write()
    return Lease(session)


@pytest.fixture
def db(lease: Lease) -> Database:
    return Database(lease)


INSERT = "INSERT INTO item VALUES (%s)"


def piped(db: Database, *statements: str) -> None:
    with db.pipeline():
        for each in statements:
            db.execute(each)


def abandoned(lease: Lease, *statements: str) -> None:
    """Do as a script that is interrupted within its pipeline."""
    with Database(lease).pipeline():
        for each in statements:
            Database(lease).execute(each)
        lease.end()
        raise KeyboardInterrupt


def items(admin: psycopg.Connection[Any]) -> list[int]:
    return [row[0] for row in admin.execute("SELECT id FROM item ORDER BY id")]


def test_a_pipeline_sends_before_it_reads(session: Session, db: Database) -> None:
    with db.pipeline():
        first = db.execute("SELECT 1")
        assert session.connection.in_pipeline
        second = db.execute("SELECT 2")
        assert first.fetchone() == (1,)
    assert second.fetchall() == [(2,)]
    assert not session.connection.in_pipeline
    session.verify()
    session.commit()
    assert session.reset()


@pytest.mark.parametrize("snapshot", [True, False])
def test_a_read_may_begin_with_a_pipeline(session: Session, snapshot: bool) -> None:
    session.begin_read(snapshot=snapshot)
    db = Database(Lease(session))
    with db.pipeline():
        mode = db.execute("SHOW transaction_isolation")
        only = db.execute("SHOW transaction_read_only")
    assert mode.fetchone() == ("repeatable read" if snapshot else "read committed",)
    assert only.fetchone() == ("on",)
    session.verify()
    assert session.reset()


@pytest.mark.parametrize("sql", ["COMMIT", "ROLLBACK", "COMMIT AND CHAIN", "BEGIN"])
def test_the_end_of_a_transaction_is_seen_at_the_end(
    session: Session, db: Database, sql: str
) -> None:
    with pytest.raises(ScriptError, match="the script sent"):
        piped(db, "SELECT 1", sql, "SELECT 2")
    with pytest.raises(ScriptError):
        session.verify()
    assert session.reset()


def test_a_transaction_that_ended_before_an_error_is_doubtful(
    session: Session, db: Database, admin: psycopg.Connection[Any]
) -> None:
    db.execute(INSERT, [1])
    with pytest.raises(psycopg.errors.DivisionByZero):
        piped(db, "COMMIT AND CHAIN", "SELECT 1/0")
    assert items(admin) == [1]
    assert session.doubtful
    with pytest.raises(ScriptError) as caught:
        session.verify()
    assert caught.value.started is Started.UNKNOWN
    assert session.reset()


def test_an_error_in_a_pipeline_is_not_swallowed(
    session: Session, db: Database, admin: psycopg.Connection[Any]
) -> None:
    db.execute(INSERT, [1])
    with suppress(psycopg.Error):
        piped(db, "SELECT 1/0", "INSERT INTO item VALUES (2)")
    with pytest.raises(Aborted, match="division by zero"):
        session.verify()
    assert session.reset()
    assert items(admin) == []


def test_an_error_is_raised_where_rows_are_fetched(
    session: Session, db: Database
) -> None:
    with suppress(psycopg.Error), db.pipeline():
        failed = db.execute("SELECT 1/0")
        later = db.execute("SELECT 1")
        for cursor, error in (
            (failed, psycopg.errors.DivisionByZero),
            (later, psycopg.Error),
        ):
            with pytest.raises(error):
                cursor.fetchone()
    with pytest.raises(Aborted):
        session.verify()
    assert session.reset()


def test_savepoints_work_within(
    session: Session, db: Database, admin: psycopg.Connection[Any]
) -> None:
    with db.pipeline():
        with db.transaction():
            db.execute(INSERT, [1])
        with suppress(psycopg.errors.DivisionByZero), db.transaction():
            db.execute(INSERT, [2])
            db.execute("SELECT 1/0").fetchone()
        db.execute(INSERT, [3])
    session.verify()
    session.commit()
    assert session.reset()
    assert items(admin) == [1, 3]


def test_pipelines_may_be_nested(session: Session, db: Database) -> None:
    with db.pipeline():
        with db.pipeline():
            cursor = db.execute("SELECT 1")
        assert cursor.fetchone() == (1,)
        assert session.connection.in_pipeline
    session.verify()
    session.commit()
    assert session.reset()


def test_copy_and_streams_are_refused_within(session: Session, db: Database) -> None:
    with db.pipeline():
        with pytest.raises(psycopg.Error), db.copy("COPY item TO STDOUT"):
            pass
        with pytest.raises(psycopg.Error):
            next(db.stream("SELECT 1"))
        assert db.execute("SELECT 1").fetchone() == (1,)
    assert session.reset()


def test_a_mark_that_a_pipeline_wiped_away_is_set_again(
    session: Session, db: Database, admin: psycopg.Connection[Any]
) -> None:
    with db.pipeline():
        db.execute(INSERT, [1])
        db.execute("RESET ALL")
    session.verify()
    session.commit()
    assert items(admin) == [1]


def test_an_end_that_nobody_waits_for_leaves_it_open(
    session: Session, lease: Lease
) -> None:
    """As when the script is interrupted: answers may never come."""
    with pytest.raises(KeyboardInterrupt):
        abandoned(lease, "SELECT pg_sleep(3600)")
    session.interrupted()
    assert not session.reset()


def test_what_was_sent_unread_is_doubtful_when_it_is_interrupted(
    session: Session, lease: Lease
) -> None:
    with pytest.raises(KeyboardInterrupt):
        abandoned(lease, "COMMIT", "SELECT 1")
    session.interrupted()
    assert session.doubtful
    assert not session.reset()


def test_a_lost_connection_is_told(session: Session, db: Database) -> None:
    ends = "SELECT pg_terminate_backend(pg_backend_pid()), pg_sleep(3600)"
    with pytest.raises(psycopg.OperationalError):
        piped(db, ends, "SELECT 1")
    assert session.lost
    assert not session.reset()


def test_a_pipeline_left_open_is_no_end_of_a_transaction(session: Session) -> None:
    """All that was sent is answered, and the server said nothing of a transaction."""
    session.begin_read()
    db = Database(Lease(session))
    pipeline = db.pipeline()
    pipeline.__enter__()
    assert db.execute("SELECT 1").fetchone() == (1,)
    with pytest.raises(ScriptError, match="left a statement"):
        session.verify()
    assert not session.reset()


def test_a_begin_that_was_due_when_a_script_was_interrupted_is_forgotten(
    session: Session, admin: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    session.begin_read()
    with monkeypatch.context() as patch:
        patch.setattr(session, "_broke", interrupted)  # or just before the try
        patch.setattr(type(session.connection), "wait", interrupted)
        with pytest.raises(KeyboardInterrupt):
            Database(Lease(session)).execute("SELECT 1")
    session.interrupted()
    assert session.reset()

    session.begin_write()
    Database(Lease(session)).execute(INSERT, [1])
    session.verify()
    session.commit()
    assert items(admin) == [1]


@pytest.mark.parametrize("params", [None, (), {"unused": 1}])
def test_what_a_text_of_several_committed_before_an_error_is_doubtful(
    session: Session, db: Database, admin: psycopg.Connection[Any], params: Any
) -> None:
    text = "INSERT INTO item VALUES (1); COMMIT AND CHAIN; SELECT 1/0"
    with pytest.raises(psycopg.errors.DivisionByZero):
        db.execute(text, params)
    assert items(admin) == [1]
    assert session.doubtful
    assert session.reset()


def rolled_back(db: Database) -> None:
    db.execute("ROLLBACK; INSERT INTO item VALUES (7)")


def rolled_back_in_a_pipeline(db: Database) -> None:
    piped(db, "ROLLBACK", "INSERT INTO item VALUES (7)")


@pytest.mark.parametrize("access", ["read", "write"])
@pytest.mark.parametrize("script", [rolled_back, rolled_back_in_a_pipeline])
def test_what_ran_behind_a_rollback_may_be_committed(
    session: Session, admin: psycopg.Connection[Any], access: str, script: Any
) -> None:
    session.begin_read() if access == "read" else session.begin_write()
    with pytest.raises(ScriptError, match="what it did up to there may be") as caught:
        script(Database(Lease(session)))
    assert items(admin) == [7]
    assert caught.value.started is Started.UNKNOWN
    assert session.reset()


def test_a_rollback_alone_leaves_no_doubt(session: Session, db: Database) -> None:
    with pytest.raises(ScriptError) as caught:
        db.execute("ROLLBACK")
    assert caught.value.started is Started.YES
    assert session.reset()


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    "before",
    [
        ["SET TRANSACTION READ WRITE"],
        ["SELECT 1/0", "ROLLBACK AND CHAIN"],
    ],
)
def test_a_read_that_makes_itself_a_write_is_told_and_rolled_back(
    session: Session, admin: psycopg.Connection[Any], before: list[str], streamed: bool
) -> None:
    session.begin_read()
    db = Database(Lease(session))
    for statement in before:
        with suppress(psycopg.errors.DivisionByZero, psycopg.ProgrammingError):
            list(db.stream(statement)) if streamed else db.execute(statement)
    db.execute("INSERT INTO item VALUES (7)")
    with pytest.raises(ScriptError, match="declares access='write'"):
        session.verify()
    assert session.reset()
    assert items(admin) == []


@pytest.mark.parametrize(
    "statements",
    [["SET LOCAL work_mem = '1MB'"], ["SAVEPOINT a", "ROLLBACK TO SAVEPOINT a"]],
)
def test_a_read_may_change_what_its_transaction_lets_it(
    session: Session, statements: list[str]
) -> None:
    session.begin_read()
    for statement in statements:
        Database(Lease(session)).execute(statement)
    session.verify()
    assert session.reset()


def test_a_statement_whose_answer_was_read_is_not_unseen(
    session: Session, db: Database
) -> None:
    db.execute("/* not plain */ SELECT 1")
    assert not session._state.unseen
    assert session.reset()


def test_a_connection_that_is_lost_at_the_last_look_is_told(
    session: Session, admin: psycopg.Connection[Any]
) -> None:
    session.begin_read()
    Database(Lease(session)).execute("SET LOCAL work_mem = '1MB'")
    pid = session.connection.info.backend_pid
    admin.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
    with pytest.raises(Unavailable):
        session.verify()
    assert not session.reset()

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import pq

from falconas.database.connection import Connection
from falconas.database.transaction import BEGIN_READ

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from falconas.database.embedded import EmbeddedPostgres

SELECT = "SELECT %s::int"
STATUS = pq.TransactionStatus


@pytest.fixture
def trips(here: Connection, tmp_path: Path) -> Iterator[Any]:
    """Counts how often the server got to say that it is ready."""
    with (tmp_path / "trace").open("w+b") as file:

        def count() -> int:
            here.pgconn.untrace()  # libpq writes out what it has kept
            file.seek(0)
            found = file.read().count(b"\tReadyForQuery\t")
            file.seek(0)
            file.truncate()
            here.pgconn.trace(file.fileno())
            return found

        count()
        yield count
        here.pgconn.untrace()


def status(here: Connection) -> pq.TransactionStatus:
    return here.info.transaction_status


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("prepare", [None, True, False])
@pytest.mark.parametrize("binary", [None, True])
def test_a_begin_that_is_due_travels_with_the_statement(
    here: Connection,
    trips: Any,
    prepare: bool | None,
    binary: bool | None,
    known: bool,
) -> None:
    if known:
        here.execute(SELECT, [8], prepare=True)
        trips()
    here.due = BEGIN_READ

    cursor = here.cursor().execute(SELECT, [7], prepare=prepare, binary=binary)

    assert trips() == 1
    assert cursor.fetchall() == [(7,)]
    assert (cursor.rowcount, cursor.statusmessage) == (1, "SELECT 1")
    assert here.due is None
    assert status(here) is STATUS.INTRANS
    assert here.pgconn.pipeline_status == pq.PipelineStatus.OFF
    mode = here.execute("SHOW transaction_isolation").fetchone()
    assert mode == ("repeatable read",)


def test_a_statement_is_prepared_and_run_in_one_round_trip(
    here: Connection, trips: Any
) -> None:
    for _ in range(2):
        assert here.execute(SELECT, [7], prepare=True).fetchall() == [(7,)]
        assert trips() == 1
    names = here.execute("SELECT count(*) FROM pg_prepared_statements").fetchone()
    assert names == (1,)


@pytest.mark.parametrize("prepare", [None, True])
def test_an_error_is_that_of_the_statement(
    here: Connection, prepare: bool | None
) -> None:
    here.due = BEGIN_READ
    with pytest.raises(psycopg.errors.DivisionByZero):
        here.execute("SELECT 1 / %s::int", [0], prepare=prepare)
    assert status(here) is STATUS.INERROR
    here.rollback()
    assert here.execute("SELECT 1 / %s::int", [1], prepare=prepare).fetchone() == (1,)


def test_an_error_in_preparing_is_told_and_forgotten(here: Connection) -> None:
    for _ in range(2):
        here.due = BEGIN_READ
        with pytest.raises(psycopg.errors.UndefinedTable):
            here.execute("SELECT * FROM nowhere", prepare=True)
        here.rollback()
    assert here.execute(SELECT, [1], prepare=True).fetchone() == (1,)


def test_an_error_in_begin_is_told(here: Connection) -> None:
    here.due = b"BEGIN ISOLATION LEVEL NONE"
    with pytest.raises(psycopg.errors.SyntaxError):
        here.execute(SELECT, [1])
    assert status(here) is STATUS.IDLE
    assert here.execute(SELECT, [1]).fetchone() == (1,)


def test_what_cannot_be_sent_leaves_the_begin_due(here: Connection) -> None:
    here.due = BEGIN_READ
    with pytest.raises(psycopg.ProgrammingError, match="placeholder"):
        here.execute("SELECT %s", [1, 2])
    assert here.due is BEGIN_READ
    assert status(here) is STATUS.IDLE


def test_a_copy_costs_the_connection_and_hangs_nobody(here: Connection) -> None:
    here.due = BEGIN_READ
    with pytest.raises(psycopg.Error):
        here.execute("COPY (SELECT 1) TO STDOUT")
    assert here.pgconn.pipeline_status != pq.PipelineStatus.OFF


def test_the_server_says_why_it_ended_the_connection(
    here: Connection, postgres: EmbeddedPostgres
) -> None:
    here.due = BEGIN_READ
    with pytest.raises(psycopg.errors.AdminShutdown):
        here.execute("SELECT pg_terminate_backend(pg_backend_pid()), pg_sleep(60)")
    assert here.closed


def test_tags_that_say_something_are_noted(here: Connection) -> None:
    here.execute("CREATE TEMP TABLE item (id int)")
    here.execute("INSERT INTO item VALUES (1); UPDATE item SET id = 2; SELECT 1")
    assert here.seen == ["CREATE TABLE"]
    here.seen.clear()
    here.execute("SELECT 1; SET work_mem = '9MB'; SELECT 2 INTO TEMP other; COMMIT")
    assert here.seen == ["SET", "SELECT INTO", "COMMIT"]
    here.seen.clear()
    here.execute("EXPLAIN ANALYZE CREATE TEMP TABLE more AS SELECT 1")
    assert here.seen == ["EXPLAIN"]


def test_a_begin_that_is_due_is_the_first_of_a_pipeline(
    here: Connection, trips: Any
) -> None:
    here.due = BEGIN_READ
    here.enter_pipeline()
    cursors = [here.execute(SELECT, [number]) for number in range(3)]
    here.leave_pipeline(None)

    assert trips() == 1
    assert [cursor.fetchall() for cursor in cursors] == [[(0,)], [(1,)], [(2,)]]
    assert status(here) is STATUS.INTRANS


def test_many_begin_with_the_first_of_them(here: Connection, trips: Any) -> None:
    here.due = BEGIN_READ
    here.cursor().executemany(SELECT, [[1], [2]])
    assert trips() == 1
    assert status(here) is STATUS.INTRANS


def test_statements_that_are_not_used_are_given_up(here: Connection) -> None:
    here.prepared_max = 2
    for number in range(5):
        here.execute(f"SELECT {number}", prepare=True)
    names = here.execute("SELECT count(*) FROM pg_prepared_statements").fetchone()
    assert names == (2,)


def test_a_closed_cursor_runs_nothing(here: Connection) -> None:
    cursor = here.cursor()
    cursor.close()
    with pytest.raises(psycopg.InterfaceError, match="closed"):
        cursor.execute("SELECT 1")


def test_whatever_is_true_asks_for_binary_answers(here: Connection) -> None:
    binary: Any = 2
    for _ in range(2):
        cursor = here.cursor().execute(SELECT, [7], prepare=True, binary=binary)
        assert cursor.fetchone() == (7,)
        assert cursor.pgresult
        assert cursor.pgresult.fformat(0) == 1


@pytest.mark.parametrize(("prepare", "uses"), [(None, 2), (True, 2), (False, 1)])
def test_what_is_prepared_can_be_left_aside(
    here: Connection, prepare: bool | None, uses: int
) -> None:
    here.execute(SELECT, [7], prepare=True)
    here.execute(SELECT, [7], prepare=prepare)
    counts = (
        "SELECT generic_plans + custom_plans FROM pg_prepared_statements"
        " WHERE statement LIKE %s"
    )
    assert here.execute(counts, ["SELECT $1::int"]).fetchone() == (uses,)

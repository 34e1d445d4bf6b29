from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg.waiting import Ready

from falconas.database.connection import Connection
from falconas.database.pipeline import BATCH

if TYPE_CHECKING:
    from collections.abc import Iterator

    from falconas.database.embedded import EmbeddedPostgres


@pytest.fixture
def other(postgres: EmbeddedPostgres) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(postgres.dsn(), autocommit=True) as connection:
        yield connection


def lock(here: Connection) -> psycopg.Cursor[Any]:
    """Have a lock taken, which others see."""
    query = "SELECT pg_advisory_lock_shared(%s)"
    return here.execute(query, [here.info.backend_pid], prepare=False)


def is_locked(here: Connection, other: psycopg.Connection[Any]) -> bool:
    query = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND pid = %s"
    return other.execute(query, [here.info.backend_pid]).fetchone() is not None


def test_statements_are_sent_in_batches(
    here: Connection, other: psycopg.Connection[Any]
) -> None:
    with here.pipeline():
        for _ in range(BATCH - 1):
            lock(here)
        here.pgconn.flush()  # what libpq has
        assert not is_locked(here, other)
        lock(here)
        while not is_locked(here, other):
            other.execute("SELECT pg_sleep(0.01)")


def test_a_batch_is_flushed_at_once(here: Connection) -> None:
    """psycopg has its turn at the socket for each command."""
    with here.pipeline() as pipeline:
        for _ in range(BATCH - 1):
            lock(here)
        sending, turns = pipeline._send_gen(), 1
        next(sending)
        with suppress(StopIteration):
            while True:
                sending.send(Ready.W)
                turns += 1
        assert turns < 4


def test_whoever_wants_an_answer_has_all_sent(
    here: Connection, other: psycopg.Connection[Any]
) -> None:
    with here.pipeline():
        first, last = lock(here), here.execute("SELECT 7")
        assert last.fetchone() == (7,)
        assert first.fetchone() == ("",)
        assert is_locked(here, other)


def test_what_was_not_sent_yet_is_sent_at_the_end(here: Connection) -> None:
    here.execute("CREATE TEMP TABLE item (id int)")
    with here.pipeline():
        for number in range(2 * BATCH + 3):
            here.execute("INSERT INTO item VALUES (%s)", [number])
    assert here.execute("SELECT count(*) FROM item").fetchone() == (2 * BATCH + 3,)


def test_after_an_error_all_that_came_is_read(here: Connection) -> None:
    def work() -> None:
        with here.pipeline():
            for number in range(3 * BATCH):
                here.execute("SELECT 1 / %s", [number - BATCH])

    with pytest.raises(psycopg.errors.DivisionByZero):
        work()
    assert here.execute("SELECT 7").fetchone() == (7,)


@pytest.mark.parametrize("many", [False, True])
def test_much_to_send_and_much_to_read_block_nobody(
    here: Connection, many: bool
) -> None:
    texts = [chr(97 + number % 26) * 200_000 for number in range(6 * BATCH)]
    if many:
        cursor = here.cursor()
        cursor.executemany("SELECT %s", [[text] for text in texts], returning=True)
        found = [result.fetchall() for result in cursor.results()]
    else:
        with here.pipeline():
            cursors = [here.execute("SELECT %s", [text]) for text in texts]
        found = [each.fetchall() for each in cursors]
    assert found == [[(text,)] for text in texts]


def test_a_pipeline_within_another_waits_for_what_came_before(
    here: Connection, other: psycopg.Connection[Any]
) -> None:
    with here.pipeline():
        lock(here)
        with here.pipeline():
            assert is_locked(here, other)


def test_an_error_says_which_statement_it_was(here: Connection) -> None:
    def work() -> None:
        with here.pipeline():
            for divisor in (1, 0, 1):
                here.execute("SELECT 1 /\n    %s", [divisor])

    with pytest.raises(psycopg.errors.DivisionByZero) as caught:
        work()
    assert caught.value.__notes__ == ["in a pipeline, by: SELECT 1 / $1"]
    assert "pipeline" not in str(caught.value)  # which the caller gets


LARGE = "x" * 200_000


@pytest.mark.parametrize("within", ["pipeline", "transaction", "sync"])
@pytest.mark.parametrize("texts", [[LARGE] * 5, [LARGE * 100]], ids=["many", "one"])
def test_much_that_is_unsent_blocks_nobody_who_waits_for_it(
    here: Connection, within: str, texts: list[str]
) -> None:
    with here.pipeline() as pipeline:
        for text in texts:
            last = here.execute("SELECT length(%s)", [text])
        if within == "sync":
            pipeline.sync()
        else:
            with getattr(here, within)():
                here.execute("SELECT 1")
    assert last.fetchone() == (len(texts[-1]),)


@pytest.mark.parametrize("many", [False, True])
def test_large_parameters_are_sent_at_once(here: Connection, many: bool) -> None:
    """Else they are in memory, and libpq moves them each time that it sends some."""
    waiting = []

    def params() -> Iterator[list[str]]:
        for _ in range(4):
            waiting.append(len(here._pipeline.command_queue) if here._pipeline else 0)
            yield [LARGE]

    if many:
        here.cursor().executemany("SELECT length(%s)", params())
    else:
        with here.pipeline():
            for each in params():
                here.execute("SELECT length(%s)", each)
    assert max(waiting) == 0


def test_answers_keep_no_parameters(here: Connection) -> None:
    with here.pipeline() as pipeline:
        here.execute("SELECT length(%s)", [LARGE])
        (answered,) = pipeline.result_queue
        kept: Any = answered
        assert len(repr(kept.args)) < 1000


def test_what_cannot_be_sent_is_told_at_once_and_harms_nobody(here: Connection) -> None:
    here.execute("CREATE TEMP TABLE item (id int)")
    many = "SELECT " + "+".join(["%s"] * 70_000)
    with here.pipeline():
        before = here.execute("INSERT INTO item VALUES (1)")
        with pytest.raises(psycopg.OperationalError, match="between 0 and 65535"):
            here.execute(many, [1] * 70_000)
        after = here.execute("INSERT INTO item VALUES (2)")
    assert (before.rowcount, after.rowcount) == (1, 1)
    here.due = b"BEGIN"
    with pytest.raises(psycopg.OperationalError, match="between 0 and 65535"):
        here.execute(many, [1] * 70_000)
    assert here.execute("SELECT count(*) FROM item").fetchone() == (2,)
    with pytest.raises(psycopg.OperationalError, match="between 0 and 65535"):
        here.cursor().executemany(many, [[1] * 70_000])
    assert here.execute("SELECT count(*) FROM item").fetchone() == (2,)


def test_one_that_fails_to_be_sent_keeps_no_other_from_it(here: Connection) -> None:
    def fail() -> None:
        raise psycopg.OperationalError("cannot be sent")

    def work() -> None:
        with here.pipeline() as pipeline:
            pipeline.command_queue.append(fail)
            here.execute("INSERT INTO item VALUES (1)")

    here.execute("CREATE TEMP TABLE item (id int)")
    with pytest.raises(psycopg.OperationalError, match="cannot be sent"):
        work()
    assert here.execute("SELECT count(*) FROM item").fetchone() == (1,)


def test_a_lost_connection_ends_it(
    here: Connection, other: psycopg.Connection[Any]
) -> None:
    def work() -> None:
        with here.pipeline():
            here.execute("SELECT 1")
            end = "SELECT pg_terminate_backend(%s, 20000)"
            assert other.execute(end, [here.info.backend_pid]).fetchone() == (True,)

    with pytest.raises(psycopg.OperationalError):
        work()


def test_where_nothing_can_be_sent_nobody_waits_for_ever(here: Connection) -> None:
    def work() -> None:
        with here.pipeline() as pipeline:
            here.execute("SELECT 1")
            pipeline._send_gen = fail  # type: ignore[assignment]

    def fail() -> Iterator[Any]:
        raise psycopg.OperationalError("no connection")
        yield

    with pytest.raises(psycopg.OperationalError, match="no connection"):
        work()


@pytest.mark.parametrize("more", [3, BATCH - 1])
def test_the_server_says_why_it_ended_the_connection(
    here: Connection, more: int
) -> None:
    def work() -> None:
        with here.pipeline():
            here.execute("SELECT pg_terminate_backend(pg_backend_pid())")
            for _ in range(more):
                here.execute("SELECT 1")

    with pytest.raises(psycopg.errors.AdminShutdown):
        work()


def test_what_was_renamed_in_a_pipeline_is_prepared_anew(here: Connection) -> None:
    here.execute("SELECT %s", [1], prepare=True)
    with here.pipeline():
        here.execute("CREATE TEMP TABLE item (id int)")
    for _ in range(2):
        here.cursor().executemany("INSERT INTO item VALUES (%s)", [[1], [2]])
    for _ in range(3):
        count = here.execute("SELECT count(*) FROM item", prepare=True)
        assert count.fetchone() == (4,)


def test_a_savepoint_can_be_returned_to_after_it(here: Connection) -> None:
    def work() -> None:
        with here.pipeline():
            here.execute("CREATE TEMP TABLE item (id int)")
            here.execute("SELECT 1 / 0")

    here.execute("BEGIN")
    here.execute("SELECT %s", [1], prepare=True)
    here.execute("SAVEPOINT a")
    with pytest.raises(psycopg.errors.DivisionByZero):
        work()
    here.execute("ROLLBACK TO SAVEPOINT a")
    assert here.execute("SELECT %s", [1], prepare=True).fetchone() == (1,)


def test_an_answer_is_read_from_its_first_row(here: Connection) -> None:
    """Even if rows of another one were read since the query was sent."""
    cursor: Any = here.execute("SELECT generate_series(1, 3)")
    assert cursor.fetchone() == (1,)
    later: Any = here.execute("SELECT generate_series(11, 13)")
    cursor._take(b"", b"", later._results)
    assert cursor.fetchall() == [(11,), (12,), (13,)]


def test_a_closed_cursor_gives_no_rows(here: Connection) -> None:
    with here.pipeline():
        cursor = here.execute("SELECT 1")
        cursor.close()
    with pytest.raises(psycopg.InterfaceError, match="closed"):
        cursor.fetchone()

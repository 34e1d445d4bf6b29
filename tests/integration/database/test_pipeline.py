from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from falconas.database.connection import Connection
from falconas.database.pipeline import BATCH

if TYPE_CHECKING:
    from collections.abc import Iterator

    from falconas.database.embedded import EmbeddedPostgres


@pytest.fixture
def here(postgres: EmbeddedPostgres) -> Iterator[Connection]:
    with closing(Connection.connect(postgres.dsn(), autocommit=True)) as connection:
        assert isinstance(connection, Connection)
        yield connection


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

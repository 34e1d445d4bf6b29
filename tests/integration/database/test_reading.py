from __future__ import annotations

from datetime import date

import psycopg
import pytest
from psycopg.rows import scalar_row, tuple_row

from falconas.database.connection import Connection
from falconas.database.cursor import Cursor
from falconas.database.reading import AHEAD

NUMBERS = "SELECT n FROM generate_series(1, %s) n"


def numbers(here: Connection, count: int) -> Cursor[int]:
    cursor = here.make_cursor(scalar_row)
    return cursor.execute(NUMBERS, [count])


@pytest.mark.parametrize("count", [0, 1, AHEAD - 1, AHEAD, AHEAD + 1, 5 * AHEAD])
def test_all_rows_come_in_turn(here: Connection, count: int) -> None:
    cursor = numbers(here, count)
    assert list(cursor.rows()) == list(range(1, count + 1))
    assert cursor.fetchone() is None


def test_rows_made_ahead_are_fetched_in_their_turn(here: Connection) -> None:
    cursor = numbers(here, 3 * AHEAD)
    rows = cursor.rows()
    assert [next(rows), cursor.fetchone(), next(rows)] == [1, 2, 3]
    assert cursor.fetchmany(AHEAD) == list(range(4, AHEAD + 4))
    assert next(rows) == AHEAD + 4
    cursor.scroll(-2)
    assert next(rows) == AHEAD + 3
    cursor.scroll(0, "absolute")
    assert [row for row, _ in zip(cursor.rows(), range(3), strict=False)] == [1, 2, 3]
    assert cursor.fetchall() == list(range(5, 3 * AHEAD + 1))  # zip took one more
    assert next(rows, None) is None


def test_rows_of_another_result_are_not_those_made_ahead(here: Connection) -> None:
    cursor = numbers(here, 9)
    rows = cursor.rows()
    assert next(rows) == 1
    cursor.execute("SELECT n FROM generate_series(101, 109) n")
    assert cursor.fetchone() == 101  # as far as the first one was read
    assert [next(rows), next(rows)] == [102, 103]
    cursor.execute("VALUES (1), (2); VALUES (3), (4)")
    assert next(rows) == 1
    assert cursor.nextset()
    assert [cursor.fetchone(), next(rows)] == [3, 4]
    cursor.close()
    with pytest.raises(psycopg.InterfaceError):
        next(rows)


def test_rows_before_one_that_cannot_be_made_do_come(here: Connection) -> None:
    query = "SELECT CASE n WHEN 30 THEN 'infinity' ELSE '2026-01-01' END::date FROM"
    cursor = here.make_cursor(tuple_row)
    rows = cursor.execute(f"{query} generate_series(1, 60) n").rows()
    assert [next(rows) for _ in range(29)] == 29 * [(date(2026, 1, 1),)]
    with pytest.raises(psycopg.DataError):
        next(rows)


def test_one_row_after_the_other_is_fetched(here: Connection) -> None:
    cursor = numbers(here, 2)
    assert [cursor.fetchone(), cursor.fetchone(), cursor.fetchone()] == [1, 2, None]


def test_what_has_no_rows_has_none_to_fetch(here: Connection) -> None:
    cursor = here.make_cursor(scalar_row)
    with pytest.raises(psycopg.ProgrammingError, match="no result"):
        cursor.fetchone()
    cursor.execute("SET LOCAL lock_timeout = 0")
    with pytest.raises(psycopg.ProgrammingError, match="didn't produce"):
        cursor.fetchone()
    cursor.close()
    with pytest.raises(psycopg.InterfaceError):
        cursor.fetchone()

"""Our cursor beside psycopg's own: whoever does the same sees the same."""

from __future__ import annotations

import re
from contextlib import closing
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from psycopg import sql
from psycopg.adapt import Dumper, Loader
from psycopg.rows import (
    args_row,
    class_row,
    dict_row,
    namedtuple_row,
    scalar_row,
    tuple_row,
)

from falconas.database.connection import Connection

if TYPE_CHECKING:
    from collections.abc import Iterator

    from falconas.database.embedded import EmbeddedPostgres

Step = tuple[Any, ...]  # a method of `Side`, and its arguments


class Anything:
    """What is made of a row, of whatever columns."""

    def __init__(self, **columns: Any) -> None:
        self.columns = columns

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Anything) and self.columns == other.columns

    __hash__ = None  # type: ignore[assignment]


class Sevenfold(Dumper):
    def dump(self, obj: Any) -> bytes:
        return str(obj * 7).encode()


class Shouted(Loader):
    def load(self, data: Any) -> str:
        return f"{bytes(data).decode()}!"


def of_its_own(cursor: Any) -> Any:
    """Make rows that depend on more than the names of columns."""
    told = cursor.rowcount, [column.type_code for column in cursor.description or ()]
    return lambda values: (told, *values)


class Unhashable:
    """A row factory like any other."""

    __hash__ = None  # type: ignore[assignment]

    def __call__(self, _cursor: Any) -> Any:
        return list


FACTORIES: list[Any] = [
    tuple_row, dict_row, namedtuple_row, scalar_row, class_row(Anything),
    args_row(lambda *values: len(values)), of_its_own, Unhashable(),
]  # fmt: skip
QUERIES: list[Any] = [
    "SELECT * FROM thing ORDER BY id",
    "SELECT id AS a, name AS b FROM thing",
    "SELECT name FROM thing WHERE id = %s",
    "SELECT name FROM thing WHERE id = %(id)s",
    b"SELECT name FROM thing WHERE id = %s",
    sql.SQL("SELECT {}").format(sql.Literal(3)),
    "SELECT %s, %b, %t",
    "SELECT 5 %% 3",
    "SELECT 5 %% 3 WHERE 1 = %s",
    "SELECT 5 % 3",
    "SELECT %s::text AS ä",
    "SELECT",
    "SELECT 1; SELECT 2, 3",
    "SELECT 1; SELECT 1 / 0",
    "VALUES (1), (2)",
    "UPDATE thing SET name = name || %s",
    "INSERT INTO thing VALUES (DEFAULT, %s)",
    "DELETE FROM thing WHERE id > %s RETURNING *",
    "SELECT * FROM nowhere WHERE %s = 1",
    "SELECT * INTO TEMP other FROM thing",
    "DROP TABLE IF EXISTS other",
    "",
    "BEGIN",
    "COMMIT",
    "ROLLBACK",
    "SELECT 1 / %s",
    "SELECT %q",
    "SET client_encoding = latin1",
    "RESET client_encoding",
    "SHOW client_encoding",
    "ALTER TABLE thing ADD COLUMN IF NOT EXISTS more int DEFAULT 3",
    "ALTER TABLE thing DROP COLUMN IF EXISTS more",
    "SELECT 'long'" + " " * 5000,
    "SELECT" + ", ".join(["%s"] * 60),
]
PARAMS: list[Any] = [
    None, (), [], [1], [2], (2,), ["x"], ["ä€"], [None], [1, 2], [1, 2, "c"], [0],
    {"id": 1}, {"id": 2, "other": 3}, {}, {1}, "1", [2**40], [2**70], [object()],
    list(range(60)), [[1, 2]], [b"\0\xff"], [1.5],
]  # fmt: skip
CHOICE = st.sampled_from([None, True, False])
FACTORY = st.integers(0, len(FACTORIES) - 1)
QUERY, VALUES = st.sampled_from(QUERIES), st.sampled_from(PARAMS)
TIMES = st.sampled_from([1, 1, 7])  # at the sixth time a statement is prepared


def step(name: str, *given: st.SearchStrategy[Any]) -> st.SearchStrategy[Step]:
    return st.tuples(st.just(name), *given)


STEPS = st.one_of(
    step("execute", QUERY, VALUES, CHOICE, CHOICE, TIMES),
    step("again", TIMES),
    step("executemany", QUERY, st.lists(VALUES, max_size=4), st.booleans()),
    step("stream", QUERY, VALUES, CHOICE),
    step("piped", st.lists(st.tuples(QUERY, VALUES, CHOICE), max_size=30), TIMES),
    step("fresh", FACTORY),
    step("factory", FACTORY),
    step("scroll", st.integers(-2, 2)),
    *(step(name) for name in ("one", "many", "all", "next", "nextset", "close")),
    *(step(name) for name in ("dumper", "loader")),
)
TABLE = b"""
    CREATE TEMP TABLE thing (id serial, name text);
    INSERT INTO thing (name) VALUES ('a'), ('b'), ('c')
"""
SET = "SET work_mem = '9MB'"
FIRST = "SELECT 1", None, None, None
READ = "SELECT * FROM thing WHERE id = %s"
EACH = "SELECT id, name FROM thing WHERE id > %s"
NAMED = "SELECT name FROM thing WHERE id = %(id)s"
COLUMN = "ALTER TABLE thing ADD COLUMN IF NOT EXISTS more int DEFAULT 3"


def rows(cursor: Any) -> Any:
    return cursor.fetchall() if cursor.description is not None else None


class Side:
    """One connection, and what is seen on it."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self.connection = connection
        self.cursor = connection.cursor()
        self.last: tuple[Any, ...] = FIRST

    def begin(self) -> None:
        """Forget all that was done before."""
        known = self.connection._prepared
        known.clear()
        known._to_flush.clear()
        for command in (b"ROLLBACK", b"DISCARD ALL", TABLE):
            self.connection.pgconn.exec_(command)
        self.cursor = self.connection.cursor()
        self.last = FIRST

    def do(self, name: str, *given: Any) -> tuple[Any, ...]:
        """Do a step, and return all that it shows."""
        try:
            done = getattr(self, name)(*given)
        except Exception as error:
            text = re.sub(r"_pg3_\d+", "it", str(error))  # by whatever name
            done = type(error), text, getattr(error, "sqlstate", None)
        cursor = self.cursor
        return (
            done,
            cursor.rowcount,
            cursor.rownumber,
            cursor.statusmessage,
            [(column.name, column.type_code) for column in cursor.description or ()],
            cursor.closed,
            self.connection.info.transaction_status,
        )

    def fresh(self, factory: int) -> None:
        self.cursor = self.connection.cursor(row_factory=FACTORIES[factory])

    def execute(
        self, query: Any, params: Any, prepare: Any, binary: Any, times: int
    ) -> None:
        self.last = query, params, prepare, binary
        self.again(times)

    def again(self, times: int) -> None:
        query, params, prepare, binary = self.last
        for _ in range(times):
            self.cursor.execute(query, params, prepare=prepare, binary=binary)

    def executemany(self, query: Any, given: list[Any], returning: bool) -> Any:
        """Run a statement with each of these; of several errors one is told."""
        try:
            self.cursor.executemany(query, given, returning=returning)
        except Exception:
            return "failed"
        return None

    def stream(self, query: Any, params: Any, binary: Any) -> list[Any]:
        return list(self.cursor.stream(query, params, binary=binary))

    def piped(self, statements: list[tuple[Any, ...]], times: int) -> Any:
        """Run statements in a pipeline, each on a cursor of its own.

        Of several errors it is chance which is told.
        """
        try:
            for _ in range(times):
                with self.connection.pipeline():
                    cursors = [
                        self.connection.cursor().execute(query, params, prepare=prepare)
                        for query, params, prepare in statements
                    ]
        except Exception:
            return "failed"
        return [(each.rowcount, each.statusmessage, rows(each)) for each in cursors]

    def factory(self, number: int) -> None:
        self.cursor.row_factory = FACTORIES[number]

    def dumper(self) -> None:
        self.cursor.adapters.register_dumper(int, Sevenfold)
        self.cursor._last_query = None  # else psycopg may not see it yet

    def loader(self) -> None:
        self.cursor.adapters.register_loader("text", Shouted)

    def scroll(self, value: int) -> None:
        self.cursor.scroll(value)

    def one(self) -> Any:
        return self.cursor.fetchone()

    def many(self) -> list[Any]:
        return self.cursor.fetchmany(2)

    def all(self) -> list[Any]:
        return self.cursor.fetchall()

    def next(self) -> Any:
        return next(self.cursor)

    def nextset(self) -> bool | None:
        return self.cursor.nextset()

    def close(self) -> None:
        self.cursor.close()


@pytest.fixture(scope="module")
def sides(postgres: EmbeddedPostgres) -> Iterator[tuple[Side, Side]]:
    dsn = postgres.dsn()
    with (
        closing(psycopg.connect(dsn, autocommit=True)) as theirs,
        closing(Connection.connect(dsn, autocommit=True)) as ours,
    ):
        yield Side(theirs), Side(ours)


def often(query: str, params: Any = None, times: int = 7) -> Step:
    return "execute", query, params, None, None, times


def once(query: str) -> Step:
    return often(query, times=1)


ONE, ALL, AGAIN = ("one",), ("all",), ("again", 1)
DICTS, ITS_OWN = ("fresh", 1), ("fresh", 6)
EXECUTED = [DICTS, once("PREPARE p AS SELECT 1 AS a"), often("EXECUTE p"), ONE]
ANEW = [
    once("DEALLOCATE p"),
    once("PREPARE p AS SELECT 1 AS b"),
    often("EXECUTE p"),
    ONE,
]


@settings(max_examples=200)
@given(steps=st.lists(STEPS, max_size=20))
@example([DICTS, often(READ, [1]), ONE, AGAIN, ONE, ONE])
@example([ITS_OWN, often(READ, [1]), ONE, often(READ, [9], 1), ALL])
@example([ITS_OWN, often(EACH, [9]), often(EACH, [0], 1), ONE])
@example([often(READ, [1]), ("factory", 1), AGAIN, ONE, ("factory", 2), AGAIN, ONE])
@example([often(READ, [1]), ("loader",), ALL, AGAIN, ALL])
@example([often(READ, [1]), ("dumper",), AGAIN, ALL])
@example([DICTS, often(READ, [1]), often(COLUMN), often(READ, [1]), ALL])
@example([*EXECUTED, *ANEW])
@example([("piped", [(READ, [1], None)] * 40, 7)])
@example([("piped", [(READ, [1], None), ("SELECT 1 / %s", [0], None)] * 20, 1)])
@example([("piped", [("SELECT nothing", None, True)], 7), once("SELECT nothing")])
@example(
    [("piped", [(SET, None, True)], 1), ("execute", READ, [1], True, None, 2), ONE]
)
@example([often("COMMIT"), often("SELECT"), ONE])
@example([often(EACH, [1, 2]), often(NAMED, [1]), often(NAMED, {"id": 1}), ONE])
@example([often(NAMED, {}), often(NAMED, {"id": 1, "more": 2}), ONE])
@example([("executemany", NAMED, [{"id": 1}, {"id": 2}], True), ALL])
@example([often("SELECT 1; SELECT 1 / 0"), ONE, often("UPDATE thing SET id = id"), ONE])
def test_whoever_does_the_same_sees_the_same(
    sides: tuple[Side, Side], steps: list[Step]
) -> None:
    theirs, ours = sides
    for side in sides:
        side.begin()
    for each in steps:
        assert ours.do(*each) == theirs.do(*each), each


@pytest.mark.parametrize("returning", [False, True])
def test_a_cursor_may_have_more_asked_before_it_is_answered(
    sides: tuple[Side, Side], returning: bool
) -> None:
    def work(side: Side) -> Any:
        side.begin()
        cursor = side.cursor
        with side.connection.pipeline():
            cursor.execute("SELECT 1")
            cursor.execute("SELECT 2")
            cursor.executemany("SELECT %s", [], returning=returning)
        found = rows(cursor), len(cursor._results)
        return cursor.rowcount, cursor.statusmessage, found

    theirs, ours = sides
    assert work(ours) == work(theirs)

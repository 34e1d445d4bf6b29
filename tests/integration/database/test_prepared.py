from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from falconas.database.pool import NodePool, PoolOptions
from falconas.database.pool_async import AsyncNodePool

SAME = "SELECT * FROM t"


@pytest.fixture(params=[False, True], ids=["transactions", "autocommit"])
def pool(request: pytest.FixtureRequest, database: str) -> Iterator[NodePool]:
    """One connection, to a database with a table t in public and in s."""
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE TABLE t (n int)")
        connection.execute("INSERT INTO t VALUES (1)")
        connection.execute("CREATE SCHEMA s")
        connection.execute("CREATE TABLE s.t (a text, b text)")
    options = PoolOptions(max_size=1, autocommit=request.param)
    with NodePool(database, options) as pool:
        yield pool


def read(connection: psycopg.Connection[Any]) -> list[Any]:
    return connection.execute(SAME, prepare=True).fetchall()


def prepared(connection: psycopg.Connection[Any]) -> int:
    query = "SELECT count(*) FROM pg_prepared_statements"
    row = connection.execute(query, prepare=False).fetchone()
    assert row is not None
    return int(row[0])


@pytest.mark.parametrize(
    "before",
    [
        "SET search_path TO s",
        "SELECT set_config('search_path', 's', false); SET work_mem = 100",
        "CREATE TEMP TABLE t (x text, y text)",
        "CREATE TEMP TABLE t AS SELECT 7 AS x, 8 AS y, 9 AS z",
        "SELECT 7 AS x, 8 AS y INTO TEMP t",
        "DO $$BEGIN CREATE TEMP TABLE t (x text); END$$",
    ],
)
def test_what_a_name_meant_to_one_borrower_it_does_not_mean_to_the_next(
    pool: NodePool, before: str
) -> None:
    with pool.connection() as connection:
        assert read(connection) == [(1,)]
    for _ in range(2):  # the second time psycopg knows the statement
        with pool.connection() as connection:
            connection.execute(before)
            assert read(connection) != [(1,)]
        with pool.connection() as connection:
            assert read(connection) == [(1,)]


def test_a_failed_block_leaves_no_statement_behind(pool: NodePool) -> None:
    def fail() -> None:
        with pool.connection() as connection:
            connection.execute("CREATE TEMP TABLE v (n int)")
            connection.execute("SELECT * FROM v", prepare=True)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with pool.connection() as connection:
        connection.execute("CREATE TEMP TABLE v (m text, n int)")
        cursor = connection.execute("SELECT * FROM v", prepare=True)
        assert cursor.description is not None
        assert len(cursor.description) == 2


def test_what_leaves_names_alone_keeps_what_is_prepared(pool: NodePool) -> None:
    for count in range(3):
        with pool.connection() as connection:
            assert prepared(connection) == min(count, 1)
            assert read(connection) == [(1,)]
            connection.execute("UPDATE t SET n = n")
            connection.execute("SELECT 1 WHERE false")


def test_without_prepared_statements_there_is_nothing_to_forget(database: str) -> None:
    with NodePool(database, PoolOptions(max_size=1, reset="discard")) as pool:
        for _ in range(7):
            with pool.connection() as connection:
                connection.execute("CREATE TEMP TABLE t (x text)")
                assert connection.execute("SELECT * FROM t").fetchall() == []
                assert prepared(connection) == 0


def test_coroutines_are_spared_as_well(database: str) -> None:
    async def work() -> None:
        async with AsyncNodePool(database, PoolOptions(max_size=1)) as pool:
            for columns in ("x text", "x text, y text"):
                async with pool.connection() as connection, connection.pipeline():
                    await connection.execute(f"CREATE TEMP TABLE t ({columns})")
                    cursor = await connection.execute(SAME, prepare=True)
                    assert await cursor.fetchall() == []
                    assert len(cursor.description or ()) == columns.count("text")

    asyncio.run(work())


def test_what_is_prepared_after_a_change_in_a_pipeline_stays(pool: NodePool) -> None:
    """psycopg has the server forget all only after the next statement."""
    with pool.connection() as connection:
        connection.execute("SELECT 1", prepare=True)
        with connection.pipeline():
            connection.execute("CREATE TEMP TABLE v (n int)")
        for _ in range(3):
            assert connection.execute("SELECT * FROM v", prepare=True).fetchall() == []


def test_so_it_does_for_coroutines(database: str) -> None:
    async def work() -> None:
        async with (
            AsyncNodePool(database, PoolOptions(max_size=1)) as pool,
            pool.connection() as connection,
        ):
            await connection.execute("SELECT 1", prepare=True)
            async with connection.pipeline():
                await connection.execute("CREATE TEMP TABLE v (n int)")
            for _ in range(3):
                cursor = await connection.execute("SELECT * FROM v", prepare=True)
                assert await cursor.fetchall() == []

    asyncio.run(work())

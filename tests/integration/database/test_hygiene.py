from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from psycopg.types.numeric import FloatLoader

from falconas import Aborted, Started, Unavailable
from falconas.database.cluster import EmbeddedCluster
from falconas.database.embedded import EmbeddedPostgres
from falconas.database.hygiene import Loan, blame
from falconas.database.pool_async import AsyncNodePool
from tests.integration.database.either import Pool, ask, done, enter, kinds, run, within
from tests.integration.database.lending_cases import fact

Block = Callable[[Any], Awaitable[object]]


class Boom(Exception):
    pass


@pytest.fixture(scope="module")
def shared(postgres: EmbeddedPostgres) -> Iterator[str]:
    """DSN of a database for all tests here."""
    yield postgres.create_database("hygiene")
    postgres.drop_database("hygiene")


@pytest.fixture
def table(shared: str) -> str:
    """DSN of a database with an empty table t."""
    with psycopg.connect(shared) as connection:
        connection.execute("DROP TABLE IF EXISTS t")
        connection.execute("CREATE TABLE t (n int)")
    return shared


def rows(dsn: str) -> list[int]:
    with psycopg.connect(dsn) as connection:
        return [n for (n,) in connection.execute("SELECT n FROM t ORDER BY n")]


async def insert(connection: Any, number: int = 1) -> None:
    await done(connection.execute("INSERT INTO t VALUES (%s)", [number]))


async def fail(connection: Any) -> None:
    """Let a statement fail, and swallow the error."""
    with pytest.raises(psycopg.errors.DivisionByZero):
        await done(connection.execute("SELECT 1/0"))


# What ends without an error is committed


async def closes(connection: Any) -> None:
    await insert(connection)
    await done(connection.close())


async def commits_what_failed(connection: Any) -> None:
    await insert(connection)
    await fail(connection)
    await done(connection.commit())


async def commits_what_failed_by_hand(connection: Any) -> None:
    await insert(connection)
    await fail(connection)
    await done(connection.execute(" commit work"))


async def commits_what_failed_by_a_context(connection: Any) -> None:
    async with within(connection.transaction()):
        await insert(connection)
        await fail(connection)
    await insert(connection)


async def leaves_a_pipeline(connection: Any) -> None:
    await insert(connection)
    await enter(connection.pipeline())
    await insert(connection)


async def leaves_a_copy(connection: Any) -> None:
    await insert(connection)
    copy = await enter(connection.cursor().copy("COPY t FROM STDIN"))
    await done(copy.write_row([1]))


async def leaves_a_transaction(connection: Any) -> None:
    await enter(connection.transaction())
    await insert(connection)


async def leaves_two_phases(connection: Any) -> None:
    await done(connection.tpc_begin("x"))
    await insert(connection)


UNDONE: dict[Block, str] = {
    closes: "closed its connection",
    commits_what_failed: "COMMIT rolled it back",
    commits_what_failed_by_hand: "COMMIT rolled it back",
    commits_what_failed_by_a_context: "COMMIT rolled it back",
    leaves_a_pipeline: "left a pipeline",
    leaves_a_copy: "left a pipeline, a stream or a COPY",
    leaves_a_transaction: r"left a transaction\(\)",
    leaves_two_phases: "two-phase transaction",
}


@kinds
@pytest.mark.parametrize("block", UNDONE)
def test_a_block_that_is_not_committed_ends_in_an_error(
    kind: type[Pool], table: str, block: Block
) -> None:
    async def scenario(pool: Pool) -> None:
        with pytest.raises(Aborted, match=UNDONE[block]) as caught:
            async with within(pool.connection()) as connection:
                await block(connection)
        assert caught.value.started is Started.YES
        assert rows(table) == []
        for number in (2, 3):
            async with within(pool.connection()) as connection:
                await insert(connection, number)
        assert rows(table) == [2, 3]

    run(kind, table, scenario)


@kinds
@pytest.mark.parametrize(
    "block", [leaves_a_pipeline, leaves_a_transaction, leaves_two_phases, closes]
)
def test_a_block_that_fails_leaves_nothing_to_the_next(
    kind: type[Pool], table: str, block: Block
) -> None:
    async def scenario(pool: Pool) -> None:
        async def write() -> None:
            async with within(pool.connection()) as connection:
                await block(connection)
                raise Boom

        with pytest.raises(Boom):
            await write()
        for number in (2, 3):
            async with within(pool.connection()) as connection:
                await insert(connection, number)
        assert rows(table) == [2, 3]

    run(kind, table, scenario)


@kinds
def test_with_autocommit_a_pipeline_left_open_has_no_sure_outcome(
    kind: type[Pool], table: str
) -> None:
    async def scenario(pool: Pool) -> None:
        async def write() -> None:
            async with within(pool.connection()) as connection:
                await leaves_a_pipeline(connection)

        with pytest.raises(Unavailable, match="left a pipeline") as caught:
            await write()
        assert caught.value.started is Started.UNKNOWN

    run(kind, table, scenario, autocommit=True)


async def commits_and_closes(connection: Any) -> None:
    await insert(connection)
    await done(connection.commit())
    await done(connection.close())


async def rolls_back_and_goes_on(connection: Any) -> None:
    await fail(connection)
    await done(connection.rollback())
    await insert(connection)


async def fails_in_a_savepoint(connection: Any) -> None:
    await insert(connection)
    with suppress(psycopg.errors.DivisionByZero):
        async with within(connection.transaction()):
            await done(connection.execute("SELECT 1/0"))


async def commits_by_hand(connection: Any) -> None:
    await insert(connection)
    await done(connection.execute("COMMIT"))


@kinds
@pytest.mark.parametrize(
    "block",
    [commits_and_closes, rolls_back_and_goes_on, fails_in_a_savepoint, commits_by_hand],
)
def test_a_block_that_is_committed_ends_well(
    kind: type[Pool], table: str, block: Block
) -> None:
    async def scenario(pool: Pool) -> None:
        async with within(pool.connection()) as connection:
            await block(connection)
        assert rows(table) == [1]

    run(kind, table, scenario)


# What the next borrower finds


@kinds
def test_types_registered_by_one_borrower_are_not_known_to_the_next(
    kind: type[Pool], shared: str
) -> None:
    async def scenario(pool: Pool) -> None:
        async with within(pool.connection()) as connection:
            pid = connection.info.backend_pid
            connection.adapters.register_loader("numeric", FloatLoader)
            assert type((await ask(connection, "SELECT 0.1"))[0]) is float
        async with within(pool.connection()) as connection:
            assert connection.info.backend_pid == pid
            assert type((await ask(connection, "SELECT 0.1"))[0]) is Decimal

    run(kind, shared, scenario)


@kinds
def test_what_one_borrower_was_notified_of_the_next_is_not(
    kind: type[Pool], shared: str
) -> None:
    async def scenario(pool: Pool) -> None:
        async with within(pool.connection()) as connection:
            pid = connection.info.backend_pid
            await done(connection.execute("LISTEN news"))
            await done(connection.execute("NOTIFY news"))
            await done(connection.commit())
            await ask(connection, "SELECT 1")
        async with within(pool.connection()) as connection:
            assert connection.info.backend_pid == pid
            heard = connection.notifies(timeout=0)
            if kind is AsyncNodePool:
                assert [notify async for notify in heard] == []
            else:
                assert list(heard) == []

    run(kind, shared, scenario)


# What says something against a node


@asynccontextmanager
async def same_connection(pool: Any) -> AsyncIterator[None]:
    """Check that a block costs neither the connection nor the node's good name."""
    async with within(pool.connection()) as connection:
        pid = connection.info.backend_pid
    yield
    async with within(pool.connection()) as connection:
        assert connection.info.backend_pid == pid
    assert fact(pool, "main", "lost") == 0


RAISE = "DO $$BEGIN RAISE 'could not connect to server' USING ERRCODE = '{}'; END$$"


@kinds
@pytest.mark.parametrize("state", ["08001", "08006", "57P01"])
def test_an_error_code_that_a_function_raises_is_not_the_nodes_fault(
    kind: type[Pool], shared: str, state: str
) -> None:
    async def scenario(pool: Pool) -> None:
        async with same_connection(pool):
            with pytest.raises(psycopg.OperationalError):
                async with within(pool.connection()) as connection:
                    await done(connection.execute(RAISE.format(state)))

    run(kind, shared, scenario)


@kinds
def test_a_write_that_made_itself_read_only_is_not_the_nodes_fault(
    kind: type[Pool], table: str
) -> None:
    async def scenario(pool: Pool) -> None:
        async def write() -> None:
            async with within(pool.connection()) as connection:
                await done(connection.execute("SET TRANSACTION READ ONLY"))
                await insert(connection)

        async with same_connection(pool):
            with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
                await write()

    run(kind, table, scenario)


def test_a_write_that_meets_a_standby_is_the_nodes_fault(
    cluster: EmbeddedCluster,
) -> None:
    with psycopg.connect(cluster["n2"].dsn()) as standby:
        loan = Loan("n2", standby, None, "write", {}, -1)
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction) as caught:
            standby.execute("CREATE TABLE t ()")

        assert blame(caught.value, loan) == "25006"
        loan.access = "read"
        assert blame(caught.value, loan) == ""


def test_another_servers_error_is_not_this_nodes_fault(shared: str) -> None:
    with psycopg.connect(shared) as connection, psycopg.connect(shared) as other:
        loan = Loan("n1", connection, None, "write", {}, -1)
        with pytest.raises(psycopg.errors.AdminShutdown) as caught:
            other.execute("SELECT pg_terminate_backend(pg_backend_pid())")

        assert blame(caught.value, loan) == ""
        loan.connection = other
        assert blame(caught.value, loan) == "the connection was lost"

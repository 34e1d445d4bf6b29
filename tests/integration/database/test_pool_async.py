from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import psycopg
import pytest
from psycopg.rows import dict_row

from falconas import Aborted, ResourceExhausted, Started, Unavailable
from falconas.database.cluster import EmbeddedCluster
from falconas.database.options import PoolOptions
from falconas.database.pool_async import AsyncNodePool
from tests.integration.database.lending_cases import (
    backends,
    behind,
    fact,
    make_table,
    members,
    nodes_of,
    rows,
    terminate,
)
from tests.integration.database.patroni import Patroni, standing_in
from tests.proxy import Proxy

Boom = ZeroDivisionError


async def eventually(true: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110 - statistics are no event
            await asyncio.sleep(0.01)


@asynccontextmanager
async def opened(
    cluster: EmbeddedCluster, database: str, options: PoolOptions | None = None
) -> AsyncIterator[AsyncNodePool]:
    async with AsyncNodePool(nodes_of(cluster, database), options) as pool:
        await eventually(lambda: all(fact(pool, n, "size") for n in ("n1", "n2", "n3")))
        yield pool


@pytest.fixture
def database(cluster: EmbeddedCluster, cluster_database: str) -> str:
    make_table(cluster, cluster_database)
    return cluster_database


def go(work: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await work()

    asyncio.run(main())


def test_blocks_commit_and_roll_back(cluster: EmbeddedCluster, database: str) -> None:
    async def work() -> None:
        async with opened(cluster, database) as pool:
            async with pool.connection() as connection:
                await connection.execute("INSERT INTO t VALUES (1)")
            with suppress(Boom):
                async with pool.connection() as connection:
                    await connection.execute("INSERT INTO t VALUES (2)")
                    raise Boom
            with suppress(Aborted):
                async with pool.connection() as connection:
                    with suppress(psycopg.errors.DivisionByZero):
                        await connection.execute("SELECT 1/0")
                pytest.fail("a swallowed error was taken for a commit")
            async with pool.connection("read", min_lsn=await pool.lsn()) as connection:
                cursor = await connection.execute("SELECT n FROM t")
                assert await cursor.fetchall() == [(1,)]
            with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
                async with pool.connection("read") as connection:
                    await connection.execute("INSERT INTO t VALUES (3)")

    go(work)
    assert rows(cluster, database) == [1]


def test_an_exception_in_the_block_rolls_back(
    cluster: EmbeddedCluster, database: str
) -> None:
    async def fail(pool: AsyncNodePool) -> None:
        async with pool.connection() as connection:
            await connection.execute("INSERT INTO t VALUES (1)")
            raise Boom

    async def work() -> None:
        async with opened(cluster, database) as pool:
            with pytest.raises(Boom):
                await fail(pool)
            async with pool.connection() as connection:
                await connection.execute("INSERT INTO t VALUES (2)")

    go(work)
    assert rows(cluster, database) == [2]


def test_it_starts_with_one_node_down(cluster: EmbeddedCluster, database: str) -> None:
    cluster["n2"].kill()

    async def work() -> None:
        async with AsyncNodePool(nodes_of(cluster, database)) as pool:
            async with pool.connection() as connection:
                await connection.execute("INSERT INTO t VALUES (1)")
            async with pool.connection("read") as connection:
                await connection.execute("SELECT 1")
            cluster["n2"].start()
            await eventually(lambda: fact(pool, "n2", "up"))

    go(work)
    assert rows(cluster, database) == [1]


def test_nodes_come_and_go_and_loans_go_on(
    cluster: EmbeddedCluster, database: str
) -> None:
    options = PoolOptions(lookup_interval=0.02, application_name="come-and-go")

    async def work(patroni: Patroni) -> None:
        patroni.members = members(cluster, "n1", "n2")
        source = behind(patroni, cluster, database)
        async with AsyncNodePool([source], options) as pool:
            async with pool.connection() as connection:
                patroni.members = members(cluster, "n2", "n3")
                await eventually(
                    lambda: list(pool.statistics()["nodes"]) == ["pg/n2", "pg/n3"]
                )
                await connection.execute("INSERT INTO t VALUES (1)")
            await eventually(lambda: not backends(cluster, "n1", "come-and-go"))
            patroni.members = members(cluster, "n1")
            async with pool.connection() as connection:
                await connection.execute("INSERT INTO t VALUES (2)")

    with standing_in() as patroni:
        go(lambda: work(patroni))
    assert rows(cluster, database) == [1, 2]


def test_a_connection_lost_in_mid_transaction_is_an_error(
    cluster: EmbeddedCluster, database: str
) -> None:
    async def write(pool: AsyncNodePool) -> None:
        async with pool.connection() as connection:
            await connection.execute("INSERT INTO t VALUES (1)")
            terminate(cluster, "n1", connection.info.backend_pid)
            with suppress(psycopg.OperationalError):
                await connection.execute("INSERT INTO t VALUES (2)")

    async def work() -> None:
        async with opened(cluster, database) as pool:
            with pytest.raises(Unavailable) as caught:
                await write(pool)
            assert caught.value.started is Started.YES
            assert await pool.lsn() > 0

    go(work)
    assert rows(cluster, database) == []


def test_a_connection_in_use_is_never_lent_again(
    cluster: EmbeddedCluster, database: str
) -> None:
    held: set[int] = set()
    count = Counter[int]()

    async def borrow(pool: AsyncNodePool) -> None:
        async with pool.connection("read") as connection:
            assert id(connection.pgconn) not in held
            held.add(id(connection.pgconn))
            count[connection.info.port] += 1
            await connection.execute("SELECT 1")
            held.remove(id(connection.pgconn))

    async def work() -> None:
        options = PoolOptions(min_size=2, max_size=2)
        async with opened(cluster, database, options) as pool:
            await asyncio.gather(*(borrow(pool) for _ in range(300)))
            found = pool.statistics()
            assert found["waiting"] == 0
            assert all(node["in_use"] == 0 for node in found["nodes"].values())
            assert all(node["size"] <= 2 for node in found["nodes"].values())

    go(work)
    assert len(count) == 3


def test_who_is_cancelled_gives_back_what_he_has(
    cluster: EmbeddedCluster, database: str
) -> None:
    async def work() -> None:
        options = PoolOptions(max_size=1, max_waiting=1)
        async with opened(cluster, database, options) as pool:
            inside = asyncio.Event()

            async def hold() -> None:
                async with pool.connection() as connection:
                    await connection.execute("INSERT INTO t VALUES (1)")
                    inside.set()
                    await connection.execute("SELECT pg_sleep(60)")

            holding = asyncio.create_task(hold())
            await inside.wait()
            waiting = asyncio.create_task(pool.lsn())
            await eventually(lambda: pool.statistics()["waiting"] == 1)
            with pytest.raises(ResourceExhausted):
                await pool.lsn()
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert pool.statistics()["waiting"] == 0
            holding.cancel()
            with pytest.raises(asyncio.CancelledError):
                await holding

            assert await pool.lsn() > 0

    go(work)
    assert rows(cluster, database) == []


def test_writes_go_on_after_a_promotion(
    cluster: EmbeddedCluster, database: str
) -> None:
    async def work() -> None:
        async with opened(cluster, database) as pool:
            cluster["n1"].kill()
            cluster.promote(cluster["n2"])
            async with pool.connection() as connection:
                await connection.execute("INSERT INTO t VALUES (2)")

    go(work)
    assert rows(cluster, database) == [2]


def test_a_black_hole_is_ejected_and_hangs_nobody(
    cluster: EmbeddedCluster, database: str
) -> None:
    async def hang(pool: AsyncNodePool, proxy: Proxy) -> None:
        async with pool.connection() as connection:
            await connection.execute("SELECT 1")
            proxy.hold()
            await connection.execute("SELECT 2")

    async def work(proxy: Proxy) -> None:
        async with AsyncNodePool(proxy.dsn) as pool:
            async with asyncio.timeout(5):
                with pytest.raises(psycopg.OperationalError, match="main does not ans"):
                    await hang(pool, proxy)
            proxy.heal()
            assert await pool.lsn() > 0

    with Proxy(cluster["n1"].dsn(database)) as proxy:
        asyncio.run(work(proxy))


def test_rows_are_made_as_the_options_say(
    cluster: EmbeddedCluster, database: str
) -> None:
    async def work() -> None:
        options = PoolOptions(row_factory=dict_row)
        async with AsyncNodePool(cluster["n1"].dsn(database), options) as pool:
            async with pool.connection() as connection:
                cursor = await connection.execute("SELECT 1 AS n")
                assert await cursor.fetchone() == {"n": 1}
            assert await pool.lsn() > 0

    go(work)


def test_the_error_says_why_no_connection_is_made(
    cluster: EmbeddedCluster, database: str
) -> None:
    async def work() -> None:
        options = PoolOptions(role="nope")
        async with AsyncNodePool(cluster["n1"].dsn(database), options) as pool:
            with pytest.raises(Unavailable, match='role "nope" does not exist'):
                async with pool.connection(timeout=2):
                    pass

    go(work)


def test_nobody_waits_for_ever() -> None:
    async def work() -> None:
        options = PoolOptions(node_wait=0.2)
        async with AsyncNodePool("host=127.0.0.1 port=1", options) as pool:
            with pytest.raises(Unavailable, match="no node suits a write: main: "):
                await pool.lsn()
        with pytest.raises(RuntimeError, match="closed"):
            await pool.lsn()

    go(work)

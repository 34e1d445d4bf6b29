from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from falconas import Unavailable
from falconas.database import lender, pool, pool_async
from falconas.database.cluster import EmbeddedCluster
from tests.integration.database.either import Pool, ask, done, kinds, run, until, within
from tests.integration.database.lending_cases import fact
from tests.proxy import Proxy

ONE = "SELECT 1"


def once_then(real: Callable[..., Any]) -> Callable[..., Any]:
    """Return what fails the first time that it is called, and then is real."""
    calls = iter([RuntimeError("can't start new thread")])

    def called(*args: Any) -> Any:
        for error in calls:
            raise error
        return real(*args)

    return called


@kinds
def test_a_node_that_could_not_be_opened_once_is_opened_later(
    kind: type[Pool],
    database: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for inner in (ConnectionPool, AsyncConnectionPool):
        monkeypatch.setattr(inner, "open", once_then(inner.open))

    async def scenario(pool: Pool) -> None:
        async with within(pool.connection()) as connection:
            assert await ask(connection, ONE) == (1,)

    run(kind, database, scenario, probe_interval=0.1)
    assert "node main cannot be lent from yet: can't start new thread" in caplog.text


def test_a_pool_whose_probes_could_not_begin_begins_with_the_next_use(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pool.NodePool(database) as opened:
        assert opened.lsn() > 0
    fresh = pool.NodePool(database)
    start = threading.Thread.start
    monkeypatch.setattr(threading.Thread, "start", once_then(start))

    with pytest.raises(RuntimeError, match="can't start"):
        fresh.lsn()
    with fresh:
        assert fresh.lsn() > 0


# Where connecting takes long


@kinds
def test_a_pool_that_grows_slowly_puts_no_node_in_doubt(
    kind: type[Pool],
    cluster: EmbeddedCluster,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for module in (lender, pool, pool_async):
        monkeypatch.setattr(module, "PATIENCE", 0.1)

    async def scenario(pool: Any) -> None:
        await done(pool.open())
        await until(lambda: "main" in pool._pools)
        await done(pool._pools["main"].wait())
        proxy.stop_accepting()
        async with within(pool.connection()) as held:
            pid = held.info.backend_pid
            with pytest.raises(Unavailable, match="1 of 2 in use"):
                await enter_and_leave(pool, timeout=0.35)
        async with within(pool.connection()) as again:
            assert again.info.backend_pid == pid
        assert not fact(pool, "main", "suspect")
        proxy.heal()

    caplog.set_level(logging.WARNING)
    with Proxy(cluster["n1"].dsn()) as proxy:
        run(kind, proxy.dsn, scenario, max_size=2)
    assert "in doubt" not in caplog.text


async def enter_and_leave(pool: Any, **wish: Any) -> None:
    async with within(pool.connection(**wish)):
        pass


# The end


async def waiter(pool: Any) -> None:
    """Wait for a connection, in a thread of its own where threads wait."""
    if isinstance(pool, pool_async.AsyncNodePool):
        await enter_and_leave(pool)
    else:
        await asyncio.to_thread(pool.connection().__enter__)


async def close(pool: Any) -> None:
    if isinstance(pool, pool_async.AsyncNodePool):
        await pool.close()
    else:
        await asyncio.to_thread(pool.close)


@kinds
def test_closing_wakes_those_who_wait(kind: type[Pool], database: str) -> None:
    async def scenario(pool: Any) -> None:
        async with within(pool.connection()):
            waiting = asyncio.create_task(waiter(pool))
            await until(lambda: pool.statistics()["waiting"])
            closing = asyncio.create_task(close(pool))
            with pytest.raises(Unavailable, match="the pool was closed"):
                await waiting
            await closing

    run(kind, database, scenario, node_wait=60.0, timeout=60.0)

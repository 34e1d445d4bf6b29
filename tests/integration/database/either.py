"""Tests of both pools, written once: what has to be awaited is, and the rest is not."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from falconas.database.nodes import Node
from falconas.database.pool import NodePool, PoolOptions
from falconas.database.pool_async import AsyncNodePool

_kept: list[Any] = []  # contexts that nobody leaves

Pool = NodePool | AsyncNodePool

kinds = pytest.mark.parametrize(
    "kind", [NodePool, AsyncNodePool], ids=["threads", "coroutines"]
)


async def done(result: Any) -> Any:
    """Return what a call gave, or what it gives in the end."""
    return await result if inspect.isawaitable(result) else result


async def enter(manager: Any) -> Any:
    """Enter a context and do not leave it before the test's end."""
    _kept.append(manager)
    if hasattr(manager, "__aenter__"):
        return await manager.__aenter__()
    return manager.__enter__()


@asynccontextmanager
async def within(manager: Any) -> AsyncIterator[Any]:
    """Enter a context of either kind, and leave it."""
    if hasattr(manager, "__aenter__"):
        async with manager as entered:
            yield entered
    else:
        with manager as entered:
            yield entered


def run(
    kind: type[Pool],
    nodes: str | Iterable[Node],
    scenario: Callable[[Any], Awaitable[None]],
    **options: Any,
) -> None:
    """Run a scenario with a pool of some kind; of one connection, if not told."""

    async def play() -> None:
        pool = kind(nodes, PoolOptions(**{"max_size": 1, **options}))
        try:
            await scenario(pool)
        finally:
            await done(pool.close())
            _kept.clear()

    asyncio.run(play())


async def until(condition: Callable[[], object]) -> None:
    """Let others go on until something holds."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0.001)


async def ask(connection: Any, query: str) -> Any:
    """Return the first row."""
    return await done((await done(connection.execute(query))).fetchone())

"""The same without threads: coroutines and a pool of asyncpg."""

from __future__ import annotations

import json
import os
from typing import Any

import asyncpg
from psycopg.conninfo import conninfo_to_dict

from bench import pieces
from bench.apps.web import Receive, Send, answer, body_of, lifespan

SIZE = int(os.environ["BENCH_CONNECTIONS"])
ONE, MANY = (
    text.replace("%s", "$1", 1).replace("%s", "$2", 1)
    for text in (pieces.ONE, pieces.MANY)
)
state: dict[str, Any] = {}


async def one_row(connection: Any, key: int) -> Any:
    return dict(await connection.fetchrow(ONE, key % pieces.ROWS))


async def gathered(connection: Any, key: int) -> Any:
    return [dict(await connection.fetchrow(ONE, each)) for each in pieces.spread(key)]


async def aggregated(connection: Any, key: int) -> Any:
    first = pieces.first_of(key)
    rows = await connection.fetch(MANY, first, first + pieces.AGGREGATED)
    return pieces.summed(rows)


WORKS = {each.__name__: each for each in (one_row, gathered, aggregated)}
WORKS["pipelined"] = gathered  # asyncpg has no pipelines


async def begin() -> None:
    parts = conninfo_to_dict(os.environ["BENCH_DSN"])
    names = {"host": "host", "port": "port", "user": "user", "dbname": "database"}
    known = {theirs: parts[ours] for ours, theirs in names.items() if ours in parts}
    pool = asyncpg.create_pool(min_size=SIZE, max_size=SIZE, **known)
    state["pool"] = await pool


async def end() -> None:
    await state["pool"].close()


async def run(name: str, key: int) -> Any:
    """Do a piece of work."""
    async with state["pool"].acquire() as connection:
        return await WORKS[name](connection, key)


async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await lifespan(receive, send, begin, end)
        return
    name = scope["path"][1:]
    if name in WORKS:
        key = int(scope["query_string"].removeprefix(b"key="))
        await answer(send, json.dumps(await run(name, key)).encode())
    else:
        await answer(send, await body_of(receive))

"""A bare ASGI application: threads for the work in the database and `psycopg_pool`.

What a web framework does with a `def` endpoint, without the framework.
"""

from __future__ import annotations

import asyncio
import json
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from psycopg_pool import ConnectionPool

from bench.apps.web import Receive, Send, answer, body_of, lifespan
from bench.pieces import PIECES

SIZE = int(os.environ["BENCH_CONNECTIONS"])

pool = ConnectionPool(os.environ["BENCH_DSN"], min_size=SIZE, max_size=SIZE, open=False)
threads = ThreadPoolExecutor(SIZE)


def work(name: str, key: int) -> bytes:
    """Do a piece of work, in a thread."""
    with pool.connection() as connection:
        return json.dumps(PIECES[name](connection, key)).encode()


async def _open() -> None:
    await asyncio.to_thread(pool.open, wait=True)


async def _close() -> None:
    await asyncio.to_thread(pool.close)
    threads.shutdown()


async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await lifespan(receive, send, _open, _close)
        return
    name = scope["path"][1:]
    if name in PIECES:
        key = int(scope["query_string"].removeprefix(b"key="))
        loop = asyncio.get_running_loop()
        await answer(send, await loop.run_in_executor(threads, work, name, key))
    else:
        await answer(send, await body_of(receive))

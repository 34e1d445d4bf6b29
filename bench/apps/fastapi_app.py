"""What is usual today: FastAPI with `def` endpoints, which run in threads of their own
(40, unless told otherwise), and `psycopg_pool`."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from psycopg_pool import ConnectionPool

from bench import pieces

SIZE = int(os.environ["BENCH_CONNECTIONS"])

pool = ConnectionPool(os.environ["BENCH_DSN"], min_size=SIZE, max_size=SIZE, open=False)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    pool.open(wait=True)
    yield
    pool.close()


def one_row(key: int) -> dict[str, Any]:
    with pool.connection() as connection:
        return pieces.one_row(connection, key)


def gathered(key: int) -> list[dict[str, Any]]:
    with pool.connection() as connection:
        return pieces.gathered(connection, key)


def pipelined(key: int) -> list[dict[str, Any]]:
    with pool.connection() as connection:
        return pieces.pipelined(connection, key)


def aggregated(key: int) -> dict[str, list[float]]:
    with pool.connection() as connection:
        return pieces.aggregated(connection, key)


app = FastAPI(lifespan=lifespan)
for endpoint in (one_row, gathered, pipelined, aggregated):
    app.add_api_route(f"/{endpoint.__name__}", endpoint)

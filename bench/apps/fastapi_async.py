"""FastAPI with `async def` endpoints and a pool of asyncpg."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI

from bench.apps import asyncpg_app as bare


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    await bare.begin()
    yield
    await bare.end()


async def one_row(key: int) -> dict[str, Any]:
    found: dict[str, Any] = await bare.run("one_row", key)
    return found


async def gathered(key: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = await bare.run("gathered", key)
    return found


async def pipelined(key: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = await bare.run("pipelined", key)
    return found


async def aggregated(key: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = await bare.run("aggregated", key)
    return found


app = FastAPI(lifespan=lifespan)
for endpoint in (one_row, gathered, pipelined, aggregated):
    app.add_api_route(f"/{endpoint.__name__}", endpoint)

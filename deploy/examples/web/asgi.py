"""The same shop for any ASGI server: `uvicorn asgi:application`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from http import HTTPStatus
from typing import Any

import psycopg
import shop
from shop import Reply

from falconas import AsyncNodePool, ResourceExhausted, Unavailable

pool = AsyncNodePool.from_config(group="web")

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


async def show(number: int, seen: int | None) -> Reply:
    """Ask any node that is up and has what the caller has bought before."""
    async with pool.connection("read", max_lag=5, min_lsn=seen) as connection:
        cursor = await connection.execute(shop.SHOW, [number])
        return shop.shown(await cursor.fetchone(), connection.info.port)


async def buy(number: int) -> Reply:
    """Take one from the stock, on the primary."""
    async with pool.connection() as connection:
        cursor = await connection.execute(shop.BUY, [number])
        row = await cursor.fetchone()
    seen = None  # from here on it is bought, whatever happens
    with suppress(Unavailable, ResourceExhausted, psycopg.OperationalError):
        seen = await pool.lsn(timeout=1)
    return shop.bought(row, seen)


async def answer(scope: dict[str, Any]) -> Reply:
    """Do what is asked for."""
    action, number = shop.route(scope["method"], scope["path"])
    cookies = dict(scope["headers"]).get(b"cookie", b"").decode("latin-1")
    try:
        if action == "show":
            return await show(number, shop.seen_by(cookies))
        if action == "buy":
            return await buy(number)
    except (Unavailable, ResourceExhausted, psycopg.OperationalError) as error:
        return shop.failed(error)
    if action == "nodes":
        return Reply(HTTPStatus.OK, pool.statistics())
    return Reply(HTTPStatus.NOT_FOUND, shop.USAGE)


async def lifespan(receive: Receive, send: Send) -> None:
    """Open the pool when the server starts, and close it when it stops."""
    while True:
        event = (await receive())["type"]
        if event == "lifespan.startup":
            await pool.open()
        else:
            await pool.close()
        await send({"type": f"{event}.complete"})
        if event == "lifespan.shutdown":
            return


async def application(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Be what an ASGI server calls."""
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    reply = await answer(scope)
    headers, body = shop.encode(reply)
    raw = [(name.lower().encode(), value.encode()) for name, value in headers]
    start = {"type": "http.response.start", "status": reply.status, "headers": raw}
    await send(start)
    await send({"type": "http.response.body", "body": body})

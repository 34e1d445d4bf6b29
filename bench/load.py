"""The clients: `python -m bench.load ADDRESS PIECE CLIENTS WARM SECONDS`, in a process.

Each client is a task that sends its next request when it has the answer to the last.
ADDRESS is a broker's endpoint or `http://HOST:PORT`. By HTTP each client has a
connection of its own that is kept open; calls of FalconAS share one `AsyncClient`, as
the calls of an application do. Says `begin` and `end` on stdout, then its
figures as JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

from bench.pieces import ROWS
from falconas import AsyncClient

Call = Callable[[str, int], Awaitable[Any]]


@asynccontextmanager
async def http(address: str) -> AsyncIterator[Call]:
    """Keep a connection open; the least that HTTP/1.1 needs, to be cheap."""
    host, port = urlsplit(address).hostname, urlsplit(address).port
    reader, writer = await asyncio.open_connection(host, port)

    async def call(piece: str, key: int) -> Any:
        writer.write(
            b"GET /%b?key=%d HTTP/1.1\r\nHost: bench\r\n\r\n" % (piece.encode(), key)
        )
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
        body = await reader.readexactly(length)
        if not head.startswith(b"http/1.1 200 "):
            raise RuntimeError(f"{head.decode()}{body.decode()}")
        return json.loads(body)

    try:
        yield call
    finally:
        writer.close()


async def calls(address: str, count: int, stack: AsyncExitStack) -> list[Call]:
    """Return a way to call for each client."""
    if address.startswith("http:"):
        return [await stack.enter_async_context(http(address)) for _ in range(count)]
    client = await stack.enter_async_context(AsyncClient(address))

    async def call(piece: str, key: int) -> Any:
        return await client.call(piece, {"key": key})

    return [call] * count


async def ask(address: str, piece: str, key: int) -> Any:
    """Return one answer."""
    async with AsyncExitStack() as stack:
        (call,) = await calls(address, 1, stack)
        return await call(piece, key)


async def measure(
    address: str, piece: str, clients: int, warm: float, seconds: float
) -> dict[str, Any]:
    """Return how long each request took that ended within the time.

    It lasts longer where two requests of each client would not fit in.
    """
    took: list[tuple[float, float]] = []
    keys = random.Random(clients)
    over = False

    async def client(call: Call) -> None:
        while not over:
            begun = monotonic()
            await call(piece, keys.randrange(ROWS))
            ended = monotonic()
            took.append((ended, ended - begun))

    async def pause(least: float, requests: int) -> None:
        """Wait until both have passed; many slow clients need longer."""
        requests += len(took)
        await asyncio.sleep(least)
        # Looked at now and then: to be told of each request would cost more.
        while len(took) < requests:  # noqa: ASYNC110
            await asyncio.sleep(0.02)

    async with AsyncExitStack() as stack:
        ways = await calls(address, clients, stack)
        async with asyncio.TaskGroup() as tasks:
            for call in ways:
                tasks.create_task(client(call))
            await pause(warm, clients)
            begun, cpu = _say("begin"), sum(os.times()[:2])
            await pause(seconds, 2 * clients)
            ended, cpu = _say("end"), sum(os.times()[:2]) - cpu
            over = True
    return {
        "seconds": ended - begun,
        "client_cpu": cpu,
        "took": [spent for at, spent in took if begun <= at < ended],
    }


def _say(word: str) -> float:
    now = monotonic()
    print(word, flush=True)
    return now


def main() -> None:
    address, piece, clients, warm, seconds = sys.argv[1:]
    figures = measure(address, piece, int(clients), float(warm), float(seconds))
    with suppress(KeyboardInterrupt):
        print(json.dumps(asyncio.run(figures)))


if __name__ == "__main__":
    main()

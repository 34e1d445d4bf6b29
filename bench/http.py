"""The least that HTTP/1.1 needs, to be cheap: less than any library does."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from typing import Any, cast
from urllib.parse import urlsplit

from bench.job import Call
from bench.works import ECHOES, payload


class Connection(asyncio.Protocol):
    """One connection that is kept open, with one request at a time."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._length = -1
        self._begins = 0
        self._waiter: asyncio.Future[bytes] | None = None
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is none

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._length < 0:
            self._read_head()
        if 0 <= self._length <= len(self._received) - self._begins:
            body = bytes(memoryview(self._received)[self._begins :])
            self._received, self._length = bytearray(), -1
            assert self._waiter is not None
            self._waiter.set_result(body)

    def connection_lost(self, error: Exception | None) -> None:
        if self._waiter and not self._waiter.done():
            lost = error or ConnectionError("the server closed the connection")
            self._waiter.set_exception(lost)

    def _read_head(self) -> None:
        head, found, _ = self._received.partition(b"\r\n\r\n")
        if not found:
            return
        head = head.lower()
        if not head.startswith(b"http/1.1 200 "):
            raise RuntimeError(self._received.decode())
        self._begins = len(head) + 4
        self._length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])

    async def call(self, work: str, key: int) -> Any:
        """Send a request and return the value of its answer."""
        self._waiter = asyncio.get_running_loop().create_future()
        assert self.transport is not None
        if work not in ECHOES:
            self.transport.write(
                b"GET /%b?key=%d HTTP/1.1\r\nHost: bench\r\n\r\n" % (work.encode(), key)
            )
            return json.loads(await self._waiter)
        body = payload(work, key)
        head = b"POST /echo HTTP/1.1\r\nHost: bench\r\nContent-Length: %d\r\n\r\n"
        self.transport.write(head % len(body) + body)
        return await self._waiter


async def connect(addresses: str, count: int, stack: AsyncExitStack) -> list[Call]:
    """Open a connection for each client, spread over the servers."""
    loop, servers = asyncio.get_running_loop(), addresses.split(",")
    calls: list[Call] = []
    for number in range(count):
        url = urlsplit(servers[number % len(servers)])
        assert url.hostname
        assert url.port
        transport, connection = await loop.create_connection(
            Connection, url.hostname, url.port
        )
        stack.callback(transport.close)
        calls.append(connection.call)
    return calls

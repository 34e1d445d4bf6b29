"""gearmand with two workers; both sides speak its protocol over bare sockets."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import struct
from collections import deque
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

import psycopg

from bench.job import Call
from bench.peers.base import (
    HOST,
    WORKERS,
    Peer,
    Running,
    free_ports,
    listening,
    python,
    ready,
    served,
    spawn,
    wait,
)
from bench.pieces import PIECES
from bench.stack import processes
from bench.works import ECHOES, payload

CAN_DO, PRE_SLEEP, NOOP, SUBMIT_JOB, JOB_CREATED = 1, 4, 6, 7, 8
GRAB_JOB, NO_JOB, JOB_ASSIGN, WORK_COMPLETE = 9, 10, 11, 13
HEAD = struct.Struct(">4sII")


def packet(kind: int, *parts: bytes) -> bytes:
    """Return a packet from a client or a worker."""
    body = b"\0".join(parts)
    return HEAD.pack(b"\0REQ", kind, len(body)) + body


class Gearman(Peer):
    title = "gearmand, bare sockets"

    def missing(self) -> str:
        if shutil.which("gearmand", path="/usr/sbin:/usr/bin") is None:
            return "no gearmand: apt install gearman-job-server"
        return ""

    @contextmanager
    def start(self, folder: Path, dsn: str) -> Iterator[Running]:
        (port,) = free_ports(1)
        server = shutil.which("gearmand", path="/usr/sbin:/usr/bin")
        assert server
        with processes() as started, ExitStack() as stack:
            arguments = f"--listen={HOST} --port={port} --log-file={folder}/log"
            started.append(spawn(server, *arguments.split()))
            wait(lambda: listening(port), started)
            commands = [python("gearman", str(port), dsn)] * WORKERS
            pids = stack.enter_context(served(folder, *commands))
            yield Running(str(port), {"broker": [started[0].pid], "workers": pids})

    async def connect(
        self, endpoint: str, count: int, stack: AsyncExitStack
    ) -> list[Call]:
        loop = asyncio.get_running_loop()
        _, client = await loop.create_connection(Client, HOST, int(endpoint))
        stack.callback(client.close)

        async def call(work: str, key: int) -> Any:
            if work in ECHOES:
                return await client.submit(b"echo", payload(work, key))
            return json.loads(await client.submit(work.encode(), b"%d" % key))

        return [call] * count


class Client(asyncio.Protocol):
    """One connection for all requests: the server names each in turn."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._submitted: deque[asyncio.Future[bytes]] = deque()
        self._jobs: dict[bytes, asyncio.Future[bytes]] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, error: Exception | None) -> None:
        for each in (*self._submitted, *self._jobs.values()):
            if not each.done():
                each.set_exception(error or ConnectionError("gearmand is gone"))

    def close(self) -> None:
        self._transport.close()

    def submit(self, function: bytes, value: bytes) -> asyncio.Future[bytes]:
        """Send a job; its result comes later."""
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._submitted.append(future)
        self._transport.write(packet(SUBMIT_JOB, function, b"", value))
        return future

    def data_received(self, data: bytes) -> None:
        received = self._received
        received += data
        at = 0
        while len(received) - at >= HEAD.size:
            _, kind, length = HEAD.unpack_from(received, at)
            end = at + HEAD.size + length
            if len(received) < end:
                break
            self._take(kind, bytes(received[at + HEAD.size : end]))
            at = end
        del received[:at]

    def _take(self, kind: int, body: bytes) -> None:
        if kind == JOB_CREATED:
            self._jobs[body] = self._submitted.popleft()
            return
        handle, _, value = body.partition(b"\0")
        future = self._jobs.pop(handle)
        if future.done():
            return
        if kind == WORK_COMPLETE:
            future.set_result(value)
        else:
            future.set_exception(RuntimeError(f"gearmand sent {kind}: {body!r}"))


class Worker:
    """Asks for a job, does it, asks for the next."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection((HOST, port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._file = self._socket.makefile("rb")

    def send(self, *packets: bytes) -> None:
        self._socket.sendall(b"".join(packets))

    def receive(self) -> tuple[int, bytes]:
        _, kind, length = HEAD.unpack(self._file.read(HEAD.size))
        return kind, self._file.read(length)


def main(port: str, dsn: str) -> None:
    worker = Worker(int(port))
    worker.send(*(packet(CAN_DO, name.encode()) for name in ("echo", *PIECES)))
    ready()
    with psycopg.connect(dsn, autocommit=True) as connection:
        worker.send(packet(GRAB_JOB))
        while True:
            kind, body = worker.receive()
            if kind == NO_JOB:
                worker.send(packet(PRE_SLEEP))
            elif kind == NOOP:
                worker.send(packet(GRAB_JOB))
            elif kind == JOB_ASSIGN:
                handle, function, value = body.split(b"\0", 2)
                if function != b"echo":
                    found = PIECES[function.decode()](connection, int(value))
                    value = json.dumps(found).encode()
                worker.send(packet(WORK_COMPLETE, handle, value), packet(GRAB_JOB))

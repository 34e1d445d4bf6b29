"""NATS: request and reply by a queue group of two workers, nats-py on uvloop.

A message is taken by one of the group, whichever the server picks, busy or not. For
work in the database each worker has a psycopg connection, as bare as it comes.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg

from bench.job import Call
from bench.peers.base import (
    HOST,
    WORKERS,
    Peer,
    Running,
    free_ports,
    lacking,
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

BUDGET = 30.0


def program() -> str | None:
    """Return the server: of the wheel, or another."""
    return shutil.which("nats-server", path=str(Path(sys.executable).parent)) or (
        shutil.which("nats-server")
    )


class Nats(Peer):
    title = "NATS, queue group"

    def missing(self) -> str:
        if program() is None:
            return "no nats-server: pip install -e '.[bench]'"
        return lacking("nats", "uvloop")

    @contextmanager
    def start(self, folder: Path, dsn: str) -> Iterator[Running]:
        (port,) = free_ports(1)
        url = f"nats://{HOST}:{port}"
        with processes() as started, ExitStack() as stack:
            server = program()
            assert server
            arguments = ["-a", HOST, "-p", str(port), "-l", str(folder / "log")]
            started.append(spawn(server, *arguments))
            wait(lambda: listening(port), started)
            commands = [python("nats", url, dsn)] * WORKERS
            pids = stack.enter_context(served(folder, *commands))
            yield Running(url, {"broker": [started[0].pid], "workers": pids})

    async def connect(
        self, endpoint: str, count: int, stack: AsyncExitStack
    ) -> list[Call]:
        import nats

        client = await nats.connect(endpoint, allow_reconnect=False)
        stack.push_async_callback(client.close)

        async def call(work: str, key: int) -> Any:
            echo = work in ECHOES
            sent = payload(work, key) if echo else b"%d" % key
            subject = "bench.echo" if echo else f"bench.{work}"
            reply = await client.request(subject, sent, timeout=BUDGET)
            return reply.data if echo else json.loads(reply.data)

        return [call] * count


async def work(url: str, dsn: str) -> None:
    """Take messages until killed."""
    import nats
    from nats.aio.msg import Msg

    with psycopg.connect(dsn, autocommit=True) as connection:

        async def echo(message: Msg) -> None:
            await message.respond(message.data)

        async def piece(message: Msg) -> None:
            name = message.subject.rpartition(".")[2]
            value = PIECES[name](connection, int(message.data))
            await message.respond(json.dumps(value).encode())

        client = await nats.connect(url)
        await client.subscribe("bench.echo", queue="workers", cb=echo)
        for name in PIECES:
            await client.subscribe(f"bench.{name}", queue="workers", cb=piece)
        await client.flush()
        ready()
        await asyncio.Event().wait()


def main(url: str, dsn: str) -> None:
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work(url, dsn))

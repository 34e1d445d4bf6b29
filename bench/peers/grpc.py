"""gRPC: two servers of grpcio's asyncio, without a broker.

Each has a port of its own, and requests go to them in turn: behind one port a
connection stays with one server.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
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
    python,
    ready,
    served,
)
from bench.pieces import PIECES
from bench.works import ECHOES, payload

OPTIONS = [
    ("grpc.max_receive_message_length", 1 << 24),
    ("grpc.max_send_message_length", 1 << 24),
]


class Grpc(Peer):
    title = "gRPC x2, asyncio"

    def missing(self) -> str:
        return lacking("grpc", "uvloop")

    @contextmanager
    def start(self, folder: Path, dsn: str) -> Iterator[Running]:
        addresses = [f"{HOST}:{port}" for port in free_ports(WORKERS)]
        commands = [python("grpc", address, dsn) for address in addresses]
        with served(folder, *commands) as pids:
            yield Running(",".join(addresses), {"workers": pids})

    async def connect(
        self, endpoint: str, count: int, stack: AsyncExitStack
    ) -> list[Call]:
        from grpc import aio

        channels = []
        for address in endpoint.split(","):
            channel = aio.insecure_channel(address, options=OPTIONS)
            channels.append(await stack.enter_async_context(channel))

        def way(number: int) -> Call:
            channel = channels[number % len(channels)]
            methods = {
                name: channel.unary_unary(f"/bench/{name}")
                for name in ("echo", *PIECES)
            }

            async def call(work: str, key: int) -> Any:
                if work in ECHOES:
                    return await methods["echo"](payload(work, key))
                return json.loads(await methods[work](b"%d" % key))

            return call

        return [way(number) for number in range(count)]


async def serve(address: str, dsn: str) -> None:
    """Serve until killed."""
    import grpc
    from grpc import aio

    with psycopg.connect(dsn, autocommit=True) as connection:

        async def echo(request: bytes, _: Any) -> bytes:
            return request

        def handler(name: str) -> Any:
            async def handle(request: bytes, _: Any) -> bytes:
                return json.dumps(PIECES[name](connection, int(request))).encode()

            return handle

        handlers = {"echo": echo, **{name: handler(name) for name in PIECES}}
        server = aio.server(options=OPTIONS)
        methods = {
            name: grpc.unary_unary_rpc_method_handler(handle)
            for name, handle in handlers.items()
        }
        server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler("bench", methods)]
        )
        server.add_insecure_port(address)
        await server.start()
        ready()
        await asyncio.Event().wait()


def main(address: str, dsn: str) -> None:
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(address, dsn))

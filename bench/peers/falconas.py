"""FalconAS: a broker, two workers, real scripts, every check on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import msgpack

from bench import raw
from bench import stack as stacks
from bench.job import Call, Job
from bench.peers.base import HOST, WORKERS, Peer, Running, free_ports
from bench.works import DATABASE, ECHOES, payload
from falconas import AsyncClient
from falconas.codec import encode_params
from falconas.protocol import Request, encode

LEGS = ("frontend", "backend", "control")


def params(work: str, key: int) -> tuple[str, dict[str, Any]]:
    """Return the script and its parameters."""
    if work in ECHOES:
        return "echo", {"value": payload(work, key)}
    return work, {"key": key}


class FalconAS(Peer):
    """Called by the public client, all calls of one `AsyncClient`."""

    def __init__(self, reset: str = "soft", workers: int = WORKERS) -> None:
        self.reset, self.workers = reset, workers
        self.title = "FalconAS" + ("" if reset == "soft" else f", reset {reset}")
        if workers != WORKERS:
            self.title += f", {workers} workers"
        if reset != "soft":
            self.works = DATABASE  # an echo does not touch the database

    @contextmanager
    def start(self, folder: Path, dsn: str) -> Iterator[Running]:  # noqa: ARG002
        ports = zip(LEGS, free_ports(len(LEGS)), strict=True)
        endpoints = {leg: f"tcp://{HOST}:{port}" for leg, port in ports}
        scripts = stacks.ROOT / "bench/scripts"
        with stacks.served(
            dsn, endpoints, self.workers, scripts, FALCONAS_DATABASE__RESET=self.reset
        ) as stack:
            pids = {"broker": [stack.broker], "workers": [stack.supervisor]}
            yield Running(endpoints["frontend"], pids)

    async def connect(
        self, endpoint: str, count: int, stack: AsyncExitStack
    ) -> list[Call]:
        client = await stack.enter_async_context(AsyncClient(endpoint))

        async def call(work: str, key: int) -> Any:
            return await client.call(*params(work, key))

        return [call] * count


class RawFalconAS(FalconAS):
    """The same servers under the load that `zmq.proxy` gets: from a bare DEALER."""

    def __init__(self) -> None:
        super().__init__()
        self.title = "FalconAS, raw DEALER"
        self.works = frozenset({*ECHOES, "one_row"})

    def load(self, job: Job) -> dict[str, Any]:
        numbers = count()

        def message(key: int) -> tuple[bytes, bytes, bytes]:
            script, values = params(job.work, key)
            id_ = next(numbers).to_bytes(16, "big")
            header = encode(Request(id_, script, 30.0, {}))
            return id_, header, encode_params(values)

        def value(header: bytes, body: bytes) -> Any:
            # Not by our codec: what this client costs is to be that of the proxy's.
            found = msgpack.unpackb(body, strict_map_key=False)
            if msgpack.unpackb(header)[4]:
                raise RuntimeError(found["message"])
            return found

        return raw.load(job, message, value)

"""FalconAS: a broker, two workers, real scripts, every check on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from bench import raw
from bench import stack as stacks
from bench.job import Call, Job
from bench.peers.base import HOST, WORKERS, Peer, Running, free_ports
from bench.works import DATABASE, ECHOES, WORKS, payload
from falconas import AsyncClient
from falconas.codec import decode_value, encode_params
from falconas.protocol import Request, encode

KIND_AND_CODE = slice(21, 23)  # in the header of a reply, behind the id
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
    """The same servers under the load that `zmq.proxy` gets: from a bare DEALER.

    What it does for each request is as little: it puts bytes together.
    """

    servers = "falconas"

    def __init__(self) -> None:
        super().__init__()
        self.title = "FalconAS, raw DEALER"
        self.works = frozenset({*ECHOES, "one_row"})

    def load(self, job: Job) -> dict[str, Any]:
        numbers, size = count(), WORKS[job.work].size
        (script, values), some = params(job.work, 0), payload("echo", 0)[:16]
        before, _, after = encode(Request(some, script, 30.0, {})).partition(some)
        start = encode_params(values)[:-size]

        def message(key: int) -> tuple[bytes, bytes, bytes]:
            id_ = next(numbers).to_bytes(16, "big")
            header = before + id_ + after
            if size:
                return id_, header, start + payload(job.work, key)
            return id_, header, encode_params(params(job.work, key)[1])

        def value(header: bytes, body: bytes) -> Any:
            if header[KIND_AND_CODE] != b"\0\0":
                raise RuntimeError(decode_value(body))
            return body[-size:] if size else decode_value(body)

        return raw.load(job, message, value)

"""What a call costs its client: `python -m bench.client [WAY ...]`.

CPU of the client's process for each call, by who spends it: the threads of the
caller (with their waiting for each other), the client's own thread, libzmq's. The
broker is a stand-in, another process that answers at once with the parameters, in
the order and in the batches in which it finds requests; it is not counted. Ways
are interleaved, figures are medians of the rounds; `least` is the cheapest round,
which says most on a machine that others use too.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from time import monotonic, process_time
from typing import Any, NamedTuple

import msgpack
import zmq

from falconas import AsyncClient, Client
from falconas.cli.table import render

OUTSTANDING = 64
CALLS = 12_800
ROUNDS = 5
PARAMS = {"value": "x" * 86}
HELLO, REQUEST, CATALOGUE = 1, 3, 8
EXTRAS = {"worker": "host/0", "node": "main", "hash": "0" * 16, "run_us": 9}


class Figure(NamedTuple):
    """One round of one way; CPU in microseconds for each call."""

    way: str
    per_second: float
    callers: float
    io: float
    libzmq: float

    @property
    def total(self) -> float:
        return self.callers + self.io + self.libzmq


class Cpu:
    """CPU seconds of this process since it was made."""

    def __init__(self, io: int | None) -> None:
        self._io = io
        self._begun = monotonic()
        self._zero = self._spent()

    def figure(self, way: str, calls: int) -> Figure:
        elapsed = monotonic() - self._begun
        spent = self._spent()
        used = (now - then for now, then in zip(spent, self._zero, strict=True))
        total, io, libzmq = (1e6 * each / calls for each in used)
        return Figure(way, calls / elapsed, total - io - libzmq, io, libzmq)

    def _spent(self) -> tuple[float, float, float]:
        io = libzmq = 0.0
        for task in Path("/proc/self/task").iterdir():
            try:
                seconds = int((task / "schedstat").read_text().split()[0]) / 1e9
                name = (task / "comm").read_text()
            except OSError:  # a thread that has just ended
                continue
            if name.startswith("ZMQbg"):
                libzmq += seconds
            elif int(task.name) == self._io:
                io = seconds
        return process_time(), io, libzmq


def submit(endpoint: str) -> Figure:
    """One thread, `Client.submit`; it waits for the oldest call."""
    with Client(endpoint) as client:
        client.call("echo", PARAMS)
        cpu = Cpu(_thread_of(client))
        calls = deque(client.submit("echo", PARAMS) for _ in range(OUTSTANDING))
        for _ in range(CALLS - OUTSTANDING):
            calls.popleft().result()
            calls.append(client.submit("echo", PARAMS))
        for call in calls:
            call.result()
        return cpu.figure("submit", CALLS)


def threads(endpoint: str) -> Figure:
    """So many threads, each of which waits for its `Client.call`."""
    gate = threading.Barrier(OUTSTANDING + 1)

    def work(client: Client) -> None:
        gate.wait()
        for _ in range(CALLS // OUTSTANDING):
            client.call("echo", PARAMS)

    with Client(endpoint) as client:
        client.call("echo", PARAMS)
        crowd = [
            threading.Thread(target=work, args=(client,)) for _ in range(OUTSTANDING)
        ]
        for thread in crowd:
            thread.start()
        cpu = Cpu(_thread_of(client))
        gate.wait()
        for thread in crowd:
            thread.join()
        return cpu.figure("threads", CALLS)


def single(endpoint: str) -> Figure:
    """One thread that waits for each `Client.call`."""
    with Client(endpoint) as client:
        client.call("echo", PARAMS)
        cpu = Cpu(_thread_of(client))
        for _ in range(CALLS // 8):
            client.call("echo", PARAMS)
        return cpu.figure("single", CALLS // 8)


async def _tasks(endpoint: str, way: str) -> Figure:
    async def work(client: AsyncClient) -> None:
        for _ in range(CALLS // OUTSTANDING):
            await client.call("echo", PARAMS)

    async with AsyncClient(endpoint) as client:
        await client.call("echo", PARAMS)
        cpu = Cpu(None)
        async with asyncio.TaskGroup() as tasks:
            for _ in range(OUTSTANDING):
                tasks.create_task(work(client))
        return cpu.figure(way, CALLS)


def aio(endpoint: str) -> Figure:
    """So many tasks of asyncio, each of which awaits its `AsyncClient.call`."""
    return asyncio.run(_tasks(endpoint, "asyncio"))


def uvloop(endpoint: str) -> Figure:
    """The same on uvloop."""
    import uvloop as loops

    with asyncio.Runner(loop_factory=loops.new_event_loop) as runner:
        return runner.run(_tasks(endpoint, "uvloop"))


WAYS: dict[str, Callable[[str], Figure]] = {
    "submit": submit,
    "threads": threads,
    "single": single,
    "asyncio": aio,
    "uvloop": uvloop,
}


def _thread_of(client: Client) -> int | None:
    return client._io._thread.native_id  # noqa: SLF001


def serve(endpoint: str) -> None:
    """Be the stand-in: a ROUTER that answers what it finds, then looks again."""
    welcome = msgpack.packb({"limits": {"params_bytes": 1 << 20, "budget": 30.0}})
    extras = msgpack.packb(EXTRAS)
    known = msgpack.packb({"scripts": {"echo": True}})
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        router.bind(endpoint)
        send, more = router.send, int(zmq.SNDMORE)
        print("ready", flush=True)
        while True:
            client, header, body = (router.recv() for _ in range(3))
            # An array of few elements, two small integers, an id of 16 bytes.
            command, id_ = header[2], header[3:21]
            send(client, more)
            if command == HELLO:
                send(b"\x96\x01\x02" + id_ + b"\xc4\x08stand-in\x00" + welcome, more)
                send(b"\x90")
                continue
            assert command in (REQUEST, CATALOGUE)
            send(b"\x96\x01\x04" + id_ + b"\x00\x00" + extras, more)
            send(body if command == REQUEST else known)


def run(ways: list[str], rounds: int = ROUNDS) -> list[Figure]:
    """Measure each way in turn, so many times."""
    with tempfile.TemporaryDirectory(prefix="falconas-") as folder:
        endpoint = f"ipc://{folder}/broker"
        command = [sys.executable, "-m", "bench.client", "serve", endpoint]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as peer:
            try:
                assert peer.stdout is not None
                assert peer.stdout.readline() == b"ready\n"
                return [WAYS[way](endpoint) for _ in range(rounds) for way in ways]
            finally:
                peer.terminate()


def table(figures: list[Figure]) -> list[dict[str, Any]]:
    """Return the medians of each way."""
    rows = []
    for way in dict.fromkeys(figure.way for figure in figures):
        mine = [figure for figure in figures if figure.way == way]
        row: dict[str, Any] = {"way": way}
        for name in ("per_second", "callers", "io", "libzmq", "total"):
            row[name] = round(statistics.median(getattr(f, name) for f in mine), 1)
        row["least"] = round(min(figure.total for figure in mine), 1)
        rows.append(row)
    return rows


def main() -> None:
    wanted = sys.argv[1:] or list(WAYS)
    if wanted[0] == "serve":
        serve(wanted[1])
    unknown = [name for name in wanted if name not in WAYS]
    if unknown:
        sys.exit(f"no way {', '.join(unknown)}; there are {', '.join(WAYS)}")
    figures = run(wanted, int(os.environ.get("ROUNDS", ROUNDS)))
    print(render(table(figures), 100))


if __name__ == "__main__":
    main()

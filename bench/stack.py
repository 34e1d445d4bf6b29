"""A broker and workers on a PostgreSQL of their own, for what is measured."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import zmq

from falconas import codec
from falconas.client.sync import Client
from falconas.database.embedded import EmbeddedPostgres
from falconas.protocol import Inspect, encode

ROOT = Path(__file__).parents[1]
TICKS = os.sysconf("SC_CLK_TCK")
ANSWER_MS = 1000


@dataclass
class Stack:
    """What runs, and the way to ask the broker; one socket for all questions."""

    endpoints: dict[str, str]
    broker: int
    supervisor: int
    dsn: str
    control: zmq.Socket[bytes]

    def ready(self) -> list[int]:
        """Return the processes of the workers that may be given work.

        None of them if the broker does not answer: it may have ended.
        """
        self.control.send_multipart((encode(Inspect(os.urandom(16), {})), b""))
        if not self.control.poll(ANSWER_MS):
            return []
        _, body = self.control.recv_multipart()
        workers = codec.decode_value(body)["workers"]
        return [w["pid"] for w in workers if w["state"] != "unready"]

    def client(self) -> Client:
        return Client(self.endpoints["frontend"])


@contextmanager
def falconas(folder: Path, workers: int) -> Iterator[Stack]:
    """Start all with the scripts of the demo; leaving it ends all, by pid."""
    endpoints = {k: f"ipc://{folder}/{k}" for k in ("frontend", "backend", "control")}
    with (
        postgres(folder / "postgres") as server,
        served(server.dsn(), endpoints, workers, ROOT / "workers") as stack,
    ):
        yield stack


@contextmanager
def postgres(folder: Path, **parameters: str) -> Iterator[EmbeddedPostgres]:
    """Start a PostgreSQL of which nothing stays."""
    server = EmbeddedPostgres(folder, durable=False, parameters=parameters)
    try:
        server.start()
        yield server
    finally:
        server.delete()


@contextmanager
def served(
    dsn: str, endpoints: dict[str, str], workers: int, scripts: Path, **more: str
) -> Iterator[Stack]:
    """Start a broker and workers for a database that there is, with more settings."""
    environ = {
        **os.environ,
        **{f"FALCONAS_BROKER__{k.upper()}": v for k, v in endpoints.items()},
        "FALCONAS_DATABASE__DSN": dsn,
        "FALCONAS_LOG__LEVEL": "error",
        "PYTHONPATH": str(ROOT),
        **more,
    }
    command = [sys.executable, "-m", "falconas.cli"]
    worker = ["worker", "--count", str(workers), "--scripts", str(scripts)]
    with processes() as started, zmq.Context() as context:
        for arguments in (["broker"], worker):
            started.append(subprocess.Popen([*command, *arguments], env=environ))
        with context.socket(zmq.DEALER) as control:
            control.linger = 0
            control.connect(endpoints["control"])
            pids = [process.pid for process in started]
            stack = Stack(endpoints, pids[0], pids[1], dsn, control)
            while len(stack.ready()) < workers:
                ended = [each.args for each in started if each.poll() is not None]
                assert not ended, ended
            yield stack


def cpu(roots: Iterable[int]) -> float:
    """Return the CPU seconds of processes and all their descendants, gone ones too."""
    spent: dict[int, float] = {}
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        pid = int(path.parent.name)
        children.setdefault(int(fields[1]), []).append(pid)
        # Its own time and, once they are reaped, its children's.
        spent[pid] = sum(map(int, fields[11:15])) / TICKS
    total, left = 0.0, list(roots)
    while left:
        pid = left.pop()
        total += spent.get(pid, 0.0)
        left += children.get(pid, ())
    return total


@contextmanager
def processes() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes that are ended, the last one first."""
    started: list[subprocess.Popen[bytes]] = []
    try:
        yield started
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait()

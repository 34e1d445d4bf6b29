"""A broker and workers on a PostgreSQL of their own, for what is measured."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import zmq

from falconas import codec
from falconas.client.sync import Client
from falconas.database.embedded import EmbeddedPostgres
from falconas.protocol import Inspect, encode

ROOT = Path(__file__).parents[1]


@dataclass
class Stack:
    """What runs, and the way to ask the broker; one socket for all questions."""

    endpoints: dict[str, str]
    broker: int
    supervisor: int
    dsn: str
    control: zmq.Socket[bytes]

    def ready(self) -> list[int]:
        """Return the processes of the workers that may be given work."""
        self.control.send_multipart((encode(Inspect(os.urandom(16), {})), b""))
        _, body = self.control.recv_multipart()
        workers = codec.decode_value(body)["workers"]
        return [w["pid"] for w in workers if w["state"] != "unready"]

    def client(self) -> Client:
        return Client(self.endpoints["frontend"])


@contextmanager
def falconas(folder: Path, workers: int) -> Iterator[Stack]:
    """Start all; leaving it ends all, by pid."""
    endpoints = {k: f"ipc://{folder}/{k}" for k in ("frontend", "backend", "control")}
    with EmbeddedPostgres(folder / "postgres", durable=False) as server:
        environ = {
            **os.environ,
            **{f"FALCONAS_BROKER__{k.upper()}": v for k, v in endpoints.items()},
            "FALCONAS_DATABASE__DSN": server.dsn(),
            "FALCONAS_LOG__LEVEL": "error",
        }
        command = [sys.executable, "-m", "falconas.cli"]
        scripts = str(ROOT / "workers")
        worker = ["worker", "--count", str(workers), "--scripts", scripts]
        with processes() as started, zmq.Context() as context:
            for arguments in (["broker"], worker):
                started.append(subprocess.Popen([*command, *arguments], env=environ))
            with context.socket(zmq.DEALER) as control:
                control.linger = 0
                control.connect(endpoints["control"])
                pids = [process.pid for process in started]
                stack = Stack(endpoints, pids[0], pids[1], server.dsn(), control)
                while len(stack.ready()) < workers:
                    pass
                yield stack
        server.delete()


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

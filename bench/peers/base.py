"""The shape that all peers have.

A peer is started once and stays idle while others are measured. Its load runs in a
process of its own, `bench.load`, which finds the peer by its key.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from time import monotonic, sleep
from typing import Any, NamedTuple

from bench import closed
from bench.job import Call, Job
from bench.stack import ROOT, processes
from bench.works import WORKS

WORKERS = 2
HOST = "127.0.0.1"
START = 30.0


class Running(NamedTuple):
    """A peer that runs: where, and its processes by role."""

    endpoint: str
    pids: Mapping[str, list[int]]


class Peer:
    """Something that answers requests.

    Attributes:
        title: Its name for people.
        works: What it can be asked for.
        outstanding: How many requests it has on their way, whatever is asked.
        client: The role of the load generator's process.
        servers: The key of the peer whose servers it uses, if they are not its own.
    """

    title = ""
    works = frozenset(WORKS)
    outstanding: tuple[int, ...] = ()
    client = "client"
    servers = ""

    def missing(self) -> str:
        """Tell why it cannot run here, and how to install it; else nothing."""
        return ""

    @contextmanager
    def start(self, folder: Path, dsn: str) -> Iterator[Running]:
        """Start it; leaving ends all its processes.

        Args:
            folder: For its files, and for nobody else's.
            dsn: The database.
        """
        raise NotImplementedError  # each peer has its own

    async def connect(
        self, endpoint: str, count: int, stack: AsyncExitStack
    ) -> list[Call]:
        """Return a way to call for each outstanding request."""
        raise NotImplementedError  # needed where `load` is this class's

    def load(self, job: Job) -> dict[str, Any]:
        """Produce load and return the figures."""
        return closed.tasks(job, self.connect)


def lacking(*packages: str) -> str:
    """Tell which packages are not installed, and how to install them."""
    missing = [name for name in packages if find_spec(name) is None]
    return f"no {', '.join(missing)}: pip install -e '.[bench]'" if missing else ""


def spawn(
    *command: str | Path, environ: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start a process of a peer in the folder of the sources."""
    complete = {**os.environ, "PYTHONPATH": str(ROOT), **(environ or {})}
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=complete,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )


@contextmanager
def served(
    folder: Path, *commands: list[str | Path], **environ: str
) -> Iterator[list[int]]:
    """Start commands that touch the file `BENCH_READY` when they can serve."""
    with processes() as started:
        files = []
        for number, command in enumerate(commands):
            files.append(folder / f"ready-{number}")
            more = {**environ, "BENCH_READY": str(files[-1])}
            started.append(spawn(*command, environ=more))
        wait(lambda: all(file.exists() for file in files), started)
        yield [process.pid for process in started]


def ready() -> None:
    """Say that this process can serve."""
    Path(os.environ["BENCH_READY"]).touch()


def python(peer: str, *arguments: str) -> list[str | Path]:
    """Return a command that runs `main` of a peer's module."""
    return [sys.executable, "-m", "bench.serve", peer, *arguments]


def wait(done: Callable[[], bool], started: list[subprocess.Popen[bytes]]) -> None:
    """Wait until processes are ready.

    Raises:
        RuntimeError: One has ended, or it takes too long.
    """
    end = monotonic() + START
    while not done():
        for process in started:
            if process.poll() is not None:
                raise RuntimeError(f"ended at its start: {process.args!r}")
        if monotonic() > end:
            raise RuntimeError("not ready in time")
        sleep(0.02)


def listening(port: int) -> bool:
    """Tell whether somebody listens."""
    with suppress(ConnectionRefusedError):
        socket.create_connection((HOST, port)).close()
        return True
    return False


def free_ports(count: int) -> list[int]:
    """Return ports that nobody has yet."""
    with ExitStack() as held:
        sockets = [
            held.enter_context(socket.create_server((HOST, 0))) for _ in range(count)
        ]
        return [each.getsockname()[1] for each in sockets]

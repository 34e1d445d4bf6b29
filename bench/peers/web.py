"""Web servers, without a broker: what is usual today.

Several processes are several servers, each on a port of its own, and the clients are
spread over them: given a socket of its parent, uvicorn takes it for a Unix one and
leaves Nagle's algorithm on, which costs 40 ms a request, and connections would not be
spread evenly.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

from bench import http
from bench.job import Call
from bench.peers.base import (
    HOST,
    Peer,
    Running,
    free_ports,
    lacking,
    listening,
    spawn,
    wait,
)
from bench.stack import processes
from bench.works import DATABASE, WORKS

UVICORN = (
    "uvicorn --loop=uvloop --http=httptools --log-level=warning --no-access-log"
    " --host={host} --port={port} {app}:app"
)
GRANIAN = (
    "granian --interface=asgi --workers=1 --loop=uvloop --log-level=error"
    " --host={host} --port={port} {app}:app"
)
GUNICORN = (
    "gunicorn --workers=1 --worker-class=gthread --keep-alive=60 --log-level=error"
    " --threads={size} --bind={host}:{port} {app}:app"
)


class Web(Peer):
    """Some processes of a web server with an application.

    Args:
        title: What it is, for people.
        command: Its command line.
        app: The module of the application.
        count: How many processes.
        size: Connections of all of them, and threads.
        needs: Packages that have to be there.
        works: What it can be asked for.
    """

    def __init__(
        self,
        title: str,
        command: str,
        app: str,
        *,
        count: int = 1,
        size: int = 40,
        needs: tuple[str, ...] = (),
        works: frozenset[str] = frozenset(WORKS),
    ) -> None:
        self.title, self.works = title, works
        self._command, self._app = command, f"bench.apps.{app}"
        self._count, self._size = count, size // count
        self._needs = (command.partition(" ")[0], *needs)

    def missing(self) -> str:
        return lacking(*self._needs)

    @contextmanager
    def start(self, folder: Path, dsn: str) -> Iterator[Running]:  # noqa: ARG002
        environ = {"BENCH_DSN": dsn, "BENCH_CONNECTIONS": str(self._size)}
        ports = free_ports(self._count)
        with processes() as started:
            for port in ports:
                command = self._command.format(
                    host=HOST, port=port, app=self._app, size=self._size
                )
                started.append(
                    spawn(sys.executable, "-m", *command.split(), environ=environ)
                )
            wait(lambda: all(map(listening, ports)), started)
            addresses = ",".join(f"http://{HOST}:{port}" for port in ports)
            yield Running(addresses, {"workers": [each.pid for each in started]})

    async def connect(
        self, endpoint: str, count: int, stack: AsyncExitStack
    ) -> list[Call]:
        return await http.connect(endpoint, count, stack)


POOL = ("psycopg_pool", "uvloop", "httptools")


def threads(command: str, count: int) -> Web:
    """A bare application whose work is done in threads, with a `psycopg_pool`."""
    name = command.partition(" ")[0]
    title = f"bare ASGI on {name} x{count}, threads + psycopg_pool"
    return Web(title, command, "asgi", count=count, needs=POOL)


def coroutines(count: int) -> Web:
    """A bare application of coroutines, with asyncpg's pool."""
    needs = ("asyncpg", *POOL[1:])
    title = f"bare ASGI on uvicorn x{count}, asyncpg"
    return Web(title, UVICORN, "asyncpg_app", count=count, size=20, needs=needs)


def fastapi(size: int) -> Web:
    """What is usual: FastAPI with `def` endpoints, which run in up to 40 threads."""
    return Web(
        f"FastAPI on uvicorn x1, threads + psycopg_pool, {size}",
        UVICORN,
        "fastapi_app",
        size=size,
        needs=("fastapi", *POOL),
        works=DATABASE,
    )


def fastapi_async(count: int) -> Web:
    """FastAPI with `async def` endpoints and asyncpg's pool."""
    return Web(
        f"FastAPI on uvicorn x{count}, asyncpg",
        UVICORN,
        "fastapi_async",
        count=count,
        size=20,
        needs=("fastapi", "asyncpg", *POOL[1:]),
        works=DATABASE,
    )


def node_pool(size: int) -> Web:
    """The classic model: threads of one process and a `NodePool`."""
    return Web(
        f"threads + NodePool, {size}",
        GUNICORN,
        "wsgi",
        size=size,
        needs=POOL[:1],
        works=DATABASE,
    )

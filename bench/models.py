"""The design's claim, measured: three models do the same three pieces of work.

"threads": one process of gunicorn with threads, and a `NodePool`. "FastAPI": one
process of uvicorn, `def` endpoints and a `psycopg_pool`. "FalconAS": a broker and
workers. Each has the same PostgreSQL and gets the same load (`bench.load`) from another
process. Only one of them runs at a time; rounds are interleaved.

Two sizes of each: FalconAS with as many workers as a machine of two cores has, and with
twice as many, since a worker waits while PostgreSQL works; the others with 10 and with
40 connections, the usual size of a pool and of FastAPI's threads.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from time import sleep
from typing import Any, NamedTuple

from psycopg import sql

from bench import load
from bench.pieces import PIECES, make_table
from bench.stack import ROOT, cpu, postgres, processes, served

ROUNDS = 2
CLIENTS = (1, 8, 64)
SECONDS = {"one_row": 1.0, "gathered": 1.0, "aggregated": 2.0}
WARM = 0.3
HOST = "127.0.0.1"
NEEDED = ("fastapi", "gunicorn", "httptools", "psycopg_pool", "uvicorn", "uvloop")
UVICORN = ["uvicorn", "--loop=uvloop", "--http=httptools", "--log-level=warning"]
GUNICORN = [
    "gunicorn",
    "--workers=1",
    "--worker-class=gthread",
    "--keep-alive=60",
    "--log-level=error",
]

TITLES = {
    "one_row": "One row, by its primary key",
    "gathered": "20 such reads, one answer",
    "aggregated": "10,000 rows aggregated in Python",
}
HEAD = (
    "| model | clients | requests/s | p50 ms | p99 ms"
    " | server CPU µs | database CPU µs | client CPU µs |"
)
RULE = "|---|---:|---:|---:|---:|---:|---:|---:|"


class Model(NamedTuple):
    """A way to serve: which, and with how many connections to the database."""

    name: str
    size: int


class Service(NamedTuple):
    """A model that runs: where, and which processes it is."""

    address: str
    pids: list[int]


class Sample(NamedTuple):
    """What one round showed; CPU and time in seconds."""

    model: str
    size: int
    piece: str
    clients: int
    seconds: float
    server_cpu: float
    database_cpu: float
    client_cpu: float
    took: list[float]


class Figure(NamedTuple):
    """All rounds of one model, piece of work and number of clients."""

    model: str
    size: int
    piece: str
    clients: int
    per_second: float
    p50_ms: float
    p99_ms: float
    server_us: float
    database_us: float
    client_us: float


MODELS = tuple(
    Model(name, size)
    for name, sizes in (
        ("threads", (10, 40)),
        ("FastAPI", (10, 40)),
        ("FalconAS", (2, 4)),
    )
    for size in sizes
)


def missing() -> list[str]:
    """Return the packages that are needed and not installed."""
    return [name for name in NEEDED if find_spec(name) is None]


def run(rounds: int = ROUNDS) -> list[Sample]:
    """Measure all, and say how far it is."""
    samples: list[Sample] = []
    answers: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="falconas-") as name:
        folder = Path(name) / "postgres"
        with postgres(folder, max_connections="200") as server:
            dsn = server.create_database("bench")
            make_table(dsn)
            ((data,),) = server.execute(sql.SQL("SHOW data_directory"))
            database = int((Path(data) / "postmaster.pid").read_text().split()[0])
            for number in range(rounds):
                for model in MODELS:
                    _say(f"round {number + 1} of {rounds}: {model.name}, {model.size}")
                    with STARTS[model.name](model.size, dsn) as service:
                        _check(service, answers)
                        samples += _measure(model, service, database)
    return samples


def _check(service: Service, answers: dict[str, Any]) -> None:
    """Have every model give the same answers."""
    for piece in PIECES:
        answer = asyncio.run(load.ask(service.address, piece, 1))
        assert answers.setdefault(piece, answer) == answer, (service, answer)


def _measure(model: Model, service: Service, database: int) -> Iterator[Sample]:
    for piece, seconds in SECONDS.items():
        for clients in CLIENTS:
            command = [service.address, piece, str(clients), str(WARM), str(seconds)]
            with subprocess.Popen(
                [sys.executable, "-m", "bench.load", *command],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                text=True,
            ) as process:
                assert process.stdout is not None
                used = []
                for word in ("begin\n", "end\n"):
                    assert process.stdout.readline() == word
                    used.append((cpu(service.pids), cpu([database])))
                found = json.loads(process.stdout.read())
            (servers, databases) = (b - a for a, b in zip(*used, strict=True))
            yield Sample(
                *model,
                piece,
                clients,
                found["seconds"],
                servers,
                databases,
                found["client_cpu"],
                [round(each, 6) for each in found["took"]],
            )


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


# The models


@contextmanager
def _threads(size: int, dsn: str) -> Iterator[Service]:
    (port,) = _free_ports(1)
    more = [f"--threads={size}", f"--bind={HOST}:{port}", "bench.threads_app:app"]
    with _web([*GUNICORN, *more], port, size, dsn) as service:
        yield service


@contextmanager
def _fastapi(size: int, dsn: str) -> Iterator[Service]:
    (port,) = _free_ports(1)
    more = [f"--host={HOST}", f"--port={port}", "bench.fastapi_app:app"]
    with _web([*UVICORN, *more], port, size, dsn) as service:
        yield service


@contextmanager
def _falconas(size: int, dsn: str) -> Iterator[Service]:
    legs = ("frontend", "backend", "control")
    ports = zip(legs, _free_ports(len(legs)), strict=True)
    endpoints = {leg: f"tcp://{HOST}:{port}" for leg, port in ports}
    with served(dsn, endpoints, size, ROOT / "bench/scripts") as stack:
        yield Service(endpoints["frontend"], [stack.broker, stack.supervisor])


STARTS = {"threads": _threads, "FastAPI": _fastapi, "FalconAS": _falconas}


@contextmanager
def _web(command: list[str], port: int, size: int, dsn: str) -> Iterator[Service]:
    """Start a web server on its port, as anybody would: given a socket, uvicorn takes
    it for a Unix one and leaves Nagle's algorithm on, which costs 40 ms a request."""
    environ = {**os.environ, "BENCH_DSN": dsn, "BENCH_CONNECTIONS": str(size)}
    with processes() as started:
        process = subprocess.Popen(
            [sys.executable, "-m", *command], cwd=ROOT, env=environ
        )
        started.append(process)
        while True:
            with suppress(ConnectionRefusedError):
                socket.create_connection((HOST, port)).close()
                break
            assert process.poll() is None, command
            sleep(0.05)
        yield Service(f"http://{HOST}:{port}", [process.pid])


def _free_ports(count: int) -> list[int]:
    """Return ports that nobody has yet."""
    with ExitStack() as held:
        sockets = [
            held.enter_context(socket.create_server((HOST, 0))) for _ in range(count)
        ]
        return [each.getsockname()[1] for each in sockets]


# What it shows


def figures(samples: list[Sample]) -> list[Figure]:
    """Put the rounds together: medians of the rates, percentiles of all requests."""
    found = []
    keys = dict.fromkeys((s.piece, s.clients, s.model, s.size) for s in samples)
    for piece, clients, model, size in keys:
        mine = [
            s
            for s in samples
            if (s.piece, s.clients, s.model, s.size) == (piece, clients, model, size)
        ]
        took = sorted(each for s in mine for each in s.took)
        count = len(took)
        found.append(
            Figure(
                model,
                size,
                piece,
                clients,
                statistics.median(len(s.took) / s.seconds for s in mine),
                took[count // 2] * 1e3,
                took[count * 99 // 100] * 1e3,
                sum(s.server_cpu for s in mine) / count * 1e6,
                sum(s.database_cpu for s in mine) / count * 1e6,
                sum(s.client_cpu for s in mine) / count * 1e6,
            )
        )
    return found


def markdown(found: list[Figure]) -> str:
    """Return a table for each piece of work."""
    lines = []
    for piece, title in TITLES.items():
        lines += ["", f"**{title}**", "", HEAD, RULE]
        for clients in CLIENTS:
            for figure in found:
                if (figure.piece, figure.clients) == (piece, clients):
                    cells = [f"{figure.model}, {figure.size}", f"{clients}"]
                    cells += map(_short, figure[4:])
                    lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines).strip() + "\n"


def _short(value: float) -> str:
    """Return three digits that count; all those before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def save(samples: list[Sample], path: Path) -> None:
    """Keep the single figures of a run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([s._asdict() for s in samples]) + "\n")


def read(path: Path) -> list[Sample]:
    """Return what was kept."""
    return [Sample(**each) for each in json.loads(path.read_text())]

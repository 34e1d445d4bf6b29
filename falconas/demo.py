"""The demo: TPC-H on a private PostgreSQL, one broker, four workers, real calls.

Everything it makes lies in `.falconas/` of the current folder. What takes long (the
server, the generated files, the loaded template) is kept and used again; each run
works on a clone of the template, so that writes never change the reference data.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from falconas.client.operator import Operator
from falconas.client.sync import Client
from falconas.config import StartError
from falconas.database import tpch
from falconas.database.embedded import EmbeddedPostgres
from falconas.errors import FalconError, Unavailable
from falconas.settings import Broker

FOLDER = Path(".falconas")
SCALE = 0.1
WORKERS = 4
PATIENCE = 30.0
STEPS = 6
PATH_LIMIT = 80

CALLS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("echo", {"value": "Hello, FalconAS"}),
    ("customer_overview", {"customer_id": 370, "limit": 3}),
    ("pricing_summary", {}),
    ("shipping_cohorts", {"year": 1995}),
    (
        "place_order",
        {
            "customer_id": 370,
            "lines": [{"part_id": 1, "quantity": 2}, {"part_id": 42, "quantity": 7}],
        },
    ),
    ("place_order", {"customer_id": 370, "lines": [{"part_id": -1, "quantity": 2}]}),
    ("customer_overview", {"customer_id": 370, "limit": 1}),
)

Say = Callable[[str], None]
Render = Callable[[Any], str]


def run(say: Say, render: Render, *, keep: bool = False) -> None:
    """Run the demo.

    Args:
        say: Prints a line.
        render: Makes text of a result.
        keep: Leave PostgreSQL, broker and workers running; `stop` ends them.

    Raises:
        StartError: There are no example scripts here, or a process did not start.
    """
    scripts = Path("workers")
    if not (scripts / "customer_overview.py").is_file():
        raise StartError(
            "no example scripts in workers/: run the demo in a checkout of FalconAS"
        )
    stop()  # what an earlier run was told to keep
    with ExitStack() as stack:
        server, dsn = _database(say, stack)
        endpoints = _endpoints(say)
        environ = _environ(endpoints, dsn)
        started: list[subprocess.Popen[bytes]] = []
        with _step(say, 5, f"starting a broker and {WORKERS} workers"):
            for name, arguments in (
                ("broker", ["broker"]),
                ("worker", ["worker", "--count", str(WORKERS), "--scripts", "workers"]),
            ):
                process = _start(name, arguments, environ)
                stack.callback(_end, process)
                started.append(process)
            _await_workers(endpoints, started)
        say(f"[6/{STEPS}] calling scripts as a client does\n")
        with Client(endpoints["frontend"]) as client:
            for script, params in CALLS:
                _show(client, script, params, say, render)
        if keep:
            server.keep()
            _write_state(started)
            stack.pop_all()
        _next(say, endpoints, dsn, keep=keep)


def stop() -> bool:
    """End what a demo that was told to keep it left running; True if there was any."""
    state = _read_state()
    for pid, began in state.items():
        if _began(pid) == began:
            os.kill(pid, signal.SIGTERM)
            _await_end(pid)
    if _server().folder.is_dir():
        _server().shutdown()
    _state_file().unlink(missing_ok=True)
    return bool(state)


def clean() -> None:
    """Stop what was left running and remove all generated data."""
    stop()
    if _server().folder.is_dir():
        _server().delete()  # it may have files of its own elsewhere
    shutil.rmtree(FOLDER, ignore_errors=True)


def _server() -> EmbeddedPostgres:
    return EmbeddedPostgres(FOLDER / "postgres", durable=False)


def _database(say: Say, stack: ExitStack) -> tuple[EmbeddedPostgres, str]:
    """Start the server and return the conninfo of a fresh clone of the data."""
    server = _server()
    with _step(say, 1, "starting PostgreSQL"):
        server.start()
    stack.callback(server.stop)
    with _step(say, 2, f"generating TPC-H at scale {SCALE}"):
        files = tpch.generate(FOLDER, SCALE)
    with _step(say, 3, "loading it into a template database"):
        template = tpch.make_template(server, files)
    with _step(say, 4, "cloning the template for this run"):
        server.drop_database("demo")
        dsn = server.dsn(tpch.clone(server, template, "demo"))
    return server, dsn


@contextmanager
def _step(say: Say, number: int, what: str) -> Iterator[None]:
    began = monotonic()
    say(f"[{number}/{STEPS}] {what} …")
    yield
    say(f"      done in {monotonic() - began:.1f} s")


def _endpoints(say: Say) -> dict[str, str]:
    """Return the default endpoints if they are free, else sockets in our folder."""
    keys = ("frontend", "backend", "control")
    defaults = {key: getattr(Broker(), key) for key in keys}
    if all(_is_free(endpoint) for endpoint in defaults.values()):
        return defaults
    folder = FOLDER.resolve() / "run"
    if len(str(folder)) > PATH_LIMIT:  # of a unix socket
        folder = Path(tempfile.mkdtemp(prefix="falconas-"))
    say(f"      (a default port is in use, so the broker listens in {folder})")
    return {key: f"ipc://{folder}/{key}" for key in keys}


def _is_free(endpoint: str) -> bool:
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, int(port)))
        except OSError:
            return False
    return True


def _environ(endpoints: dict[str, str], dsn: str) -> dict[str, str]:
    ours = {
        f"FALCONAS_BROKER__{key.upper()}": value for key, value in endpoints.items()
    }
    kept = {k: v for k, v in os.environ.items() if not k.startswith("FALCONAS_")}
    return {**kept, **ours, "FALCONAS_DATABASE__DSN": dsn}


def _start(
    name: str, arguments: list[str], environ: dict[str, str]
) -> subprocess.Popen[bytes]:
    log = FOLDER / f"{name}.log"
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "falconas.cli", *arguments],
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _await_workers(
    endpoints: dict[str, str], started: list[subprocess.Popen[bytes]]
) -> None:
    give_up = monotonic() + PATIENCE
    while monotonic() < give_up and all(p.poll() is None for p in started):
        try:
            report = Operator(endpoints["control"], timeout=1.0).inspect()
        except Unavailable:
            continue
        ready = [w for w in report["workers"] if w["state"] != "unready"]
        if len(ready) == WORKERS:
            return
        sleep(0.05)
    raise StartError(
        "the broker or its workers did not start; see"
        f" {FOLDER / 'broker.log'} and {FOLDER / 'worker.log'}"
    )


def _show(
    client: Client, script: str, params: dict[str, Any], say: Say, render: Render
) -> None:
    words = [
        f"{key}:={json.dumps(value)}" if isinstance(value, list) else f"{key}={value}"
        for key, value in params.items()
    ]
    say("--- " + shlex.join(["falconas", "call", script, *words]))
    began = monotonic()
    call = client.submit(script, params)
    try:
        text = render(call.result())
    except FalconError as error:
        text = f"{error.code.name}: {error.message}"
    took = (monotonic() - began) * 1000
    info = call.info
    say(text)
    say(
        f"    {took:.1f} ms, of which {info.get('run_us', 0) / 1000:.1f} ms in"
        f" worker {info.get('worker')} on node {info.get('node')}\n"
    )


def _next(say: Say, endpoints: dict[str, str], dsn: str, *, keep: bool) -> None:
    if not keep:
        say(
            "All is stopped again. To try it yourself: `make demo KEEP=1` leaves it"
            " running, and README.md shows how to write a script of your own."
        )
        return
    say("PostgreSQL, broker and workers go on running. Try, in this folder:\n")
    say("    source .venv/bin/activate")
    say(f"    export FALCONAS_DATABASE__DSN={shlex.quote(dsn)}")
    if endpoints["frontend"] != Broker().frontend:
        say(f"    export FALCONAS_CLIENT__FRONTEND={endpoints['frontend']}")
        say(f"    export FALCONAS_CLIENT__CONTROL={endpoints['control']}")
    for command in (
        "status",
        "scripts",
        "call customer_overview customer_id=42",
        "call pricing_summary delta_days=60 --json",
    ):
        say(f"    falconas {command}")
    say(
        "\n`falconas demo --stop` stops it; `make clean` also removes the generated"
        " data."
    )


def _state_file() -> Path:
    return FOLDER / "demo.json"


def _write_state(started: list[subprocess.Popen[bytes]]) -> None:
    state = {str(process.pid): _began(process.pid) for process in started}
    _state_file().write_text(json.dumps(state))


def _read_state() -> dict[int, str]:
    """Return pid and start of the processes that were left, the last one first."""
    try:
        state = json.loads(_state_file().read_text())
    except (OSError, ValueError):
        return {}
    return {int(pid): began for pid, began in reversed(state.items())}


def _began(pid: int) -> str | None:
    """Return when a process began: a pid alone may be another's by now."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return None


def _await_end(pid: int) -> None:
    began = _began(pid)
    give_up = monotonic() + PATIENCE
    while _began(pid) == began and monotonic() < give_up:
        sleep(0.05)

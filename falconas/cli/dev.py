from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any

import click

from falconas.cli.checks import check_connection, check_database, check_scripts
from falconas.cli.children import Children
from falconas.cli.database import Place, database, is_given
from falconas.cli.failures import Exit
from falconas.cli.options import options
from falconas.cli.reports import example_call
from falconas.cli.watching import reloading
from falconas.config import Settings, check_broker
from falconas.errors import FalconError, Unavailable
from falconas.listing import environ_of
from falconas.options import dialable
from falconas.stderr import Stderr

POLL_INTERVAL = 0.2
WATCH_INTERVAL = 1.0
POSTGRES = "PostgreSQL"
KILL_AFTER = 5.0  # beyond the time that draining may take

log = logging.getLogger("falconas.dev")


@click.command
@click.option(
    "--nodes",
    type=click.IntRange(1, 9),
    metavar="N",
    help="So many PostgreSQL nodes: a primary, n1, and its standbys n2, n3, …",
)
@options(
    "worker.scripts",
    "worker.count",
    "database",
    "broker.frontend",
    "broker.backend",
    "broker.control",
    "log",
    stream=Stderr,
)
def dev(settings: Settings, *, nodes: int | None) -> int:
    """Serve this folder's scripts: PostgreSQL, broker and workers.

    PostgreSQL comes from its wheel, with its data in .falconas/dev, unless a
    database is given by --dsn or libpq's variables. Scripts that change are
    reloaded. Ctrl-C stops all of it.
    """
    check_broker(settings.broker)
    check_scripts(settings)
    check_database(settings)
    if is_given(settings, os.environ) and not nodes:
        check_connection(settings)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(Exit.OK))
    # The workers dial the broker that we start, whatever else is configured.
    broker = settings.broker
    worker = replace(
        settings.worker,
        backend=dialable(broker.backend),
        control=dialable(broker.control),
    )
    if nodes and not worker.count:  # else a node might have nothing to do
        worker = replace(worker, count=max(nodes, os.cpu_count() or 1))
    settings = replace(settings, worker=worker)
    with database(settings, os.environ, nodes=nodes or 0) as place:
        return _serve(place)


def _serve(place: Place) -> int:
    settings = place.settings
    environ = {**os.environ, **environ_of(settings)}
    environ.pop("FALCONAS_CONFIG", None)
    with Children(environ) as children:
        children.start("broker")
        children.start("worker")
        with _stopping(children, settings):
            ended = _until_ready(children, settings)
            if ended is None:
                click.echo(_welcome(place, _example(settings)), err=True)
                ended = _reloading(children, place)
            log.error("%s ended by itself", ended)
            code = Exit.FAILED if ended == POSTGRES else children.code(ended or "")
    return code if code > 0 else Exit.FAILED


@contextmanager
def _stopping(children: Children, settings: Settings) -> Iterator[None]:
    try:
        yield
    finally:
        children.stop(
            {
                "worker": settings.worker.drain_timeout + KILL_AFTER,
                "broker": settings.broker.drain_timeout + KILL_AFTER,
            }
        )


def _until_ready(children: Children, settings: Settings) -> str | None:
    """Wait for the first ready worker; return the command that ended instead."""
    from falconas.client.operator import Operator

    operator = Operator(dialable(settings.broker.control), timeout=1.0)
    late = monotonic() + settings.worker.boot_timeout
    while True:
        ended = children.wait(POLL_INTERVAL)
        if ended is not None or _is_ready(operator):
            return ended
        if monotonic() > late:
            log.warning("no worker is ready yet; the log says why")
            late = monotonic() + settings.worker.boot_timeout


def _reloading(children: Children, place: Place) -> str:
    """Reload scripts that change until something ends by itself; return what."""

    def reload() -> None:
        children.signal("worker", signal.SIGHUP)

    with reloading(Path(place.settings.worker.scripts), reload):
        return _until_end(children, place)


def _until_end(children: Children, place: Place) -> str:
    """Return what ended by itself: a command, or our PostgreSQL."""
    while place.is_up():
        ended = children.wait(WATCH_INTERVAL)
        if ended is not None:
            return ended
    return POSTGRES


def _is_ready(operator: Any) -> bool:
    try:
        workers = operator.inspect()["workers"]
    except Unavailable:
        return False
    return any(worker["state"] != "unready" for worker in workers)


def _example(settings: Settings) -> str:
    from falconas.client.sync import Client

    try:
        with Client(dialable(settings.broker.frontend), budget=1.0) as client:
            return example_call(client.scripts())
    except FalconError:
        return example_call({})


def _welcome(place: Place, example: str) -> str:
    settings = place.settings
    frontend = dialable(settings.broker.frontend)
    defaults = Settings().client
    option = _unless(defaults.frontend, "--frontend", frontend)
    control = settings.worker.control
    nodes = f"    falconas nodes{_unless(defaults.control, '--control', control)}\n"
    return (
        "\n"
        f"  FalconAS serves {settings.worker.scripts}/ at {frontend}\n"
        f"  database: {place.where}\n"
        "\n"
        "  In another terminal:\n"
        f"    falconas scripts{option}\n"
        f"    falconas call{option} {example}\n"
        f"{nodes if settings.nodes else ''}"
        "\n"
        "  Ctrl-C stops it.\n"
    )


def _unless(default: str, flag: str, value: str) -> str:
    return "" if value == default else f" {flag} {value}"

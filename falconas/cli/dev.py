from __future__ import annotations

import logging
import os
import shlex
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
from falconas.cli.database import FOLDER, database, is_given
from falconas.cli.failures import Exit
from falconas.cli.options import options
from falconas.cli.reports import example_call
from falconas.cli.watching import reloading
from falconas.config import Settings, check_broker, environ_of
from falconas.errors import FalconError, Unavailable
from falconas.logs import mask
from falconas.options import dialable
from falconas.stderr import Stderr

POLL_INTERVAL = 0.2
WATCH_INTERVAL = 1.0
POSTGRES = "PostgreSQL"
KILL_AFTER = 5.0  # beyond the time that draining may take

log = logging.getLogger("falconas.dev")


@click.command
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
def dev(settings: Settings) -> int:
    """Serve this folder's scripts: PostgreSQL, broker and workers.

    PostgreSQL comes from its wheel, with its data in .falconas/dev, unless a
    database is given by --dsn or libpq's variables. Scripts that change are
    reloaded. Ctrl-C stops all of it.
    """
    check_broker(settings.broker)
    check_scripts(settings)
    check_database(settings)
    given = is_given(settings, os.environ)
    if given:
        check_connection(settings)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(Exit.OK))
    # The workers dial the broker that we start, whatever else is configured.
    broker = settings.broker
    worker = replace(
        settings.worker,
        backend=dialable(broker.backend),
        control=dialable(broker.control),
    )
    settings = replace(settings, worker=worker)
    with database(settings, os.environ) as complete:
        return _serve(complete, given=given)


def _serve(settings: Settings, *, given: bool) -> int:
    environ = {**os.environ, **environ_of(settings)}
    environ.pop("FALCONAS_CONFIG", None)
    with Children(environ) as children:
        children.start("broker")
        children.start("worker")
        with _stopping(children, settings):
            ended = _until_ready(children, settings)
            if ended is None:
                text = _welcome(settings, _example(settings), given=given)
                click.echo(text, err=True)
                ended = _reloading(children, settings, given=given)
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


def _reloading(children: Children, settings: Settings, *, given: bool) -> str | None:
    """Reload scripts that change until something ends by itself; return what."""

    def reload() -> None:
        children.signal("worker", signal.SIGHUP)

    with reloading(Path(settings.worker.scripts), reload):
        return children.wait() if given else _until_end(children)


def _until_end(children: Children) -> str:
    """Return what ended by itself: a command, or our PostgreSQL."""
    from falconas.database.embedded import EmbeddedError, EmbeddedPostgres

    postgres = EmbeddedPostgres(FOLDER)
    while True:
        ended = children.wait(WATCH_INTERVAL)
        if ended is not None:
            return ended
        try:
            postgres.dsn()
        except EmbeddedError:
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


def _welcome(settings: Settings, example: str, *, given: bool) -> str:
    dsn = mask(settings.database.dsn)
    if given:
        where = f"the given one ({dsn or 'from the PG… variables'})"
    else:
        where = f"our own in {FOLDER} (psql {shlex.quote(dsn)})"
    frontend = dialable(settings.broker.frontend)
    option = "" if frontend == Settings().client.frontend else f" --frontend {frontend}"
    return (
        "\n"
        f"  FalconAS serves {settings.worker.scripts}/ at {frontend}\n"
        f"  database: {where}\n"
        "\n"
        "  In another terminal:\n"
        f"    falconas scripts{option}\n"
        f"    falconas call{option} {example}\n"
        "\n"
        "  Ctrl-C stops it.\n"
    )

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from falconas.cli import arguments
from falconas.cli.call import budget_option
from falconas.cli.checks import check_database, check_scripts
from falconas.cli.database import database
from falconas.cli.options import options
from falconas.cli.output import print_value, served_by
from falconas.config import Settings

if TYPE_CHECKING:
    from falconas.worker.runner import Outcome


@click.command
@click.argument("script")
@click.argument("parameters", nargs=-1, metavar="[KEY=VALUE|KEY:=JSON]...")
@click.option("--params", metavar="FILE|-", help="JSON object with parameters.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("-v", "--verbose", is_flag=True, help="Say on stderr how long it took.")
@budget_option
@options("worker.scripts", "database", "log")
def run(
    settings: Settings,
    *,
    script: str,
    parameters: tuple[str, ...],
    params: str | None,
    as_json: bool,
    verbose: bool,
    budget: float | None,
) -> None:
    """Run SCRIPT here, without broker and workers.

    What it writes is committed. The database is that of `falconas dev`, with its
    nodes if it runs some, unless one is given by --dsn or libpq's variables. What
    the script prints goes to stderr.
    """
    words = arguments.parse(parameters)
    values = arguments.read(params) if params else {}
    check_scripts(settings)
    check_database(settings)
    from falconas.codec import decode_value
    from falconas.errors import Code, error_for

    entry = cache(partial(_entry, Path(settings.worker.scripts), script))
    with redirect_stdout(sys.stderr):
        texts = not all(word.exact for word in words)
        values |= arguments.convert(words, entry().get("params", []) if texts else [])
        outcome = _run(
            settings,
            script,
            values,
            entry,
            settings.broker.budget if budget is None else budget,
        )
    value = decode_value(outcome.body)
    if outcome.code != Code.OK:
        raise error_for(outcome.code, value)
    print_value(value, as_json=as_json)
    if verbose:
        click.echo(served_by(outcome.extras), err=True)


def _run(
    settings: Settings,
    script: str,
    values: dict[str, Any],
    entry: Callable[[], dict[str, Any]],
    budget: float,
) -> Outcome:
    from falconas.cli.choice import choose
    from falconas.worker.runner import run_script

    with database(settings, os.environ) as place:
        choice = choose(place.settings, script, entry)
        return run_script(
            choice.dsn,
            Path(settings.worker.scripts),
            script,
            values,
            budget=budget,
            result_bytes=settings.broker.result_bytes,
            node=choice.node,
            database=choice.group.database,
            autocommit=choice.group.autocommit,
        )


def _entry(folder: Path, script: str) -> dict[str, Any]:
    """Return what the script declares."""
    from falconas.worker.scripts import load

    entry: dict[str, Any] = load(folder).manifest()["scripts"].get(script, {})
    return entry

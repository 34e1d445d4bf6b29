from __future__ import annotations

import os
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import click

from falconas.cli import arguments
from falconas.cli.call import budget_option
from falconas.cli.checks import check_database, check_scripts
from falconas.cli.database import database
from falconas.cli.options import options
from falconas.cli.output import print_value, served_by
from falconas.config import Settings


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

    What it writes is committed. The database is that of `falconas dev` unless one
    is given by --dsn or libpq's variables. What the script prints goes to stderr.
    """
    words = arguments.parse(parameters)
    values = arguments.read(params) if params else {}
    check_scripts(settings)
    check_database(settings)
    from falconas.codec import decode_value
    from falconas.errors import Code, error_for
    from falconas.worker.runner import run_script

    folder = Path(settings.worker.scripts)
    with redirect_stdout(sys.stderr):
        values |= arguments.convert(words, _parameters(folder, script, words))
        with database(settings, os.environ) as complete:
            outcome = run_script(
                complete.database.dsn,
                folder,
                script,
                values,
                budget=settings.broker.budget if budget is None else budget,
                node=settings.database.node,
                result_bytes=settings.broker.result_bytes,
            )
    value = decode_value(outcome.body)
    if outcome.code != Code.OK:
        raise error_for(outcome.code, value)
    print_value(value, as_json=as_json)
    if verbose:
        click.echo(served_by(outcome.extras), err=True)


def _parameters(
    folder: Path, script: str, words: list[arguments.Argument]
) -> list[dict[str, Any]]:
    """Return what the script declares, if some text is to be converted."""
    if all(word.exact for word in words):
        return []
    from falconas.worker.scripts import load

    entry = load(folder).manifest()["scripts"].get(script, {})
    params: list[dict[str, Any]] = entry.get("params", [])
    return params

from __future__ import annotations

from typing import Any

import click

from falconas.cli.failures import Exit
from falconas.cli.options import options
from falconas.cli.output import print_value
from falconas.cli.patience import patient
from falconas.cli.reports import (
    catalogue_text,
    nearest,
    nodes_text,
    script_text,
    status_text,
)
from falconas.config import Settings
from falconas.errors import NotFound


@click.command
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
@options("client.frontend", "client.budget", "log.level")
def scripts(settings: Settings, *, name: str | None, as_json: bool) -> int:
    """List the scripts, or tell all about the one called NAME."""
    from falconas.client.sync import Client

    client = settings.client
    with (
        Client(client.frontend, budget=client.budget) as broker,
        patient(broker, client.frontend),
    ):
        known = broker.scripts()
    if name is not None and name not in known:
        raise NotFound(f"no script {name!r}; {nearest(name, known)}")
    if as_json:
        print_value(known if name is None else known[name], as_json=True)
    else:
        click.echo(catalogue_text(known) if name is None else script_text(name, known))
    entry = {} if name is None else known[name]
    broken = entry.get("error") or entry.get("quarantined")
    return Exit.FAILED if broken else Exit.OK


@click.command
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
@options("client.control", "log.level")
def status(settings: Settings, *, as_json: bool) -> None:
    """Show the broker's workers, their state, and what waits."""
    from falconas.client.operator import Operator

    report: dict[str, Any] = Operator(settings.client.control).inspect()
    if as_json:
        print_value(report, as_json=True)
    else:
        click.echo(status_text(report))


@click.command
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
@options("client.control", "log.level")
def nodes(settings: Settings, *, as_json: bool) -> None:
    """Show the database nodes: role, lag, health, and work done.

    They are as the supervisors see them, by their probes.
    """
    from falconas.client.operator import Operator

    report: dict[str, Any] = Operator(settings.client.control).inspect()
    if as_json:
        print_value(report["nodes"], as_json=True)
    else:
        click.echo(nodes_text(report["nodes"], len(report["supervisors"])))

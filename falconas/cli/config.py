from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from falconas.checks import idle
from falconas.cli.checks import check_database, check_scripts
from falconas.cli.failures import Exit, describe
from falconas.cli.options import config_option, help_if_bare, load
from falconas.config import ConfigError, check_broker
from falconas.listing import example, show


@click.group(invoke_without_command=True)
@click.pass_context
def config(ctx: click.Context) -> None:
    """Show, check or write the configuration."""
    help_if_bare(ctx)


@config.command("show")
@config_option
def show_(config_file: str | None) -> None:
    """Show each option's value and where it comes from; passwords are masked."""
    loaded = load(config_file, {})
    click.echo(show(loaded.settings, loaded.origins), nl=False)
    for warning in loaded.warnings:
        click.echo(f"falconas: {warning}", err=True)


@config.command("example")
def example_() -> None:
    """Write a complete falconas.toml with every option explained."""
    click.echo(example(), nl=False)


@config.command
@config_option
def check(config_file: str | None) -> int:
    """Check the configuration without starting anything."""
    from falconas.database.inventory import doubtful

    loaded = load(config_file, {})
    settings = loaded.settings
    unread = _wrong(check_database, settings)
    wrong = _wrong(check_broker, settings.broker) + unread
    notes = [
        f"{text} (a host that runs no workers needs none)"
        for text in _wrong(check_scripts, settings)
    ]
    notes += [*loaded.warnings, *idle(settings)]
    if not unread:
        notes += doubtful(settings)
    for line in [*wrong, *notes]:
        click.echo(f"falconas: {line}", err=True)
    if wrong:
        return Exit.USAGE
    click.echo("the configuration is good")
    return Exit.OK


def _wrong(check: Callable[[Any], None], settings: Any) -> list[str]:
    try:
        check(settings)
    except ConfigError as error:
        return [describe(error)[0]]
    return []

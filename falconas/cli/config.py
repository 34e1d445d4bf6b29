from __future__ import annotations

import click

from falconas.cli.checks import check_database, check_scripts
from falconas.cli.options import config_option, load
from falconas.config import check_broker, example, show


@click.group
def config() -> None:
    """Show, check or write the configuration."""


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
def check(config_file: str | None) -> None:
    """Check the configuration without starting anything."""
    loaded = load(config_file, {})
    check_broker(loaded.settings.broker)
    check_scripts(loaded.settings)
    check_database(loaded.settings)
    for warning in loaded.warnings:
        click.echo(f"falconas: {warning}", err=True)
    click.echo("the configuration is good")

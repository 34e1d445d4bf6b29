"""Command line options, made from the settings: nothing is written twice."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable
from io import TextIOBase
from pathlib import Path
from typing import Any

import click

from falconas import logs
from falconas.cli.failures import Exit
from falconas.config import OPTIONS, Loaded, Option, locate, resolve
from falconas.options import Flag

log = logging.getLogger("falconas.config")

Command = Callable[..., Any]


def options(
    *names: str, stream: Callable[[], TextIOBase] | None = None
) -> Callable[[Command], Command]:
    """Add options to a command, which gets the settings as its first argument.

    Args:
        names: Sections, or single options such as `worker.count`.
        stream: What opens the log's stream; None: it is `sys.stderr`.
    """
    chosen = [o for o in OPTIONS.values() if o.section in names or o.path in names]

    def decorate(function: Command) -> Command:
        @functools.wraps(function)
        def command(config_file: str | None, **values: Any) -> Any:
            given: dict[str, dict[str, Any]] = {}
            for option in chosen:
                value = values.pop(_parameter(option))
                if value is not None:
                    given.setdefault(option.section, {})[option.key] = value
            loaded = _prepare(config_file, given, stream and stream())
            return function(loaded.settings, **values)

        wrapped: Command = command
        for option in reversed(chosen):
            wrapped = _click_option(option)(wrapped)
        return config_option(wrapped)

    return decorate


def config_option(command: Command) -> Command:
    """Add `--config FILE`."""
    return click.option(
        "--config",
        "config_file",
        metavar="FILE",
        help="Configuration file.  [default: FALCONAS_CONFIG, else ./falconas.toml]",
    )(command)


def help_if_bare(ctx: click.Context) -> None:
    """Show the help of a group of commands that was called without one."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(Exit.USAGE)


def load(config_file: str | None, given: dict[str, dict[str, Any]]) -> Loaded:
    """Read file, environment and the given options."""
    path = locate(config_file, os.environ, Path.cwd())
    return resolve(path, os.environ, given)


def _prepare(
    config_file: str | None,
    given: dict[str, dict[str, Any]],
    stream: TextIOBase | None,
) -> Loaded:
    loaded = load(config_file, given)
    settings = loaded.settings
    logs.setup(settings.log.level, settings.log.format, stream)
    for warning in loaded.warnings:
        log.warning(warning)
    return loaded


def _parameter(option: Option) -> str:
    return option.path.replace(".", "__")


def _click_option(option: Option) -> Callable[[Command], Command]:
    flags = [option.flag] if option.short is None else [option.short, option.flag]
    shown = option.kind.text(option.default)
    text = f"{option.help}  [default: {shown or 'empty'}]"
    if isinstance(option.kind, Flag):
        off = option.flag.replace("--", "--no-", 1)
        names = [f"{option.flag}/{off}", _parameter(option)]
        return click.option(*names, default=None, help=text)
    return click.option(
        *flags, _parameter(option), metavar=option.kind.metavar, help=text
    )

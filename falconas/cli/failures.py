"""Exit codes, and errors as one line for people."""

from __future__ import annotations

import signal
from enum import IntEnum

import click

from falconas.config import ConfigError, StartError
from falconas.errors import FalconError, Started
from falconas.logs import mask, printable

_STARTED = {
    Started.NO: "not started",
    Started.YES: "started",
    Started.UNKNOWN: "may have been started",
}


class Exit(IntEnum):
    """How a command ended."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_STARTED = 3
    HUNG_UP = 128 + signal.SIGHUP
    INTERRUPTED = 128 + signal.SIGINT
    TERMINATED = 128 + signal.SIGTERM


class Interrupted(click.Abort):
    """A signal has ended a command."""

    def __init__(self, said: str, signum: int) -> None:
        super().__init__(said)
        self.code = Exit(128 + signum)


def describe(error: BaseException) -> tuple[str, Exit]:
    """Return the line that says what went wrong, and the exit code."""
    if isinstance(error, click.UsageError):
        where = error.ctx.command_path if error.ctx else "falconas"
        return f"{_said(error)} (see `{where} --help`)", Exit.USAGE
    if isinstance(error, click.ClickException):
        return _said(error), Exit.USAGE
    if isinstance(error, click.Abort | KeyboardInterrupt):
        said = f": {error}" if str(error) else ""
        code = error.code if isinstance(error, Interrupted) else Exit.INTERRUPTED
        return f"interrupted{said}", code
    if isinstance(error, StartError):
        return f"cannot start: {_one_line(str(error))}", Exit.NOT_STARTED
    if isinstance(error, ConfigError):
        return _one_line(str(error)), Exit.USAGE
    if isinstance(error, FalconError):
        return describe_verdict(error), Exit.FAILED
    text = _one_line(f"{type(error).__name__}: {error}")
    hint = "--log-level debug shows where"
    return f"internal error: {text} ({hint})", Exit.FAILED


def describe_verdict(error: FalconError) -> str:
    """Return `CODE: message (not started; safe to send again)`."""
    facts = [_STARTED[error.started]]
    if error.retry_safe:
        after = error.retry_after
        facts.append(
            "safe to send again" + (f" after {after:g} s" if after is not None else "")
        )
    if error.sqlstate:
        facts.append(f"SQLSTATE {error.sqlstate}")
    return f"{error.code.name}: {_one_line(error.message)} ({'; '.join(facts)})"


def _said(error: click.ClickException) -> str:
    text = _one_line(error.format_message()).rstrip(".")
    return text[:1].lower() + text[1:]


def _one_line(text: str) -> str:
    return printable(mask(" ".join(text.split())))

from __future__ import annotations

import signal

import click
import pytest

from falconas.cli.failures import Exit, Interrupted, describe
from falconas.config import ConfigError, StartError
from falconas.errors import FalconError, NotFound, ScriptError, Started, Unavailable


@pytest.mark.parametrize(
    ("error", "line", "code"),
    [
        (ConfigError("x must be y"), "x must be y", 2),
        (StartError("port in use"), "cannot start: port in use", 3),
        (KeyboardInterrupt(), "interrupted", 130),
        (click.Abort(), "interrupted", 130),
        (Interrupted("too late", signal.SIGTERM), "interrupted: too late", 143),
        (click.UsageError("Bad."), "bad (see `falconas --help`)", 2),
        (click.ClickException("File x."), "file x", 2),
        (NotFound("no x"), "NOT_FOUND: no x (not started)", 1),
        (
            Unavailable("lost", started=Started.UNKNOWN),
            "UNAVAILABLE: lost (may have been started)",
            1,
        ),
        (
            Unavailable("busy", retry_safe=True, retry_after=0.5),
            "UNAVAILABLE: busy (not started; safe to send again after 0.5 s)",
            1,
        ),
        (
            ScriptError("no", started=Started.YES, sqlstate="23505"),
            "UNKNOWN: no (started; SQLSTATE 23505)",
            1,
        ),
        (
            ZeroDivisionError("0"),
            "internal error: ZeroDivisionError: 0 (--log-level debug shows where)",
            1,
        ),
    ],
)
def test_each_error_is_one_line_and_a_code(
    error: BaseException, line: str, code: int
) -> None:
    assert describe(error) == (line, Exit(code))


@pytest.mark.parametrize("kind", [ConfigError, StartError, FalconError, OSError])
def test_no_line_breaks_secrets_or_control_characters(kind: type[Exception]) -> None:
    line, _ = describe(kind("a\nb password=hidden \x1b[2J"))
    assert "hidden" not in line
    assert line.isprintable()
    assert "a b password=***" in line

"""Logging: lines for people on a terminal, JSON lines for machines, to stderr.

Extras given to a logger (`log.info("served", extra={"script": name})`) become
keys of the line. Passwords in connection strings are masked in whatever is
written.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from datetime import UTC, datetime
from typing import Any, TextIO

MASK = "***"

_URL_PASSWORD = re.compile(r"(://[^\s:/@?]*:)\S{0,1024}(?=@)")
_KEY_PASSWORD = re.compile(
    r"""((?:password|secret)(?:\s*=\s*|["']\s*:\s*["']?))  # =, or a key of a map
        ('(?:[^'\\]|\\.)*(?:'|\Z)|(?:[^\s\\]|\\.)+)          # quoted, or to a blank
    """,
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {
    "message",
    "asctime",
    "taskName",
}


def setup(
    level: str = "info",
    format: str = "auto",  # noqa: A002
    stream: TextIO | None = None,
) -> None:
    """Send the process's log to stderr; a second call replaces the first.

    Args:
        level: debug, info, warning or error.
        format: text, json, or auto: text on a terminal, json otherwise.
        stream: Where to write instead of stderr.
    """
    stream = sys.stderr if stream is None else stream
    plain = stream.isatty() if format == "auto" else format == "text"
    handler = logging.StreamHandler(stream)
    handler.setFormatter(TextFormatter() if plain else JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


def mask(text: str) -> str:
    """Replace passwords in connection strings and URLs by `***`."""
    if "://" in text:
        text = _URL_PASSWORD.sub(rf"\1{MASK}", text)
    return _KEY_PASSWORD.sub(rf"\1{MASK}", text)


def has_password(dsn: str) -> bool:
    """Tell whether a connection string holds a password."""
    return mask(dsn) != dsn


class JsonFormatter(logging.Formatter):
    """One JSON map a line: ts, level, event, logger, the extras, exception."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        ts = datetime.fromtimestamp(record.created, UTC)
        fields: dict[str, Any] = {
            "ts": ts.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "event": mask(record.getMessage()),
            "logger": record.name,
        }
        for key, value in _extras(record).items():
            fields[f"{key}_" if key in fields else key] = _clean(key, value)
        if trace := _trace(self, record):
            fields["exception"] = trace
        return json.dumps(fields, ensure_ascii=False, default=lambda v: mask(repr(v)))


class TextFormatter(logging.Formatter):
    """`12:00:01.250 info    broker: listening frontend=tcp://…`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, and the traceback's lines after it."""
        ts = datetime.fromtimestamp(record.created).astimezone()
        line = (
            f"{ts:%H:%M:%S}.{int(record.msecs):03d} {record.levelname.lower():<7}"
            f" {record.name.removeprefix('falconas.')}:"
            f" {printable(mask(record.getMessage()))}"
        )
        for key, value in _extras(record).items():
            text = printable(str(_clean(key, value)))
            line += f" {key}={json.dumps(text) if ' ' in text or not text else text}"
        for row in _trace(self, record).splitlines():
            line += f"\n    {printable(row)}"
        return line


def printable(text: str) -> str:
    """Escape control characters, so that no text can steer the terminal."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in text
    )


def _extras(record: logging.LogRecord) -> dict[str, Any]:
    return {k: v for k, v in record.__dict__.items() if k not in _STANDARD}


def _clean(key: str, value: Any) -> Any:
    if "password" in key.lower() or "secret" in key.lower():
        return MASK
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, bool | int | float | None):
        return value
    return mask(str(value))


def _trace(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    parts = []
    if record.exc_info:
        parts.append(formatter.formatException(record.exc_info))
    if record.stack_info:
        parts.append(record.stack_info)
    return mask("\n".join(parts))

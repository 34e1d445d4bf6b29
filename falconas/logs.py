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
from io import TextIOBase
from typing import Any, TextIO

MASK = "***"
TEXT_LIMIT = 65_536  # characters of a message, and of each extra
TRACE_LIMIT = 16_384

# A URL's password is one if an @ follows: look at so much more than what is shown.
_MARGIN = 2048

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
    stream: TextIO | TextIOBase | None = None,
    **facts: object,
) -> None:
    """Send the process's log to stderr; a second call replaces the first.

    Args:
        level: debug, info, warning or error.
        format: text, json, or auto: text on a terminal, json otherwise.
        stream: Where to write instead of stderr; see `falconas.stderr`.
        facts: What each line of this process is to tell besides.
    """
    stream = stream or sys.stderr
    plain = stream.isatty() if format == "auto" else format == "text"
    handler = Handler(stream, facts)
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


class Handler(logging.StreamHandler[Any]):
    """Writes lines; one that cannot be written is counted, and never an error."""

    def __init__(self, stream: TextIO | TextIOBase, facts: dict[str, object]) -> None:
        super().__init__(stream)
        self.dropped = 0
        self._facts = facts

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line, and before it how many could not be written."""
        record.__dict__.update({**self._facts, **record.__dict__})
        if self.dropped:
            news = logging.makeLogRecord(
                {
                    "name": __name__,
                    "levelno": logging.WARNING,
                    "levelname": "WARNING",
                    "msg": "lines of the log that could not be written: %d",
                    "args": (self.dropped,),
                }
            )
            before, self.dropped = self.dropped, 0
            super().emit(news)
            if self.dropped:  # still
                self.dropped += before
                return
        super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Count the line: there is nowhere to complain."""
        del record
        self.dropped += 1


class JsonFormatter(logging.Formatter):
    """One JSON map a line: ts, level, event, logger, the extras, exception."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        ts = datetime.fromtimestamp(record.created, UTC)
        fields: dict[str, Any] = {
            "ts": ts.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "event": _bounded(record.getMessage()),
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
            f" {printable(_bounded(record.getMessage()))}"
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
        return _bounded(value.hex())
    if isinstance(value, bool | int | float | None):
        return value
    return _bounded(str(value))


def _bounded(text: str) -> str:
    """Mask a text, and cut it if it is too long."""
    over = len(text) - TEXT_LIMIT
    if over <= 0:
        return mask(text)
    margin = min(over, _MARGIN)
    shown = mask(text[: TEXT_LIMIT + margin])[:-margin]
    return f"{shown}… ({over} more characters)"


def _trace(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    parts = []
    if record.exc_info:
        parts.append(formatter.formatException(record.exc_info))
    if record.stack_info:
        parts.append(record.stack_info)
    text = "\n".join(parts)
    if len(text) <= TRACE_LIMIT:
        return mask(text)
    half = TRACE_LIMIT // 2
    where = mask(text[: half + _MARGIN])[:-_MARGIN]  # its beginning says that
    what = mask(text[-half - _MARGIN :])[_MARGIN:]
    return f"{where}\n… {len(text) - 2 * half} characters …\n{what}"

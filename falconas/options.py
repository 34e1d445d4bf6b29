"""Kinds of option: how a value is read, checked and written.

A value comes as TOML has it (`parse`) or as text, from the environment or the
command line (`parse_text`). What is wrong ends in a `ValueError` that begins
with "must be" and says what would be right.
"""

from __future__ import annotations

import ipaddress
import json
import re
from math import isfinite
from typing import Any

_NUMBER = r"[0-9]+(?:\.[0-9]+)?"
_DURATION = re.compile(rf"({_NUMBER}) ?(ms|s|m|h|d)")
_SIZE = re.compile(rf"({_NUMBER}) ?([kMG]?B|[KMG]iB)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {
    "B": 1,
    "kB": 1000,
    "KiB": 1 << 10,
    "MB": 1000**2,
    "MiB": 1 << 20,
    "GB": 1000**3,
    "GiB": 1 << 30,
}
_TCP = re.compile(r"tcp://(\*|\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+):([0-9]{1,5})")
_PORT_LIMIT = 65535
_IPC_LIMIT = 107  # bytes of a Unix socket's path
_ANY_HOST = {"*": "127.0.0.1", "0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104


class Kind:
    """Any text; base of the other kinds."""

    metavar = "TEXT"
    wanted = "a text"

    def parse(self, value: Any) -> Any:
        """Return the checked value of what stands in a TOML file."""
        if not isinstance(value, str):
            raise self.wrong(value)
        if not value.isprintable():
            raise ValueError("must be a text without control characters")
        return value

    def parse_text(self, text: str) -> Any:
        """Return the checked value of a text."""
        return self.parse(text)

    def text(self, value: Any) -> str:
        """Write a value as `parse_text` reads it."""
        return str(value)

    def toml(self, value: Any) -> str:
        """Write a value as TOML."""
        return json.dumps(self.text(value), ensure_ascii=False)

    def wrong(self, value: Any) -> ValueError:
        """Say what would be right, and what was found."""
        return ValueError(f"must be {self.wanted}, got {_said(value)}")


class Filled(Kind):
    """A text that is neither empty nor long."""

    def __init__(self, limit: int = 256) -> None:
        self.limit = limit
        self.wanted = f"a text of 1 to {limit} characters"

    def parse(self, value: Any) -> Any:
        """Return the text."""
        text = super().parse(value)
        if not text.strip() or len(text) > self.limit:
            raise self.wrong(value)
        return text


class Flag(Kind):
    """True or false."""

    metavar = "BOOLEAN"
    wanted = "true or false"

    def parse(self, value: Any) -> bool:
        """Return the truth value."""
        if not isinstance(value, bool):
            raise self.wrong(value)
        return value

    def parse_text(self, text: str) -> bool:
        """Accept what the environment usually holds."""
        known = {"true": True, "1": True, "yes": True, "on": True}
        known |= {"false": False, "0": False, "no": False, "off": False}
        if text.lower() not in known:
            raise self.wrong(text)
        return known[text.lower()]

    def text(self, value: Any) -> str:
        """Write it in small letters."""
        return "true" if value else "false"

    def toml(self, value: Any) -> str:
        """Write it without quotes."""
        return self.text(value)


class Choice(Kind):
    """One of a few words."""

    def __init__(self, *values: str) -> None:
        self.values = values
        self.metavar = "|".join(values)
        self.wanted = "one of " + ", ".join(values)

    def parse(self, value: Any) -> str:
        """Return the word."""
        if not isinstance(value, str) or value not in self.values:
            raise self.wrong(value)
        return value


class Count(Kind):
    """A whole number within bounds."""

    metavar = "N"

    def __init__(self, minimum: int, maximum: int) -> None:
        self.minimum, self.maximum = minimum, maximum
        self.wanted = f"a whole number from {minimum} to {maximum}"

    def parse(self, value: Any) -> int:
        """Return the number."""
        if type(value) is not int or not self.minimum <= value <= self.maximum:
            raise self.wrong(value)
        return value

    def parse_text(self, text: str) -> int:
        """Read decimal digits."""
        if not re.fullmatch(r"-?[0-9]{1,18}", text):
            raise self.wrong(text)
        return self.parse(int(text))

    def toml(self, value: Any) -> str:
        """Write it without quotes."""
        return self.text(value)


class Size(Count):
    """A number of bytes within bounds, also with a unit: `64MiB`."""

    metavar = "SIZE"

    def __init__(self, minimum: int, maximum: int) -> None:
        super().__init__(minimum, maximum)
        self.wanted = (
            'a size such as 65536, "64KiB" or "16MiB",'
            f" from {format_size(minimum)} to {format_size(maximum)}"
        )

    def parse(self, value: Any) -> int:
        """Return the number of bytes."""
        if not isinstance(value, str):
            return super().parse(value)
        match = _SIZE.fullmatch(value)
        size = float(match[1]) * _BYTES[match[2]] if match else -1.0
        if not size.is_integer() or not self.minimum <= size <= self.maximum:
            raise self.wrong(value)
        return int(size)

    def parse_text(self, text: str) -> int:
        """Read digits as bytes, else a size with its unit."""
        return self.parse(int(text) if re.fullmatch("[0-9]{1,18}", text) else text)

    def text(self, value: Any) -> str:
        """Write it with the largest unit that is exact."""
        return format_size(value)

    def toml(self, value: Any) -> str:
        """Write it as a text: it has a unit."""
        return json.dumps(self.text(value))


class Duration(Kind):
    """A number of seconds within bounds, also with a unit: `250ms`."""

    metavar = "DURATION"

    def __init__(self, minimum: float, maximum: float) -> None:
        self.minimum, self.maximum = minimum, maximum
        self.wanted = (
            'a duration such as "250ms", "5s", "2m" or a number of seconds,'
            f" from {format_duration(minimum)} to {format_duration(maximum)}"
        )

    def parse(self, value: Any) -> float:
        """Return the number of seconds."""
        seconds = value
        if isinstance(value, str):
            match = _DURATION.fullmatch(value)
            seconds = float(match[1]) * _SECONDS[match[2]] if match else None
        if type(seconds) not in (int, float) or not isfinite(seconds):
            raise self.wrong(value)
        if not self.minimum <= seconds <= self.maximum:
            raise self.wrong(value)
        return float(seconds)

    def parse_text(self, text: str) -> float:
        """Read digits as seconds, else a duration with its unit."""
        return self.parse(float(text) if re.fullmatch(_NUMBER, text) else text)

    def text(self, value: Any) -> str:
        """Write it with the largest unit that is exact."""
        return format_duration(value)


class Endpoint(Kind):
    """A ZeroMQ endpoint to bind to, or (`dial`) to connect to."""

    metavar = "ENDPOINT"
    wanted = "an endpoint: tcp://HOST:PORT (port 1 to 65535) or ipc://PATH"

    def __init__(self, *, dial: bool = False) -> None:
        self.dial = dial

    def parse(self, value: Any) -> str:
        """Return the endpoint."""
        text = super().parse(value)
        if not isinstance(text, str):  # for the type checker: parse returns Any
            raise self.wrong(value)
        if text.startswith("ipc://"):
            size = len(text.removeprefix("ipc://").encode())
            if size > _IPC_LIMIT:
                raise ValueError(
                    f"must be an ipc:// path of at most {_IPC_LIMIT} bytes, got {size}"
                )
            if size:
                return text
        match = _TCP.fullmatch(text)
        if not match or not 0 < int(match[2]) <= _PORT_LIMIT:
            raise self.wrong(value)
        if match[1].startswith("[") and not _is_ip(match[1][1:-1]):
            raise self.wrong(value)
        if self.dial and match[1] in _ANY_HOST:
            raise ValueError(
                f"must name the host to connect to, got {_said(text)},"
                f" which one can only listen on"
            )
        return text


def is_loopback(endpoint: str) -> bool:
    """Tell whether only this machine can reach what listens on `endpoint`."""
    match = _TCP.fullmatch(endpoint)
    if not match:
        return endpoint.startswith("ipc://")
    host = match[1].strip("[]")
    return (
        ipaddress.ip_address(host).is_loopback
        if _is_ip(host)
        else host.lower() == ("localhost")
    )


def dialable(endpoint: str) -> str:
    """Return where to connect on this machine to reach what listens on `endpoint`."""
    match = _TCP.fullmatch(endpoint)
    if match and match[1] in _ANY_HOST:
        return f"tcp://{_ANY_HOST[match[1]]}:{match[2]}"
    return endpoint


def format_duration(seconds: float) -> str:
    """Write seconds with the largest unit that is exact: 0.25 -> `250ms`."""
    for unit in ("d", "h", "m", "s", "ms"):
        number = round(seconds / _SECONDS[unit], 6)
        if number >= 1 and number.is_integer():
            return f"{int(number)}{unit}"
    return f"{seconds:g}s"


def format_size(size: int) -> str:
    """Write bytes with the largest unit that is exact: 65536 -> `64KiB`."""
    for unit in ("GiB", "MiB", "KiB"):
        if size and size % _BYTES[unit] == 0:
            return f"{size // _BYTES[unit]}{unit}"
    return f"{size}B"


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _said(value: Any) -> str:
    """Describe a value in an error; only the type of what is not a scalar."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)[:40]
    if isinstance(value, str):
        text = value if len(value) <= 60 else value[:60] + "…"  # noqa: PLR2004
        return json.dumps(text, ensure_ascii=False)
    if isinstance(value, list | dict):
        return "an array" if isinstance(value, list) else "a table"
    return f"a {type(value).__name__}"

"""Kinds of option: how a value is read, checked and written.

Those that are numbers stand in `quantities`.

A value comes as TOML has it (`parse`) or as text, from the environment or the
command line (`parse_text`). What is wrong ends in a `ValueError` that begins
with "must be" and says what would be right.
"""

from __future__ import annotations

import ipaddress
import json
import re
from typing import Any
from urllib.parse import urlsplit

_TCP = re.compile(r"tcp://(\*|\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+):([0-9]{1,5})")
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}")
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


class Name(Kind):
    """A name of a node, a group or a database."""

    metavar = "NAME"
    wanted = "a name of 1 to 64 small letters, digits, - and _, a letter first"

    def parse(self, value: Any) -> str:
        """Return the name."""
        if not isinstance(value, str) or not _NAME.fullmatch(value):
            raise self.wrong(value)
        return value


class Words(Kind):
    """Several texts; in one text, with commas between them."""

    metavar = "TEXT,…"
    wanted = "an array of texts without commas"
    item: Kind = Filled()

    def parse(self, value: Any) -> tuple[str, ...]:
        """Return the texts."""
        if not isinstance(value, list | tuple):
            raise self.wrong(value)
        found = tuple(self.item.parse(item).strip() for item in value)
        for item in found:
            if "," in item:
                raise self.wrong(item)
        return found

    def parse_text(self, text: str) -> tuple[str, ...]:
        """Read texts with commas between them."""
        return self.parse([item.strip() for item in text.split(",") if item.strip()])

    def text(self, value: Any) -> str:
        """Write them with commas between."""
        return ",".join(value)

    def toml(self, value: Any) -> str:
        """Write an array."""
        return json.dumps(list(value), ensure_ascii=False)


class Names(Words):
    """Several names."""

    wanted = "an array of names: small letters, digits, - and _, a letter first"
    item = Name()


class Url(Kind):
    """Where an HTTP API is that asks nobody who he is."""

    metavar = "URL"
    wanted = "a URL such as https://db1:8008 or http://db1:8008"

    def parse(self, value: Any) -> str:
        """Return the URL."""
        text = str(super().parse(value))
        if "@" in text:  # is not repeated: what stands before may be a password
            raise ValueError(f"must be {self.wanted}, without user and password")
        try:
            parts = urlsplit(text)
            good = parts.scheme in {"http", "https"} and parts.port != 0
        except ValueError:
            raise self.wrong(value) from None
        if not good or not parts.hostname:
            raise self.wrong(value)
        return text


class Urls(Words):
    """Several URLs."""

    metavar = "URL,…"
    wanted = "an array of URLs"
    item = Url()


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

"""Kinds of option that are numbers: counts, sizes, durations and plain ones."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from math import isfinite
from typing import Any

from falconas.options import Kind

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


class Number(Kind):
    """A number within bounds."""

    metavar = "NUMBER"

    def __init__(self, minimum: float, maximum: float) -> None:
        self.minimum, self.maximum = minimum, maximum
        self.wanted = f"a number from {minimum:g} to {maximum:g}"

    def parse(self, value: Any) -> float:
        """Return the number."""
        if type(value) not in (int, float) or not self.minimum <= value <= self.maximum:
            raise self.wrong(value)
        return float(value) + 0.0  # no -0.0

    def parse_text(self, text: str) -> float:
        """Read a decimal number."""
        if not re.fullmatch(_NUMBER, text):
            raise self.wrong(text)
        return self.parse(float(text))

    def text(self, value: Any) -> str:
        """Write all its digits, without an exponent."""
        return f"{Decimal(repr(value)):f}".removesuffix(".0")

    def toml(self, value: Any) -> str:
        """Write it without quotes."""
        return self.text(value)


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

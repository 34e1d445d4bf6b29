"""Values that msgpack lacks: as ext types, as texts, and out of their disguises.

Imported by `codec` with the first such value: most clients never meet one, and what
these types need takes longer to import than the rest of a client.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import uuid
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any

import msgpack

EXT_DECIMAL = 1
EXT_UUID = 2
EXT_DATE = 3
EXT_TIME = 4
EXT_DURATION = 5
EXT_DATETIME = 6


def _duration_text(value: timedelta) -> str:
    import msgspec

    text: str = msgspec.to_builtins(value)
    return text


def _duration(text: str) -> timedelta:
    import msgspec

    return msgspec.convert(text, timedelta)


_TO_TEXT: dict[type[Any], tuple[int, Callable[[Any], str]]] = {
    Decimal: (EXT_DECIMAL, str),
    uuid.UUID: (EXT_UUID, str),
    datetime: (EXT_DATETIME, datetime.isoformat),
    date: (EXT_DATE, date.isoformat),
    time: (EXT_TIME, time.isoformat),
    timedelta: (EXT_DURATION, _duration_text),
}
_FROM_TEXT: dict[int, Callable[[str], Any]] = {
    EXT_DECIMAL: Decimal,
    EXT_UUID: uuid.UUID,
    EXT_DATE: date.fromisoformat,
    EXT_TIME: time.fromisoformat,
    EXT_DURATION: _duration,
    EXT_DATETIME: datetime.fromisoformat,
}
_NATIVE = (type(None), int, float, str, bytes, list, tuple, dict)
_AS_STR = (
    ipaddress.IPv4Address,
    ipaddress.IPv6Address,
    ipaddress.IPv4Network,
    ipaddress.IPv6Network,
    ipaddress.IPv4Interface,
    ipaddress.IPv6Interface,
)


def from_ext(code: int, data: bytes) -> Any:
    """Return the value of an ext type.

    Raises:
        ValueError: The type is unknown, or `data` is no text of it.
    """
    parse = _FROM_TEXT.get(code)
    if parse is None:
        raise ValueError(f"ext type {code} is unknown")
    text = data.decode()
    try:
        return parse(text)
    except Exception:
        raise ValueError(f"ext type {code} holds {text[:40]!r}") from None


def to_ext(value: Any) -> Any:
    """Return what stands for `value` where ext types are accepted.

    Raises:
        TypeError: Nothing does.
        OverflowError: It is too large a number.
    """
    for cls in type(value).__mro__:
        if cls in _TO_TEXT:
            code, to_text = _TO_TEXT[cls]
            return msgpack.ExtType(code, to_text(value).encode())
    return _plain(value, to_ext)


def to_plain(value: Any) -> Any:
    """Return what stands for `value` in plain msgpack; raises like `to_ext`."""
    for cls in type(value).__mro__:
        if cls in _TO_TEXT:
            return _TO_TEXT[cls][1](value)
    return _plain(value, to_plain)


def _plain(value: Any, default: Callable[[Any], Any]) -> Any:
    """Turn what is a map, an array or a text in disguise into that."""
    if isinstance(value, int):
        raise OverflowError("an integer beyond 64 bits has no encoding")
    if isinstance(value, Enum):
        plain = isinstance(value.value, _NATIVE)
        return value.value if plain else default(value.value)
    struct = getattr(type(value), "__struct_fields__", None)  # of msgspec
    if struct is not None:
        return {name: getattr(value, name) for name in struct}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, _AS_STR):
        return str(value)
    raise TypeError(f"type {type(value).__name__} has no encoding")

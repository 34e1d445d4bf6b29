"""Headers of the wire protocol <-> typed messages. Specification: docs/protocol.md.

A message is two frames, `[header, body]`. The header is a msgpack array
`[version, command, id, …fields, extras]`; the body is opaque here. `decode` trusts
nothing: what it returns has the declared types and can be encoded again, and
whatever else arrives raises `Malformed`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import msgpack

from falconas.errors import FalconError, InvalidArgument, Unimplemented
from falconas.messages import (
    BACKEND,
    COMMANDS,
    CONTROL,
    FRONTEND,
    Cancel,
    Catalogue,
    Command,
    Disconnect,
    Drain,
    Extras,
    Heartbeat,
    Hello,
    Id,
    Inspect,
    Kind,
    Lost,
    Message,
    Ping,
    Pong,
    Ready,
    Register,
    Reload,
    Reply,
    Request,
    Return,
    Status,
    Welcome,
)

__all__ = [
    "BACKEND",
    "BUDGET_LIMIT",
    "COMMANDS",
    "CONTROL",
    "EXTRAS_DEPTH",
    "FRONTEND",
    "HEADER_LIMIT",
    "HOP_ROOM",
    "ID_LIMIT",
    "NAME_LIMIT",
    "SECONDS_LIMIT",
    "VERSION",
    "Cancel",
    "Catalogue",
    "Command",
    "Disconnect",
    "Drain",
    "Extras",
    "Heartbeat",
    "Hello",
    "Id",
    "Inspect",
    "Kind",
    "Lost",
    "Malformed",
    "Message",
    "Ping",
    "Pong",
    "Ready",
    "Register",
    "Reload",
    "Reply",
    "Request",
    "Return",
    "Status",
    "Welcome",
    "decode",
    "encode",
    "is_script_name",
    "public_extras",
]

VERSION = 1
HEADER_LIMIT = 2048
HOP_ROOM = 512  # bytes by which a broker may lengthen a client's header
EXTRAS_DEPTH = 8
ID_LIMIT = 32
NAME_LIMIT = 256
SECONDS_LIMIT = 1e12  # keeps every sum of times finite and exact enough
BUDGET_LIMIT = 7 * 86400.0

_SCRIPT_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}(?:\.[a-z][a-z0-9_]{0,63}){0,3}")


class Malformed(Exception):
    """A message that is not of the protocol.

    Attributes:
        error: What to answer.
        id: The id to answer under, None where it could not be read.
    """

    def __init__(self, error: FalconError, id_: Id | None = None) -> None:
        super().__init__(error.message)
        self.error = error
        self.id = id_ or None


def encode(message: Message) -> bytes:
    """Return the header frame of `message`."""
    frame: bytes = msgpack.packb((VERSION, COMMANDS[type(message)], *message))
    return frame


def decode(header: bytes | memoryview, accept: frozenset[type[Any]]) -> Any:
    """Parse a header frame into one of the message types in `accept`.

    Raises:
        Malformed: It is not one; the exception carries the error to answer and,
            where it could be read, the id to answer under.
    """
    limit = HEADER_LIMIT if accept is FRONTEND else HEADER_LIMIT + HOP_ROOM
    fields = _unpack(header, limit)
    version, command, id_ = fields[0], fields[1], fields[2]
    if not _is_id(id_) and not (id_ == b"" and command == Command.LOST):
        raise _invalid(f"id must be {_ID[1]}, got {_short(id_)}")
    if version != VERSION or type(version) is not int:
        raise _unsupported(version, id_)
    shape = _SHAPES.get(command) if type(command) is int else None
    if shape is None or shape[0] not in accept:
        names = sorted(COMMANDS[cls].name for cls in accept)
        raise Malformed(
            Unimplemented(
                f"command {_short(command)} is not understood here",
                details={"commands": names, "versions": [VERSION]},
            ),
            id_,
        )
    cls, checks = shape
    if len(fields) != len(checks) + 2:
        raise _invalid(
            f"{COMMANDS[cls].name} has {len(checks) + 2} elements"
            f" ({', '.join(cls._fields)} after version and command),"
            f" got {len(fields)}",
            id_,
        )
    values = fields[2:]
    for index in range(1, len(checks)):
        check, wanted = checks[index]
        if not check(values[index]):
            raise _invalid(
                f"{COMMANDS[cls].name}: {cls._fields[index]} must be {wanted},"
                f" got {_short(values[index])}",
                id_,
            )
    return cls._make(values)


def is_script_name(name: str) -> bool:
    """Tell whether `name` can be a script's: `daily`, `reports.daily`."""
    return _SCRIPT_NAME.fullmatch(name) is not None


def public_extras(extras: Extras) -> Extras:
    """Return what a client may set: keys that begin with `_` are the broker's."""
    for key in extras:
        if key[:1] == "_":
            return {key: value for key, value in extras.items() if key[:1] != "_"}
    return extras


def _unpack(header: bytes | memoryview, limit: int) -> list[Any]:
    try:
        if len(header) > limit:
            raise ValueError(f"{len(header)} bytes, the limit is {limit}")  # noqa: TRY301
        fields = msgpack.unpackb(
            header,
            object_pairs_hook=_unique,
            max_array_len=256,
            max_map_len=64,
        )
    except Exception as error:  # msgpack's have no common base
        version, id_ = _peek(header)
        if version != VERSION:
            raise _unsupported(version, id_) from None
        text = str(error) or type(error).__name__
        raise _invalid(f"header is not valid: {text}", id_) from None
    if not isinstance(fields, list) or len(fields) < 3:  # noqa: PLR2004
        raise _invalid("header must be an array [version, command, id, …, extras]")
    return fields


def _peek(header: bytes | memoryview) -> tuple[Any, Id | None]:
    """Read version and id of a header that is otherwise broken."""
    try:
        unpacker = msgpack.Unpacker()
        unpacker.feed(header[:64])
        unpacker.read_array_header()
        version, _, id_ = (unpacker.unpack() for _ in range(3))
    except Exception:
        return VERSION, None
    return version, id_ if _is_id(id_) else None


def _unique(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("duplicate key in a map")
    return fields


def _invalid(message: str, id_: Id | None = None) -> Malformed:
    return Malformed(InvalidArgument(message), id_)


def _unsupported(version: Any, id_: Id | None) -> Malformed:
    text = f"protocol version {_short(version)} is not supported, use {VERSION}"
    return Malformed(Unimplemented(text, details={"versions": [VERSION]}), id_)


def _short(value: Any) -> str:
    if isinstance(value, list | dict):
        return f"{type(value).__name__} of {len(value)}"
    text = ascii(value)
    return text if len(text) <= 40 else text[:40] + "…"  # noqa: PLR2004


def _is_id(value: Any) -> bool:
    if type(value) is bytes:
        return 0 < len(value) <= ID_LIMIT
    return type(value) is str and 0 < len(value.encode()) <= ID_LIMIT


def _is_budget(value: Any) -> bool:
    return value is None or _is_seconds(value)


def _is_seconds(value: Any) -> bool:
    return type(value) in (float, int) and -SECONDS_LIMIT < value < SECONDS_LIMIT


def _is_extras(value: Any) -> bool:
    return type(value) is dict and _is_plain(value, EXTRAS_DEPTH)


def _is_plain(value: Any, depth: int) -> bool:
    """Tell whether `value` has no ext type and is not nested deeper than `depth`."""
    children = value
    if type(value) is dict:
        for key in value:
            if type(key) is not str:
                return False
        children = value.values()
    elif type(value) is not list:
        return type(value) in _SCALARS
    if not depth:
        return False
    for child in children:  # twice as fast as all()
        if type(child) not in _SCALARS and not _is_plain(child, depth - 1):
            return False
    return True


def _is_uuid(value: Any) -> bool:
    return type(value) is bytes and len(value) == 16  # noqa: PLR2004


def _is_epoch(value: Any) -> bool:
    return type(value) is bytes and len(value) == 8  # noqa: PLR2004


def _is_name(value: Any) -> bool:
    return type(value) is str and len(value) <= NAME_LIMIT


def _is_kind(value: Any) -> bool:
    return type(value) is int and value in _KINDS


def _is_code(value: Any) -> bool:
    return type(value) is int and 0 <= value < 256  # noqa: PLR2004


def _is_bool(value: Any) -> bool:
    return type(value) is bool


_KINDS = frozenset(map(int, Kind))
_SCALARS = frozenset({str, int, float, bool, type(None), bytes})
_Check = tuple[Callable[[Any], bool], str]
_ID: _Check = (_is_id, f"bin or str of 1 to {ID_LIMIT} bytes")
_UUID: _Check = (_is_uuid, "bin of 16 bytes")
_NAME: _Check = (_is_name, f"str of at most {NAME_LIMIT} characters")
_BUDGET: _Check = (_is_budget, "a number of seconds or nil")
_KIND: _Check = (_is_kind, "0, 1 or 2")
_CHECKS: Mapping[str, _Check] = {
    "id": _ID,
    "session": _UUID,
    "worker": _UUID,
    "supervisor": _UUID,
    "epoch": (_is_epoch, "bin of 8 bytes"),
    "now": (_is_seconds, "a number of seconds"),
    "script": _NAME,
    "group": _NAME,
    "manifest": _NAME,
    "node": _NAME,
    "host": _NAME,
    "state": _NAME,
    "reason": _NAME,
    "budget": _BUDGET,
    "kind": _KIND,
    "code": (_is_code, "a number from 0 to 255"),
    "ready": (_is_bool, "true or false"),
    "extras": (_is_extras, "a map with str keys of plain values"),
}

_SHAPES: dict[int, tuple[Any, tuple[_Check, ...]]] = {
    int(command): (cls, tuple(_CHECKS[name] for name in cls._fields))
    for cls, command in COMMANDS.items()
}

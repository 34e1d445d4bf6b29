"""Headers of the wire protocol <-> typed messages. Specification: docs/protocol.md.

A message is two frames, `[header, body]`. The header is a msgpack array
`[version, command, id, …fields, extras]` of at most `HEADER_LIMIT` bytes; the
body is opaque here. `decode` trusts nothing: what it returns has the declared
types, and whatever else arrives raises `Malformed`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from enum import IntEnum
from math import isfinite
from typing import Any, NamedTuple

import msgpack

from falconas.errors import FalconError, InvalidArgument, Unimplemented

VERSION = 1
HEADER_LIMIT = 2048
ID_LIMIT = 32
NAME_LIMIT = 256
BUDGET_LIMIT = 7 * 86400.0

Id = bytes | str
Extras = dict[str, Any]

_SCRIPT_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}(?:\.[a-z][a-z0-9_]{0,63}){0,3}")


class Command(IntEnum):
    """Second element of each header. Which socket understands which: `ROLES`."""

    HELLO = 1
    WELCOME = 2
    REQUEST = 3
    REPLY = 4
    CANCEL = 5
    PING = 6
    PONG = 7
    CATALOGUE = 8
    CREDIT = 9
    READY = 16
    STATUS = 17
    RETURN = 18
    DISCONNECT = 19
    REGISTER = 32
    HEARTBEAT = 33
    LOST = 34
    KILL = 35
    RELOAD = 36
    DRAIN = 37
    INSPECT = 38


class Kind(IntEnum):
    """What a REPLY is."""

    OK = 0
    PARTIAL = 1
    ERROR = 2


class Hello(NamedTuple):
    """Client to broker: this connection belongs to `session` (16 bytes)."""

    id: Id
    session: bytes
    extras: Extras


class Welcome(NamedTuple):
    """Broker's answer to HELLO, READY and REGISTER; also "introduce yourself again".

    `epoch` (8 bytes) names the broker's life, `now` is its monotonic clock in
    seconds. To a client the body lists the ids of its session that the broker
    still answers for.
    """

    id: Id
    epoch: bytes
    now: float
    extras: Extras


class Request(NamedTuple):
    """Run `script`.

    `budget` is the number of seconds left, None for the script's own; on the
    backend leg it is the deadline on the broker's clock.
    """

    id: Id
    script: str
    budget: float | None
    extras: Extras


class Reply(NamedTuple):
    """Outcome of a request; kind OK and ERROR are final."""

    id: Id
    kind: int
    code: int
    extras: Extras


class Cancel(NamedTuple):
    """The caller no longer wants the request `id`."""

    id: Id
    extras: Extras


class Ping(NamedTuple):
    """Are you there?"""

    id: Id
    extras: Extras


class Pong(NamedTuple):
    """Yes."""

    id: Id
    extras: Extras


class Catalogue(NamedTuple):
    """Ask for the scripts; `brief` in the extras: only which are idempotent."""

    id: Id
    extras: Extras


class Ready(NamedTuple):
    """Worker to broker: who I am; ready for work unless extras say `ready: false`.

    `holding` in the extras lists the dispatch ids that it still works on.
    """

    id: Id
    worker: bytes
    supervisor: bytes
    group: str
    manifest: str
    node: str
    extras: Extras


class Status(NamedTuple):
    """Worker to broker: may I be given work, and the facts of my node."""

    id: Id
    ready: bool
    extras: Extras


class Return(NamedTuple):
    """Worker to broker: request `id` was not started; give it to somebody else."""

    id: Id
    reason: str
    extras: Extras


class Disconnect(NamedTuple):
    """Worker or supervisor to broker: I leave; I hold nothing."""

    id: Id
    extras: Extras


class Register(NamedTuple):
    """Supervisor to broker; the body is the manifest named by its hash."""

    id: Id
    supervisor: bytes
    host: str
    manifest: str
    extras: Extras


class Heartbeat(NamedTuple):
    """Supervisor to broker each second; the body lists its live workers' ids.

    The broker's answer carries `now` and `epoch` in its extras.
    """

    id: Id
    supervisor: bytes
    extras: Extras


class Lost(NamedTuple):
    """Supervisor to broker: `worker` is dead; `id` had been started (empty: none).

    `state` is the slot's last state, `reason` says how it ended.
    """

    id: Id
    worker: bytes
    state: str
    reason: str
    extras: Extras


class Drain(NamedTuple):
    """Operator to broker: accept no more, finish, stop."""

    id: Id
    extras: Extras


class Inspect(NamedTuple):
    """Operator to broker: report your state."""

    id: Id
    extras: Extras


Message = (
    Hello
    | Welcome
    | Request
    | Reply
    | Cancel
    | Ping
    | Pong
    | Catalogue
    | Ready
    | Status
    | Return
    | Disconnect
    | Register
    | Heartbeat
    | Lost
    | Drain
    | Inspect
)

COMMANDS: dict[type[Any], Command] = {
    Hello: Command.HELLO,
    Welcome: Command.WELCOME,
    Request: Command.REQUEST,
    Reply: Command.REPLY,
    Cancel: Command.CANCEL,
    Ping: Command.PING,
    Pong: Command.PONG,
    Catalogue: Command.CATALOGUE,
    Ready: Command.READY,
    Status: Command.STATUS,
    Return: Command.RETURN,
    Disconnect: Command.DISCONNECT,
    Register: Command.REGISTER,
    Heartbeat: Command.HEARTBEAT,
    Lost: Command.LOST,
    Drain: Command.DRAIN,
    Inspect: Command.INSPECT,
}

# What a broker accepts on each of its sockets: a role is a socket, never a content.
FRONTEND = frozenset({Hello, Request, Cancel, Ping, Catalogue})
BACKEND = frozenset({Ready, Status, Reply, Return, Disconnect, Ping})
CONTROL = frozenset({Register, Heartbeat, Lost, Disconnect, Drain, Inspect, Ping})


class Malformed(Exception):
    """A message that is not of the protocol.

    Attributes:
        error: What to answer.
        id: The id to answer under, None where it could not be read.
    """

    def __init__(self, error: FalconError, id_: Id | None = None) -> None:
        super().__init__(error.message)
        self.error = error
        self.id = id_


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
    fields = _unpack(header)
    version, command, id_ = fields[0], fields[1], fields[2]
    if not _is_id(id_):
        raise _invalid(f"id must be bin or str of 1 to {ID_LIMIT} bytes")
    if version != VERSION or type(version) is not int:
        raise Malformed(
            Unimplemented(
                f"protocol version {_short(version)} is not supported, use {VERSION}",
                details={"versions": [VERSION]},
            ),
            id_,
        )
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
    for name, (check, wanted), value in zip(
        cls._fields[1:], checks[1:], fields[3:], strict=True
    ):
        if not check(value):
            raise _invalid(
                f"{COMMANDS[cls].name}: {name} must be {wanted}, got {_short(value)}",
                id_,
            )
    return cls._make(fields[2:])


def is_script_name(name: str) -> bool:
    """Tell whether `name` can be a script's: `daily`, `reports.daily`."""
    return _SCRIPT_NAME.fullmatch(name) is not None


def public_extras(extras: Extras) -> Extras:
    """Return what a client may set: keys that begin with `_` are the broker's."""
    if any(key[:1] == "_" for key in extras):
        return {key: value for key, value in extras.items() if key[:1] != "_"}
    return extras


def _unpack(header: bytes | memoryview) -> list[Any]:
    if len(header) > HEADER_LIMIT:
        raise _invalid(f"header of {len(header)} bytes, the limit is {HEADER_LIMIT}")
    try:
        fields = msgpack.unpackb(
            header,
            object_pairs_hook=_unique,
            ext_hook=_no_ext,
            max_array_len=256,
            max_map_len=64,
        )
    except Exception as error:  # msgpack's have no common base
        text = str(error) or type(error).__name__
        raise _invalid(f"header is not msgpack: {text}") from None
    if not isinstance(fields, list) or len(fields) < 3:  # noqa: PLR2004
        raise _invalid("header must be an array [version, command, id, …, extras]")
    return fields


def _unique(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("duplicate key in a map")
    return fields


def _no_ext(code: int, _data: bytes) -> Any:
    raise ValueError(f"ext type {code} in a header")


def _invalid(message: str, id_: Id | None = None) -> Malformed:
    return Malformed(InvalidArgument(message), id_)


def _short(value: Any) -> str:
    if isinstance(value, list | dict):
        return f"{type(value).__name__} of {len(value)}"
    text = ascii(value)
    return text if len(text) <= 40 else text[:40] + "…"  # noqa: PLR2004


def _is_id(value: Any) -> bool:
    if type(value) is bytes:
        return 0 < len(value) <= ID_LIMIT
    return type(value) is str and 0 < len(value.encode()) <= ID_LIMIT


def _is_id_or_none(value: Any) -> bool:
    return value == b"" or _is_id(value)


def _is_budget(value: Any) -> bool:
    if value is None:
        return True
    return type(value) in (int, float) and isfinite(value) and abs(value) < 1e12  # noqa: PLR2004


def _is_float(value: Any) -> bool:
    return type(value) in (int, float) and isfinite(value)


def _is_extras(value: Any) -> bool:
    return type(value) is dict and all(type(key) is str for key in value)


def _is_uuid(value: Any) -> bool:
    return type(value) is bytes and len(value) == 16  # noqa: PLR2004


def _is_epoch(value: Any) -> bool:
    return type(value) is bytes and len(value) == 8  # noqa: PLR2004


def _is_name(value: Any) -> bool:
    return type(value) is str and len(value) <= NAME_LIMIT


def _is_enum(enum: type[IntEnum]) -> Callable[[Any], bool]:
    members = frozenset(int(member) for member in enum)
    return lambda value: type(value) is int and value in members


def _is_code(value: Any) -> bool:
    return type(value) is int and 0 <= value < 256  # noqa: PLR2004


def _is_bool(value: Any) -> bool:
    return type(value) is bool


_Check = tuple[Callable[[Any], bool], str]
_ID: _Check = (_is_id, f"bin or str of 1 to {ID_LIMIT} bytes")
_UUID: _Check = (_is_uuid, "bin of 16 bytes")
_NAME: _Check = (_is_name, f"str of at most {NAME_LIMIT} characters")
_BUDGET: _Check = (_is_budget, "a finite number of seconds or nil")
_KIND: _Check = (_is_enum(Kind), "0, 1 or 2")
_CHECKS: Mapping[str, _Check] = {
    "id": _ID,
    "session": _UUID,
    "worker": _UUID,
    "supervisor": _UUID,
    "epoch": (_is_epoch, "bin of 8 bytes"),
    "now": (_is_float, "a number of seconds"),
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
    "extras": (_is_extras, "a map with str keys"),
}

_SHAPES: dict[int, tuple[Any, tuple[_Check, ...]]] = {
    int(command): (cls, tuple(_CHECKS[name] for name in cls._fields))
    for cls, command in COMMANDS.items()
}

"""Messages that are not of the protocol: more than 30 kinds for each socket.

Each maker returns the frames to send, and the id under which an error must come back,
or None where no id can be read and the broker can only count.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from typing import Any

import msgpack

from falconas.protocol import Command

Id = bytes | None
Made = tuple[list[bytes], Id]
Maker = Callable[[random.Random], Made]

UUID = b"u" * 16
# One valid header's fields for each socket; the id is put in by `header`.
VALID: dict[str, list[Any]] = {
    "frontend": [Command.REQUEST, None, "echo", 1.0, {}],
    "backend": [Command.STATUS, None, True, {}],
    "control": [Command.HEARTBEAT, None, UUID, {}],
}
FOREIGN: dict[str, tuple[list[Any], ...]] = {
    "frontend": (
        [Command.READY, None, UUID, UUID, "g", "m", "n", {}],
        [Command.REPLY, None, 0, 0, {}],
        [Command.RETURN, None, "no", {}],
        [Command.STATUS, None, True, {}],
        [Command.REGISTER, None, UUID, "h", "m", {}],
        [Command.LOST, None, UUID, "RUN", "r", {}],
        [Command.DRAIN, None, {}],
        [Command.INSPECT, None, {}],
    ),
    "backend": (
        [Command.REQUEST, None, "echo", 1.0, {}],
        [Command.HELLO, None, UUID, {}],
        [Command.CANCEL, None, {}],
        [Command.CATALOGUE, None, {}],
        [Command.REGISTER, None, UUID, "h", "m", {}],
        [Command.LOST, None, UUID, "RUN", "r", {}],
        [Command.DRAIN, None, {}],
        [Command.INSPECT, None, {}],
    ),
    "control": (
        [Command.REQUEST, None, "echo", 1.0, {}],
        [Command.HELLO, None, UUID, {}],
        [Command.CANCEL, None, {}],
        [Command.CATALOGUE, None, {}],
        [Command.READY, None, UUID, UUID, "g", "m", "n", {}],
        [Command.REPLY, None, 0, 0, {}],
        [Command.RETURN, None, "no", {}],
        [Command.STATUS, None, True, {}],
    ),
}
NAMES = (
    "../../etc/passwd",
    "/etc/passwd",
    "a/b",
    "a\\b",
    "__init__",
    ".hidden",
    "echo.py.",
    "echo\x00",
    "ECHO",
    "\u0435cho",  # a Cyrillic letter that looks like an e
    "x" * 256,
    "",
)


def fresh() -> bytes:
    return os.urandom(16)


def header(fields: list[Any], id_: bytes, version: Any = 1) -> bytes:
    filled = [id_ if field is None else field for field in fields]
    packed: bytes = msgpack.packb([version, *filled])
    return packed


def kinds(socket: str) -> dict[str, Maker]:
    """Return the makers for one of the broker's sockets, by name."""
    return {**_frames(socket), **_headers(socket), **_roles(socket), **_fields(socket)}


def _frames(socket: str) -> dict[str, Maker]:
    def valid(id_: bytes) -> bytes:
        return header(VALID[socket], id_)

    return {
        "one empty frame": lambda _: ([b""], None),
        "header alone": lambda _: ([valid(fresh())], None),
        "two empty frames": lambda _: ([b"", b""], None),
        "frame in front": lambda _: ([b"x", valid(fresh()), b""], None),
        "two frames in front": lambda _: ([b"x", b"y", valid(fresh()), b""], None),
        "four delimiters": lambda _: ([b""] * 4 + [valid(fresh()), b""], None),
        "a hundred frames": lambda _: ([b"f"] * 100, None),
        "three thousand frames": lambda _: ([b""] * 3000, None),
        "words of HTTP": lambda _: ([b"GET / HTTP/1.1", b"Host: x"], None),
    }


def _headers(socket: str) -> dict[str, Maker]:
    fields = VALID[socket]

    def cut(dice: random.Random) -> Made:
        whole = header(fields, fresh())
        return [whole[: dice.randrange(1, 15)], b""], None

    def noise(dice: random.Random) -> Made:
        # 0xc1 is never used in msgpack
        return [b"\xc1" + dice.randbytes(40), b""], None

    def odd_id(id_: Any) -> Made:
        return [header(fields, id_), b""], None

    def versioned(version: Any) -> Maker:
        def make(_: random.Random) -> Made:
            id_ = fresh()
            return [header(fields, id_, version), b""], id_

        return make

    def commanded(command: Any) -> Maker:
        def make(_: random.Random) -> Made:
            id_ = fresh()
            return [header([command, *fields[1:]], id_), b""], id_

        return make

    return {
        "truncated header": cut,
        "noise": noise,
        "map for a header": lambda _: ([msgpack.packb({"a": 1}), b""], None),
        "number for a header": lambda _: ([b"\x07", b""], None),
        "text for a header": lambda _: ([msgpack.packb("hello"), b""], None),
        "empty array": lambda _: ([b"\x90", b""], None),
        "array of two": lambda _: ([b"\x92\x01\x03", b""], None),
        "claims of 4 GiB": lambda _: ([b"\xdd\xff\xff\xff\xff\x01", b""], None),
        "nested 1000 deep": lambda _: ([b"\x91" * 1000, b""], None),
        "nested behind the id": lambda _: _nested(fields),
        "trailing bytes": lambda _: _trailing(fields),
        "oversize header": lambda _: _oversize(fields),
        "id is a number": lambda _: odd_id(7),
        "id is empty": lambda _: odd_id(b""),
        "id of 33 bytes": lambda _: odd_id(b"i" * 33),
        "id is an array": lambda _: odd_id([1]),
        "version 0": versioned(0),
        "version 2": versioned(2),
        "version true": versioned(True),
        "version is text": versioned("1"),
        "command 0": commanded(0),
        "command 200": commanded(200),
        "command is text": commanded("REQUEST"),
        "command reserved": commanded(int(Command.CREDIT)),
    }


def _nested(fields: list[Any]) -> Made:
    id_ = fresh()
    whole = header(fields[:-1], id_)
    deep = bytes([0x90 | len(fields) + 1]) + whole[1:] + b"\x91" * 100 + b"\x01"
    return [deep, b""], id_


def _trailing(fields: list[Any]) -> Made:
    id_ = fresh()
    return [header(fields, id_) + b"\x01", b""], id_


def _oversize(fields: list[Any]) -> Made:
    id_ = fresh()
    return [header([*fields[:-1], {"x": "y" * 5000}], id_), b""], id_


def _roles(socket: str) -> dict[str, Maker]:
    def foreign(fields: list[Any]) -> Maker:
        def make(_: random.Random) -> Made:
            id_ = fresh()
            return [header(fields, id_), b""], id_

        return make

    return {
        f"{Command(fields[0]).name} from the wrong side": foreign(fields)
        for fields in FOREIGN[socket]
    }


def _fields(socket: str) -> dict[str, Maker]:
    fields = VALID[socket]

    def changed(position: int, value: Any) -> Maker:
        def make(_: random.Random) -> Made:
            id_ = fresh()
            wrong = [*fields]
            wrong[position] = value
            return [header(wrong, id_), b""], id_

        return make

    def with_fields(wrong: list[Any]) -> Maker:
        def make(_: random.Random) -> Made:
            id_ = fresh()
            return [header(wrong, id_), b""], id_

        return make

    makers = {
        "a field too few": with_fields(fields[:-1]),
        "a field too many": with_fields([*fields, 1]),
        "extras are an array": changed(-1, [1]),
        "extras have a number for a key": changed(-1, {1: 2}),
        "third field is a map": changed(2, {"a": 1}),
    }
    if socket == "frontend":
        makers["budget is text"] = changed(3, "1")
        makers["budget is not finite"] = changed(3, float("nan"))
        makers["budget is negative"] = changed(3, -1.0)
        makers["parameters over the limit"] = _large_params
        for name in NAMES:
            makers[f"script name {name[:20]!a}"] = changed(2, name)
    return makers


def _large_params(_: random.Random) -> Made:
    id_ = fresh()
    body = msgpack.packb({"value": b"x" * (1024 * 1024)})
    return [header(VALID["frontend"], id_), body], id_

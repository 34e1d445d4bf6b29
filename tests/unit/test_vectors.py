"""The vectors that are shared with other languages, through our own code."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest

from falconas import codec, protocol
from falconas.errors import Code, InvalidArgument
from falconas.protocol import Command, Malformed

VECTORS = Path(__file__).parents[1] / "vectors"
RECEIVERS: dict[str, frozenset[type[Any]]] = {
    "frontend": protocol.FRONTEND,
    "backend": protocol.BACKEND,
    "control": protocol.CONTROL,
    "client": frozenset(
        {protocol.Welcome, protocol.Reply, protocol.Ping, protocol.Pong}
    ),
    "worker": frozenset({protocol.Welcome, protocol.Request, protocol.Cancel}),
    "supervisor": frozenset(
        {
            protocol.Welcome,
            protocol.Heartbeat,
            protocol.Cancel,
            protocol.Reload,
            protocol.Drain,
        }
    ),
}
TEXTS: dict[type[Any], tuple[str, Any]] = {
    Decimal: ("$decimal", str),
    UUID: ("$uuid", str),
    datetime: ("$datetime", datetime.isoformat),
    date: ("$date", date.isoformat),
    time: ("$time", time.isoformat),
    timedelta: ("$duration", msgspec.to_builtins),
    bytes: ("$bin", bytes.hex),
}
PARSERS: dict[str, Callable[[Any], Any]] = {
    "$int": int,
    "$float": float,
    "$bin": bytes.fromhex,
    "$decimal": Decimal,
    "$uuid": UUID,
    "$datetime": datetime.fromisoformat,
    "$date": date.fromisoformat,
    "$time": time.fromisoformat,
    "$duration": lambda text: msgspec.convert(text, timedelta),
    "$map": lambda pairs: {from_json(key): from_json(item) for key, item in pairs},
}
RESERVED = {Command.CREDIT, Command.KILL}


def to_json(value: Any) -> Any:
    """Turn a value into the JSON of the vectors (tests/vectors/README.md)."""
    if type(value) in TEXTS:
        tag, text = TEXTS[type(value)]
        return {tag: text(value)}
    if type(value) is int and abs(value) >= 2**53:
        return {"$int": str(value)}
    if type(value) is float and not math.isfinite(value):
        return {"$float": str(value)}
    if isinstance(value, list):
        return [to_json(item) for item in value]
    if isinstance(value, dict) and all(type(key) is str for key in value):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, dict):
        return {"$map": [[to_json(key), to_json(item)] for key, item in value.items()]}
    return value


def from_json(value: Any) -> Any:
    if isinstance(value, list):
        return [from_json(item) for item in value]
    if isinstance(value, dict):
        for tag, parse in PARSERS.items():
            if set(value) == {tag}:
                return parse(value[tag])
        return {key: from_json(item) for key, item in value.items()}
    return value


def same(value: Any, expected: Any) -> bool:
    """Compare as texts, so that 1, 1.0 and True differ and NaN is itself."""
    return json.dumps(to_json(value)) == json.dumps(expected)


def load(name: str, kind: str) -> list[Any]:
    rows = json.loads((VECTORS / name).read_text())[kind]
    return [pytest.param(row, id=row["name"]) for row in rows]


def rows_of(name: str, kind: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((VECTORS / name).read_text())[kind]
    return rows


@pytest.mark.parametrize("row", load("headers.json", "good"))
def test_good_header(row: dict[str, Any]) -> None:
    header = bytes.fromhex(row["hex"])

    message = protocol.decode(header, RECEIVERS[row["receiver"]])

    command = protocol.COMMANDS[type(message)].name
    assert same({"command": command, **message._asdict()}, row["message"])
    if not row.get("decode_only"):
        fields = from_json(row["message"])
        cls = type(message)
        rebuilt = cls(**{name: fields[name] for name in cls._fields})
        assert protocol.encode(rebuilt).hex() == row["hex"]


@pytest.mark.parametrize("row", load("headers.json", "bad"))
def test_bad_header(row: dict[str, Any]) -> None:
    with pytest.raises(Malformed) as caught:
        protocol.decode(bytes.fromhex(row["hex"]), RECEIVERS[row["receiver"]])

    assert caught.value.error.code is Code[row["code"]]
    assert same(caught.value.id, row["id"])


@pytest.mark.parametrize("row", load("values.json", "good"))
def test_good_value(row: dict[str, Any]) -> None:
    assert same(codec.decode_value(bytes.fromhex(row["hex"])), row["value"])
    if row.get("decode_only"):
        return
    value = from_json(row["value"])
    limit = len(row["hex"])
    assert codec.encode_result(value, ext=True, limit=limit).hex() == row["hex"]
    assert codec.encode_result(value, ext=False, limit=limit).hex() == row["plain"]


@pytest.mark.parametrize("row", load("values.json", "bad"))
def test_bad_value(row: dict[str, Any]) -> None:
    body = bytes.fromhex(row["hex"])

    with pytest.raises(ValueError, match="body"):
        codec.decode_value(body)
    with pytest.raises(InvalidArgument) as caught:
        codec.decode_params(b"\x81\xa1v" + body)

    assert caught.value.code is Code[row["code"]]


@pytest.mark.parametrize("row", load("bodies.json", "good"))
def test_good_body(row: dict[str, Any]) -> None:
    body = bytes.fromhex(row["hex"])
    value = from_json(row["value"])

    if row["of"] == "REQUEST":
        decoded: Any = codec.decode_params(body)
        encoded = codec.encode_params(value)
    else:
        decoded = codec.decode_value(body)
        encoded = codec.encode_value(value)

    assert same(decoded, row["value"])
    if not row.get("decode_only"):
        assert encoded.hex() == row["hex"]


@pytest.mark.parametrize("row", load("bodies.json", "bad"))
def test_bad_body(row: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument) as caught:
        codec.decode_params(bytes.fromhex(row["hex"]))

    assert caught.value.code is Code[row["code"]]


def test_each_command_has_a_good_header_or_is_reserved() -> None:
    seen = {row["message"]["command"] for row in rows_of("headers.json", "good")}

    assert seen == {command.name for command in Command} - {c.name for c in RESERVED}
    assert seen == {command.name for command in protocol.COMMANDS.values()}


def test_each_reserved_command_is_refused_by_a_bad_header() -> None:
    seen = {row["name"] for row in rows_of("headers.json", "bad")}

    assert {command.name for command in RESERVED} <= seen


def test_each_field_that_is_checked_has_a_bad_header() -> None:
    names = {field for cls in protocol.COMMANDS for field in cls._fields}
    texts = " ".join(row["reason"] for row in rows_of("headers.json", "bad"))
    # these have the same check as `group`, `reason` and `state`
    alike = {"host", "manifest", "node"}

    assert {name for name in names - alike if name not in texts} == set()


def test_each_ext_type_has_a_good_and_a_bad_value() -> None:
    codes = {
        value for name, value in vars(codec).items() if name.startswith("EXT_")
    } | {255}  # -1, the timestamp

    for kind in ("good", "bad"):
        rows = [bytes.fromhex(row["hex"]) for row in rows_of("values.json", kind)]
        assert codes <= {ext_code(body) for body in rows}


def ext_code(body: bytes) -> int | None:
    """Read the ext type that stands right at the start of `body`."""
    if 0xD4 <= body[0] <= 0xD8:
        return body[1]
    return body[2] if body[0] == 0xC7 else None


def test_each_message_with_a_body_has_one() -> None:
    seen = {row["of"] for row in rows_of("bodies.json", "good")}

    assert seen == {
        "REQUEST", "REPLY OK", "REPLY ERROR", "WELCOME", "REGISTER", "HEARTBEAT",
        "CATALOGUE reply", "INSPECT reply", "DRAIN reply", "RELOAD reply",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["headers.json", "values.json", "bodies.json"])
def test_names_are_unique(name: str) -> None:
    rows = [row["name"] for row in rows_of(name, "good") + rows_of(name, "bad")]

    assert len(rows) == len(set(rows))

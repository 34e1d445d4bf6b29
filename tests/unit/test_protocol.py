from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from falconas import protocol
from falconas.errors import Code
from falconas.protocol import (
    BACKEND,
    COMMANDS,
    CONTROL,
    EXTRAS_DEPTH,
    FRONTEND,
    HEADER_LIMIT,
    HOP_ROOM,
    ID_LIMIT,
    NAME_LIMIT,
    SECONDS_LIMIT,
    Malformed,
    decode,
    encode,
    is_script_name,
    public_extras,
)

ALL = frozenset(COMMANDS)
ID = b"0123456789abcdef"


SECONDS = st.floats(-SECONDS_LIMIT, SECONDS_LIMIT, exclude_min=True, exclude_max=True)
IDS = st.binary(min_size=1, max_size=ID_LIMIT) | st.text(min_size=1).filter(
    lambda text: len(text.encode()) <= ID_LIMIT
)
NAMES = st.text(max_size=40)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=10)
    | st.binary(max_size=10)
)
PLAIN = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=EXTRAS_DEPTH - 1,
)
EXTRAS = st.dictionaries(st.text(max_size=10), PLAIN, max_size=4)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "id": IDS,
    "session": st.binary(min_size=16, max_size=16),
    "worker": st.binary(min_size=16, max_size=16),
    "supervisor": st.binary(min_size=16, max_size=16),
    "epoch": st.binary(min_size=8, max_size=8),
    "now": SECONDS,
    "budget": st.none() | SECONDS | st.integers(-1000, 1000),
    "kind": st.sampled_from([0, 1, 2]),
    "code": st.integers(0, 255),
    "ready": st.booleans(),
    "extras": EXTRAS,
}
MESSAGES = st.sampled_from(list(COMMANDS)).flatmap(
    lambda cls: st.builds(cls, *(FIELDS.get(name, NAMES) for name in cls._fields))
)


def header(*fields: Any) -> bytes:
    packed: bytes = msgpack.packb(list(fields))
    return packed


def ping(extras: Any) -> bytes:
    return header(1, 6, ID, extras)


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def refused(frame: bytes, accept: frozenset[type[Any]] = ALL) -> Malformed:
    with pytest.raises(Malformed) as caught:
        decode(frame, accept)
    return caught.value


@given(MESSAGES)
def test_decode_is_the_inverse_of_encode(message: Any) -> None:
    copy = decode(encode(message), ALL)

    assert copy == message
    assert type(copy) is type(message)


@given(st.binary(max_size=200), st.sampled_from([FRONTEND, BACKEND, CONTROL, ALL]))
@example(b"", FRONTEND)
@example(b"\x91" * 3000, ALL)
@example(b"\x81" * 2000, FRONTEND)
def test_arbitrary_bytes_are_malformed_or_a_message(
    frame: bytes, accept: frozenset[type[Any]]
) -> None:
    with suppress(Malformed):
        assert type(decode(frame, accept)) in accept


@given(MESSAGES, st.data())
def test_mutated_messages_are_malformed_or_encode_again(
    message: Any, data: st.DataObject
) -> None:
    frame = bytearray(encode(message))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(frame) - 1))
        match data.draw(st.sampled_from(["set", "cut", "insert"])):
            case "set":
                frame[at] = data.draw(st.integers(0, 255))
            case "cut":
                del frame[at : at + data.draw(st.integers(1, 8))]
            case _:
                frame[at:at] = data.draw(st.binary(max_size=8))
        if not frame:
            break

    with suppress(Malformed):
        copy = encode(decode(bytes(frame), ALL))
        assert encode(decode(copy, ALL)) == copy


@given(st.lists(SCALARS | PLAIN | st.sampled_from([0, 1, 2, 3, 4, 34]), max_size=9))
def test_arbitrary_arrays_are_malformed_or_a_message(fields: list[Any]) -> None:
    with suppress(Malformed):
        assert type(decode(header(*fields), ALL)) in ALL


def test_takes_a_memoryview() -> None:
    frame = encode(protocol.Ping(ID, {}))

    assert decode(memoryview(frame), FRONTEND) == protocol.Ping(ID, {})


@pytest.mark.parametrize(
    ("accept", "limit"),
    [(FRONTEND, HEADER_LIMIT), (BACKEND, HEADER_LIMIT + HOP_ROOM)],
)
def test_headers_have_a_limit(accept: frozenset[type[Any]], limit: int) -> None:
    def frame(size: int) -> bytes:
        return ping({"x": "y" * (size - len(ping({"x": "y" * 256})) + 256)})

    assert len(frame(limit)) == limit
    assert decode(frame(limit), accept).id == ID
    error = refused(frame(limit + 1), accept)
    assert error.error.code is Code.INVALID_ARGUMENT
    assert str(limit) in error.error.message
    assert error.id == ID


def test_longest_request_of_a_client_fits_the_backend_leg() -> None:
    request = protocol.Request(b"i" * 32, "x", None, {"p": ""})
    room = HEADER_LIMIT - len(encode(request)) - 2
    request = request._replace(extras={"p": "y" * room})
    assert len(encode(request)) == HEADER_LIMIT
    assert decode(encode(request), FRONTEND) == request

    added = {
        "origin": request.id,
        "attempt": 2,
        "now": 1e9,
        "_caller": "c" * 256,
    }
    onward = request._replace(budget=1e9, extras={**request.extras, **added})

    assert decode(encode(onward), frozenset({protocol.Request})) == onward


def test_extras_nest_to_a_limit() -> None:
    assert decode(ping({"a": nested(EXTRAS_DEPTH - 1)}), ALL)
    assert "extras" in refused(ping({"a": nested(EXTRAS_DEPTH)})).error.message


@pytest.mark.parametrize(
    "extras",
    [
        {b"a": 1},
        {"a": {b"k": 1}},
        {"a": [{"b": {b"k": 1}}]},
        {"t": msgpack.Timestamp(1)},
        {"t": msgpack.ExtType(1, b"1.5")},
        {"t": [msgpack.Timestamp(1)]},
        [],
        None,
        "x",
    ],
)
def test_extras_are_maps_of_plain_values(extras: Any) -> None:
    error = refused(ping(extras))

    assert error.error.code is Code.INVALID_ARGUMENT
    assert error.id == ID


def test_version_counts_before_the_rest_of_a_broken_header() -> None:
    error = refused(b"\x95\x02\x03\xc4\x01i\xd4\x01\x00\x80")

    assert error.error.code is Code.UNIMPLEMENTED
    assert error.id == b"i"


def test_other_version_is_told_the_supported_ones() -> None:
    error = refused(header(2, 3, ID, "whatever"))

    assert error.error.code is Code.UNIMPLEMENTED
    assert error.error.details == {"versions": [1]}
    assert error.id == ID


def test_other_socket_is_told_its_commands() -> None:
    error = refused(encode(protocol.Drain(ID, {})), FRONTEND)

    assert error.error.code is Code.UNIMPLEMENTED
    assert error.error.details == {
        "commands": ["CANCEL", "CATALOGUE", "HELLO", "PING", "REQUEST"],
        "versions": [1],
    }


@pytest.mark.parametrize("cls", list(COMMANDS))
def test_each_command_is_refused_where_it_is_not_accepted(cls: type[Any]) -> None:
    frame = header(1, int(COMMANDS[cls]), ID)

    assert refused(frame, ALL - {cls}).error.code is Code.UNIMPLEMENTED
    assert refused(frame, ALL).error.code is Code.INVALID_ARGUMENT


def test_wrong_field_is_named() -> None:
    error = refused(header(1, 3, ID, "echo", "30s", {}))

    assert error.error.message == (
        "REQUEST: budget must be a number of seconds or nil, got '30s'"
    )


def test_wrong_count_names_the_fields() -> None:
    error = refused(header(1, 3, ID, "echo", {}))

    assert error.error.message == (
        "REQUEST has 6 elements (id, script, budget, extras after version and"
        " command), got 5"
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [("x" * 100, "'" + "x" * 39 + "…"), ([1, 2], "list of 2"), ({"a": 1}, "dict of 1")],
)
def test_messages_quote_little_of_wrong_values(value: Any, text: str) -> None:
    error = refused(header(1, 3, ID, "echo", value, {}))

    assert error.error.message.endswith(f"got {text}")


@pytest.mark.parametrize(
    ("field", "value"),
    [("script", 1), ("budget", SECONDS_LIMIT), ("budget", -SECONDS_LIMIT)],
)
def test_limits_of_fields(field: str, value: Any) -> None:
    good = protocol.Request(ID, "s" * NAME_LIMIT, SECONDS_LIMIT / 2, {})
    assert decode(encode(good), ALL) == good

    refused(encode(good._replace(**{field: value})))


def test_only_lost_may_have_an_empty_id() -> None:
    lost = protocol.Lost(b"", b"w" * 16, "IDLE", "exit 0", {})

    assert decode(encode(lost), CONTROL) == lost
    assert refused(encode(protocol.Ping(b"", {}))).id is None
    assert refused(encode(lost._replace(worker=b""))).id is None


@pytest.mark.parametrize(
    "frame",
    [b"", b"\x90", b"\xc1", b"\x93\x01", b"\x93\x01\x03\xc1", b"GET / HTTP/1.1"],
)
def test_what_has_no_id_is_not_answered(frame: bytes) -> None:
    assert refused(frame).id is None


def test_id_of_a_truncated_header_is_read() -> None:
    frame = encode(protocol.Request(ID, "echo", 1.0, {}))

    assert refused(frame[:-1]).id == ID
    assert refused(frame[:10]).id is None


def test_id_of_a_truncated_header_is_an_id_or_none() -> None:
    frame = header(1, 6, 7, {})

    assert refused(frame[:-1]).id is None


def test_malformed_says_what_is_wrong() -> None:
    error = refused(b"\xc1")

    assert str(error) == error.error.message


@pytest.mark.parametrize(
    "name",
    ["a", "echo", "reports.daily", "a1_b", "a.b.c.d", "x" * 64, "place_order"],
)
def test_script_names(name: str) -> None:
    assert is_script_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "../x",
        "a/b",
        "a\\b",
        "/etc/passwd",
        "__init__",
        "_helper",
        ".hidden",
        "x.",
        "a..b",
        "a.b.c.d.e",
        "A",
        "1a",
        "a-b",
        "a b",
        "a\n",
        "a\x00",
        "еcho",  # noqa: RUF001  # a Cyrillic letter
        "ａ",  # noqa: RUF001  # full width
        "x" * 65,
        "x" * 10_000,
    ],
)
def test_what_is_no_script_name(name: str) -> None:
    assert not is_script_name(name)


@given(st.text())
def test_script_names_are_never_paths(name: str) -> None:
    if is_script_name(name):
        assert name.isascii()
        assert not {"/", "\\", "\x00"} & set(name)
        assert all(part.isidentifier() for part in name.split("."))


def test_public_extras_drop_the_brokers_keys() -> None:
    assert public_extras({"_caller": "root", "a": 1, "": 2}) == {"a": 1, "": 2}


def test_public_extras_leave_clean_ones_alone() -> None:
    extras = {"a": 1}

    assert public_extras(extras) is extras


def test_duplicate_keys_are_refused() -> None:
    frame = b"\x94\x01\x06\xc4\x01i\x82\xa1a\x01\xa1a\x02"

    error = refused(frame)

    assert "duplicate key" in error.error.message
    assert error.id == b"i"

"""The short way over the wire says what `protocol` says."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from falconas.client.wire import NAMES_LIMIT, Names, ok_id, request
from falconas.errors import InvalidArgument
from falconas.protocol import (
    HEADER_LIMIT,
    Kind,
    Malformed,
    Reply,
    Request,
    Welcome,
    decode,
    encode,
)

IDS = st.binary(min_size=16, max_size=16)
WORD = r"[a-z][a-z0-9_]{0,63}"
NAMES = st.from_regex(rf"{WORD}([.]{WORD}){{0,3}}", fullmatch=True)
EXTRAS = st.dictionaries(st.text(max_size=5), st.integers(0, 300), max_size=5)
REPLIES = st.builds(
    Reply,
    IDS | st.binary(min_size=1, max_size=32) | st.text("ab", min_size=1, max_size=16),
    st.sampled_from([0, 0, 0, 1, 2]),
    st.sampled_from([0, 0, 0, 1, 14, 200]),
    EXTRAS,
)


@given(IDS, NAMES, st.none() | st.floats(0, 1e6))
def test_a_request_is_what_protocol_would_write(
    id_: bytes, name: str, budget: float | None
) -> None:
    asked = Request(id_, name, budget, {"accept": ["ext"]})
    assert request(id_, Names()[name], budget) == encode(asked)


@given(REPLIES)
def test_an_ok_is_known_by_its_header(reply: Reply) -> None:
    ours = type(reply.id) is bytes and len(reply.id) == 16
    ok = ours and reply.kind == Kind.OK and reply.code == 0
    assert ok_id(encode(reply)) == (reply.id if ok else None)


@given(REPLIES, st.data())
def test_nothing_else_is_taken_for_an_ok(reply: Reply, data: st.DataObject) -> None:
    header = bytearray(encode(reply))
    for _ in range(data.draw(st.integers(1, 3))):
        header[data.draw(st.integers(0, len(header) - 1))] = data.draw(
            st.integers(0, 255)
        )
    id_ = ok_id(bytes(header))
    if id_ is None:
        return
    try:
        message = decode(bytes(header), frozenset({Reply, Welcome}))
    except Malformed as error:
        assert error.id in (None, id_)  # noqa: PT017
    else:
        assert message[:3] == (id_, Kind.OK, 0)


def test_what_is_too_long_is_looked_at_closely() -> None:
    header = encode(Reply(bytes(16), Kind.OK, 0, {}))
    room = HEADER_LIMIT - len(header)
    assert ok_id(header + bytes(room)) == bytes(16)
    assert ok_id(header + bytes(room + 1)) is None
    for size in range(len(header) - 1):
        assert ok_id(header[:size]) is None


@pytest.mark.parametrize("name", ["", "../echo", "Echo", "a.b.c.d.e", "a\n", "ä"])
def test_what_is_no_name_is_refused(name: str) -> None:
    names = Names()
    for _ in range(2):
        with pytest.raises(InvalidArgument, match="name is like"):
            names[name]
    assert not names


def test_no_more_names_are_kept_than_anybody_has() -> None:
    names = Names()
    for number in range(2 * NAMES_LIMIT + 1):
        assert names[f"n{number}"] == bytes([0xA0 + len(f"n{number}")]) + (
            f"n{number}".encode()
        )
        assert len(names) <= NAMES_LIMIT


def test_the_type_of_a_name_is_not_kept() -> None:
    class Name(str):
        __slots__ = ()

    names: dict[Any, bytes] = Names()
    assert names[Name("echo")] == b"\xa4echo"
    assert [type(name) for name in names] == [str]

"""What is read by the short way is what the long way reads."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from falconas import headers, protocol
from falconas.messages import Cancel, Reply, Request
from falconas.protocol import EXTRAS_DEPTH, FRONTEND, HEADER_LIMIT, Malformed, encode

BOTH = frozenset({Request, Reply})
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=9)
    | st.binary(max_size=9)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=5,
)
EXTRAS = st.just({"accept": ["ext"]}) | st.dictionaries(
    st.text(max_size=5), VALUES, max_size=17
)
IDS = st.binary(min_size=15, max_size=17) | st.text("ab", min_size=16, max_size=16)
REQUESTS = st.builds(
    Request,
    IDS,
    st.text(max_size=35),
    st.none() | st.floats() | st.integers(-(2**40), 2**40),
    EXTRAS,
)
REPLIES = st.builds(
    Reply, IDS, st.sampled_from([0, 1, 2, 3]), st.integers(0, 300), EXTRAS
)
MESSAGES = REQUESTS | REPLIES


def unpacked(header: bytes) -> str:
    """As text: it tells 1 from 1.0, and NaN is like itself."""
    return repr(msgpack.unpackb(header, strict_map_key=False))


@given(MESSAGES)
def test_what_is_written_reads_the_same(message: Request | Reply) -> None:
    short, long = headers.encode(message), encode(message)
    assert unpacked(short) == unpacked(long)
    assert len(short) == len(long)


def test_others_are_read_and_refused_as_ever() -> None:
    cancel = Cancel(b"i" * 16, {})
    assert headers.decode(encode(cancel), FRONTEND) == cancel
    with pytest.raises(Malformed):
        headers.decode(encode(Reply(b"i" * 16, 0, 0, {})), FRONTEND)


def in_full(header: bytes) -> Any:
    try:
        return protocol.decode(header, BOTH)
    except Malformed:
        return None


@given(MESSAGES)
def test_what_is_read_is_what_the_long_way_reads(message: Request | Reply) -> None:
    header = encode(message)
    short = headers.read(header)
    assert short is None or repr(short) == repr(in_full(header))


@given(MESSAGES, st.data())
def test_what_is_broken_is_not_read_otherwise(
    message: Request | Reply, data: st.DataObject
) -> None:
    header = bytearray(encode(message))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(header) - 1))
        header[place : place + 1] = data.draw(st.binary(max_size=2))
        if not header:
            return
    short = headers.read(bytes(header))
    assert short is None or repr(short) == repr(in_full(bytes(header)))


@pytest.mark.parametrize(
    "message",
    [
        Request(b"i" * 16, "reports.daily", 2.5, {"accept": ["ext"]}),
        Request(b"i" * 16, "echo", None, {}),
        Request(b"i" * 16, "echo", 9.0, {"origin": b"o", "now": 1.5, "ahead": 2}),
        Reply(b"i" * 16, 0, 0, {"node": "n1", "run_us": 70, "worker": "h/1"}),
        Reply(b"i" * 16, 2, 14, {}),
    ],
)
def test_what_is_usual_is_read(message: Request | Reply) -> None:
    assert headers.read(encode(message)) == message


def test_what_is_left_to_the_long_way() -> None:
    extras: dict[str, Any] = {"a": {"b": 1}}
    request = Request(b"i" * 16, "echo", 1.0, extras)
    twice = encode(request._replace(extras={"a": 1}))
    twice = twice.replace(b"\x81\xa1a\x01", b"\x82\xa1a\x01\xa1a\x02")
    stamp = msgpack.packb([1, 3, b"i" * 16, "echo", 1.0, {"a": msgpack.Timestamp(1)}])
    for header in (encode(request), twice, stamp, b"", b"\x96"):
        assert headers.read(header) is None
    long = encode(request._replace(extras={"a": "a" * HEADER_LIMIT}))
    assert headers.read(long) is None
    for length in (0x04, 0x74, 0xA0, 0xC4, 0xFF):
        odd = bytearray(encode(request._replace(extras={})))
        odd[21] = length
        assert headers.read(bytes(odd)) is None
    assert EXTRAS_DEPTH > 2  # what is read here nests less

from __future__ import annotations

import dataclasses
import enum
import ipaddress
import math
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import UUID

import msgpack
import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from falconas.codec import (
    DEPTH_LIMIT,
    LENGTH_LIMIT,
    decode_params,
    decode_value,
    encode_params,
    encode_result,
    encode_value,
)
from falconas.errors import InvalidArgument, ScriptError, Started
from falconas.exttypes import EXT_DATE

unhurried = settings(
    deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=40
)

ZONES = st.none() | st.builds(
    lambda minutes: timezone(timedelta(minutes=minutes)), st.integers(-1439, 1439)
)
KEYS = st.text(max_size=6)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.binary(max_size=20)
    | st.decimals(allow_nan=False)
    | st.uuids()
    | st.dates()
    | st.times(timezones=ZONES)
    | st.timedeltas()
    | st.datetimes(timezones=ZONES)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner),
    max_leaves=15,
)


def pack(value: Any, *, ext: bool = True) -> bytes:
    return encode_result(value, ext=ext, limit=1 << 20)


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


class Point(msgspec.Struct):
    x: int
    y: Decimal


@dataclasses.dataclass
class Line:
    start: Point
    day: date


class Row(NamedTuple):
    key: int
    name: str


class Colour(enum.Enum):
    RED = "red"
    PRICE = Decimal("1.5")
    HUGE = 2**70


class Lazy(Mapping[str, int]):
    """A mapping that breaks when it is read."""

    def __getitem__(self, key: str) -> int:
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        raise RuntimeError("cannot be read")

    def __len__(self) -> int:
        return 1


class Mute(Exception):
    """An exception without a text."""


class Silent(Mapping[str, int]):
    def __getitem__(self, key: str) -> int:
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        raise Mute

    def __len__(self) -> int:
        return 1


@unhurried
@given(VALUES)
def test_results_come_back_with_their_types(value: Any) -> None:
    copy = decode_value(pack(value))

    assert copy == value
    assert repr(copy) == repr(value).replace(", fold=1", "")


@unhurried
@given(st.dictionaries(KEYS, VALUES))
def test_params_come_back_with_their_types(params: dict[str, Any]) -> None:
    copy = decode_params(encode_params(params))

    assert copy == params
    assert list(copy) == sorted(params)


@unhurried
@given(VALUES)
def test_without_ext_only_plain_msgpack_is_written(value: Any) -> None:
    def refuse(code: int, _data: bytes) -> Any:
        raise AssertionError(f"ext type {code}")

    msgpack.unpackb(pack(value, ext=False), ext_hook=refuse)


@unhurried
@given(st.binary(max_size=200))
@example(b"\x91" * 5000)
@example(b"\x81" * 5000)
@example(b"\xdd\x00\x0f\x00\x00" * 10_000)
@example(b"\xd4\x01\x80")
@example(b"\x81\x81\x01\x02\x03")
def test_arbitrary_bytes_fail_in_one_way(body: bytes) -> None:
    with suppress(ValueError):
        decode_value(body)
    with suppress(InvalidArgument):
        assert type(decode_params(body)) is dict


@unhurried
@given(st.dictionaries(KEYS, VALUES, min_size=1), st.data())
def test_mutated_bodies_fail_in_one_way(
    params: dict[str, Any], data: st.DataObject
) -> None:
    body = bytearray(encode_params(params))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(body) - 1))
        body[at] = data.draw(st.integers(0, 255))

    with suppress(ValueError):
        decode_value(bytes(body))
    with suppress(InvalidArgument):
        decode_params(bytes(body))


@unhurried
@given(st.sampled_from(range(-128, 128)), st.binary(max_size=40))
def test_arbitrary_ext_payloads_fail_in_one_way(code: int, payload: bytes) -> None:
    head = bytes([0xC7, len(payload), code % 256])
    with suppress(ValueError):
        decode_value(head + payload)


def test_empty_bodies() -> None:
    assert decode_params(b"") == {}
    assert decode_value(b"") is None


def test_takes_memoryviews() -> None:
    assert decode_params(memoryview(encode_params({"a": 1}))) == {"a": 1}
    assert decode_value(memoryview(pack([1]))) == [1]


def test_order_of_keywords_does_not_matter() -> None:
    assert encode_params({"b": 1, "a": 2}) == encode_params({"a": 2, "b": 1})
    assert encode_params({"b": 1, "a": 2, "c": 3}) == b"\x83\xa1a\x02\xa1b\x01\xa1c\x03"


def test_params_may_be_any_mapping() -> None:
    assert encode_params(MappingProxyType({"a": 1})) == encode_params({"a": 1})


@pytest.mark.parametrize("params", [[1], None, {1: 2}, {b"a": 1}])
def test_params_are_a_mapping_with_string_keys(params: Any) -> None:
    with pytest.raises(InvalidArgument, match="mapping with string keys"):
        encode_params(params)


@pytest.mark.parametrize(
    "body", [b"\x93\x01\x02\x03", b"\xc0", b"\x81\xc4\x01a\x01", b"\x01"]
)
def test_params_on_the_wire_are_a_map_with_string_keys(body: bytes) -> None:
    with pytest.raises(InvalidArgument, match="a map with string keys"):
        decode_params(body)


def test_params_nest_to_a_limit() -> None:
    deepest = {"a": nested(DEPTH_LIMIT - 1)}
    assert decode_params(encode_params(deepest)) == deepest

    with pytest.raises(InvalidArgument, match="nested deeper than 64"):
        decode_params(encode_params({"a": nested(DEPTH_LIMIT)}))
    with pytest.raises(InvalidArgument, match="nested deeper than 64"):
        decode_params(encode_params({"a": {"b": {"c": nested(DEPTH_LIMIT)}}}))


def test_arrays_of_parameters_have_a_limit() -> None:
    body = b"\x81\xa1a" + msgpack.packb([0] * (LENGTH_LIMIT + 1))

    with pytest.raises(InvalidArgument, match="1000001 exceeds"):
        decode_params(body)


def test_results_may_be_longer_than_parameters() -> None:
    value = [0] * (LENGTH_LIMIT + 1)

    assert decode_value(msgpack.packb(value)) == value


def test_result_has_a_limit() -> None:
    assert encode_result("x" * 8, ext=True, limit=9) == b"\xa8" + b"x" * 8
    with pytest.raises(ScriptError, match="the result has 10 bytes, the limit is 9"):
        encode_result("x" * 9, ext=True, limit=9)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (object(), "packed: type object has no encoding"),
        ({"a": [1, {"b": {1, 2}}]}, ".a[1].b: type set has no encoding"),
        ({"a": (1, object)}, ".a[1]: type type has no encoding"),
        ({"n": 2**70}, ".n: an integer beyond 64 bits has no encoding"),
        ({1: object()}, ".1: type object has no encoding"),
        ({None: object()}, ".NoneType: type object has no encoding"),
        ({"\ud800": 1}, "packed: 'utf-8' codec can't encode character '\\ud800'"),
        ({"\ud800": object()}, ".\\ud800: type object has no encoding"),
        ([Colour.HUGE], "[0]: Integer value out of range"),
        ([Line], "[0]: type type has no encoding"),
        ([Line(object(), date.min)], "[0]: type object has no encoding"),  # type: ignore[arg-type]
        ([Lazy()], "[0]: cannot be read"),
        ([Silent()], "[0]: Mute"),
    ],
)
def test_unpackable_results_say_where(value: Any, text: str) -> None:
    with pytest.raises(ScriptError) as caught:
        pack(value)

    assert text in caught.value.message
    assert caught.value.started is Started.YES
    encode_value(caught.value.body())  # and the error itself can travel


def test_cyclic_results_are_refused() -> None:
    value: list[Any] = []
    value.append(value)

    with pytest.raises(ScriptError, match="recursion"):
        pack(value)


def test_unpackable_parameters_say_where() -> None:
    with pytest.raises(InvalidArgument) as caught:
        encode_params({"a": 1, "lines": [{"price": {1}}]})

    assert caught.value.message == (
        "parameter lines[0].price: type set has no encoding"
    )


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Point(1, Decimal("2.50")), {"x": 1, "y": "2.50"}),
        (
            Line(Point(1, Decimal(2)), date(2024, 2, 29)),
            {"start": {"x": 1, "y": "2"}, "day": "2024-02-29"},
        ),
        (Row(1, "a"), [1, "a"]),
        (Colour.RED, "red"),
        (Colour.PRICE, "1.5"),
        (MappingProxyType({"a": 1}), {"a": 1}),
        (ipaddress.ip_address("10.0.0.1"), "10.0.0.1"),
        (ipaddress.ip_network("fe80::/64"), "fe80::/64"),
        (ipaddress.ip_interface("10.0.0.1/8"), "10.0.0.1/8"),
        (datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC), "2024-01-02T03:04:05+00:00"),
        (timedelta(days=1, seconds=1), "P1DT1S"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (bytearray(b"ab"), b"ab"),
    ],
)
def test_values_in_disguise(value: Any, plain: Any) -> None:
    assert decode_value(pack(value, ext=False)) == plain


def test_subclasses_travel_as_their_base() -> None:
    class Money(Decimal):
        pass

    class Stamp(datetime):
        pass

    assert decode_value(pack(Money("1.0"))) == Decimal("1.0")
    assert decode_value(pack(Stamp(2024, 1, 1))) == datetime(2024, 1, 1)  # noqa: DTZ001


def test_enumeration_of_an_ext_type() -> None:
    assert decode_value(pack(Colour.PRICE)) == Decimal("1.5")


def test_nan_passes() -> None:
    assert math.isnan(decode_value(pack(math.nan)))


def test_keys_of_any_scalar_come_back() -> None:
    value = {1: "a", None: "b", date(2024, 1, 1): "c"}

    assert decode_value(pack(value)) == value


def test_array_keys_come_back_as_tuples() -> None:
    value = {(1, (2, "x")): [1], "a": [2]}

    assert decode_value(pack(value)) == value


def test_map_keys_are_refused() -> None:
    with pytest.raises(ValueError, match="key"):
        decode_value(b"\x81\x80\x01")


def test_timestamp_is_read_as_utc() -> None:
    body = msgpack.packb(msgpack.Timestamp(0, 1000))

    assert decode_value(body) == datetime(1970, 1, 1, 0, 0, 0, 1, tzinfo=UTC)


def test_unknown_ext_type_is_named() -> None:
    with pytest.raises(ValueError, match="ext type 7 is unknown"):
        decode_value(msgpack.packb(msgpack.ExtType(7, b"x")))


def test_bad_ext_text_is_quoted_briefly() -> None:
    body = msgpack.packb(msgpack.ExtType(EXT_DATE, b"y" * 100))

    with pytest.raises(ValueError, match="ext type 3 holds '" + "y" * 40 + "'$"):
        decode_value(body)


@unhurried
@given(st.timedeltas())
def test_durations_are_iso_8601(value: timedelta) -> None:
    text = decode_value(pack(value, ext=False))

    assert text.lstrip("-").startswith("P")
    assert msgspec.convert(text, timedelta) == value


@unhurried
@given(st.times())
def test_times_are_iso_8601(value: time) -> None:
    assert time.fromisoformat(decode_value(pack(value, ext=False))) == value


class Reentrant(dict[str, Any]):
    """Its own code packs while it is packed."""

    def items(self) -> Any:
        assert encode_params({"inner": "x" * 100}) == inner()
        assert encode_value(["inner"]) == b"\x91\xa5inner"
        return super().items()


def inner() -> bytes:
    return b"\x81\xa5inner\xd9\x64" + b"x" * 100


@pytest.mark.parametrize("size", [1, 100_000])
def test_what_packs_while_it_is_packed_disturbs_nothing(size: int) -> None:
    value = Reentrant(before=b"x" * size, after=[1])
    for _ in range(3):
        body = encode_params({"value": value})
        assert decode_params(body) == {"value": dict(value)}


def test_what_failed_to_pack_leaves_nothing_behind() -> None:
    with pytest.raises(InvalidArgument):
        encode_params({"a": "x" * 100, "b": object()})
    assert encode_params({"a": 1}) == b"\x81\xa1a\x01"


def test_threads_do_not_share_what_they_pack() -> None:
    class Slow(dict[str, Any]):
        def items(self) -> Any:
            gate.wait(10)  # both are in the middle
            return super().items()

    gate = threading.Barrier(2)
    with ThreadPoolExecutor(2) as pool:
        bodies = pool.map(encode_params, [{"a": Slow(n=n)} for n in range(2)])
        assert list(map(decode_params, bodies)) == [{"a": {"n": 0}}, {"a": {"n": 1}}]

from __future__ import annotations

from typing import Any

import pytest

from falconas.quantities import (
    Count,
    Duration,
    Number,
    Size,
    format_duration,
    format_size,
)

SECONDS = Duration(0.001, 3600.0)
BYTES = Size(1, 1 << 40)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("250ms", 0.25),
        ("5s", 5.0),
        ("2m", 120.0),
        ("1.5 s", 1.5),
        ("1h", 3600.0),
        (3, 3.0),
        (0.5, 0.5),
    ],
)
def test_duration_becomes_seconds(value: Any, seconds: float) -> None:
    parsed = SECONDS.parse(value)
    assert parsed == seconds
    assert type(parsed) is float


@pytest.mark.parametrize(
    "value",
    [
        "",
        "5",
        "5 parsecs",
        "s",
        "-1s",
        "1e3s",
        "5S",
        True,
        None,
        [],
        float("nan"),
        float("inf"),
        0,
        "2h",
        "0s",
        "٣s",
    ],
)
def test_wrong_duration_says_what_would_be_right(value: Any) -> None:
    with pytest.raises(ValueError, match=r'^must be a duration such as "250ms"'):
        SECONDS.parse(value)


def test_a_bare_number_is_seconds_in_text() -> None:
    assert SECONDS.parse_text("2.5") == 2.5
    assert SECONDS.parse_text("2m") == 120.0
    with pytest.raises(ValueError, match="from 1ms to 1h"):
        SECONDS.parse_text("3601")


@pytest.mark.parametrize(
    ("value", "size"),
    [
        ("64MiB", 64 << 20),
        ("1KiB", 1024),
        ("1.5KiB", 1536),
        ("2MB", 2_000_000),
        ("7B", 7),
        ("1GiB", 1 << 30),
        (12, 12),
        ("3kB", 3000),
    ],
)
def test_size_becomes_bytes(value: Any, size: int) -> None:
    parsed = BYTES.parse(value)
    assert parsed == size
    assert type(parsed) is int


@pytest.mark.parametrize(
    "value", ["", "64", "64M", "1.0001KiB", "-1B", 1.5, True, None, 0, "2000GiB"]
)
def test_wrong_size_says_what_would_be_right(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^must be a size such as 65536"):
        BYTES.parse(value)


def test_a_bare_number_is_bytes_in_text() -> None:
    assert BYTES.parse_text("4096") == 4096
    assert BYTES.parse_text("4KiB") == 4096


def test_count_keeps_its_bounds() -> None:
    count = Count(0, 8)
    assert count.parse_text("8") == 8
    for value in (9, -1, True, 1.0, "3", None):
        with pytest.raises(ValueError, match="a whole number from 0 to 8"):
            count.parse(value)
    for text in ("", "9", "-1", "1.0", "x", "9" * 5000, "٣"):
        with pytest.raises(ValueError, match="a whole number from 0 to 8"):
            count.parse_text(text)


def test_values_are_written_with_the_largest_exact_unit() -> None:
    assert [format_duration(s) for s in (0.25, 1.5, 30.0, 90.0, 120.0, 86400.0, 0)] == [
        "250ms",
        "1500ms",
        "30s",
        "90s",
        "2m",
        "1d",
        "0s",
    ]
    assert format_duration(0.00025) == "0.00025s"
    assert [format_size(b) for b in (0, 7, 1024, 64 << 20, 3 << 30)] == [
        "0B",
        "7B",
        "1KiB",
        "64MiB",
        "3GiB",
    ]
    assert SECONDS.toml(0.25) == '"250ms"'
    assert BYTES.toml(1024) == '"1KiB"'


def test_numbers_keep_their_bounds() -> None:
    number = Number(0.0, 1.5)
    for value in (0, 1, 1.5, 0.25):
        assert number.parse(value) == value
        assert type(number.parse(value)) is float
    wrong: list[Any] = [-0.1, 2, True, "1", None, float("nan"), float("inf")]
    for other in wrong:
        with pytest.raises(ValueError, match=r"^must be a number from 0 to 1.5, got"):
            number.parse(other)
    for text in ("", "x", "-1", "1e0", "2", "٣", "nan"):
        with pytest.raises(ValueError, match=r"^must be a number from 0 to 1.5, got"):
            number.parse_text(text)


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1234567890123, 1e-7, -0.0, 1000.0])
def test_numbers_are_written_as_they_are_read(value: float) -> None:
    number = Number(0.0, 1000.0)
    assert number.parse_text(number.text(number.parse(value))) == value
    assert number.toml(2.0) == "2"

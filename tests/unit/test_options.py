from __future__ import annotations

from typing import Any

import pytest

from falconas.options import (
    Choice,
    Count,
    Duration,
    Endpoint,
    Filled,
    Flag,
    Kind,
    Size,
    dialable,
    format_duration,
    format_size,
    is_loopback,
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


def test_flag_reads_truth_from_text_but_not_from_toml() -> None:
    assert [Flag().parse_text(t) for t in ("true", "1", "Yes", "on")] == [True] * 4
    assert [Flag().parse_text(t) for t in ("FALSE", "0", "no", "off")] == [False] * 4
    assert Flag().parse(value=True) is True
    for value in ("true", 1, 0, None):
        with pytest.raises(ValueError, match="must be true or false, got"):
            Flag().parse(value)
    with pytest.raises(ValueError, match='got "maybe"'):
        Flag().parse_text("maybe")


def test_choice_lists_its_words() -> None:
    assert Choice("a", "b").parse("b") == "b"
    for value in list[Any](("c", "", 1, [])):
        with pytest.raises(ValueError, match="must be one of a, b, got"):
            Choice("a", "b").parse(value)


def test_texts() -> None:
    assert Kind().parse("") == ""
    assert Filled().parse("x") == "x"
    wrong: list[Any] = ["", "  ", "x" * 257, 3]
    for value in wrong:
        with pytest.raises(ValueError, match=r"^must be a text of 1 to 256 characters"):
            Filled().parse(value)
    with pytest.raises(ValueError, match="without control characters"):
        Kind().parse("a\x1b[2J")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (True, "true"),
        (3, "3"),
        (1.5, "1.5"),
        ([1], "an array"),
        ({}, "a table"),
        (None, "a NoneType"),
    ],
)
def test_an_error_says_what_was_found(value: Any, said: str) -> None:
    with pytest.raises(ValueError, match=f"got {said}$"):
        Kind().parse(value)


def test_an_error_shortens_what_was_found() -> None:
    with pytest.raises(ValueError, match="…") as caught:
        Flag().parse_text("x" * 5000)
    assert len(str(caught.value)) < 120


@pytest.mark.parametrize(
    "endpoint",
    [
        "tcp://127.0.0.1:5570",
        "tcp://*:1",
        "tcp://[::1]:65535",
        "tcp://db-1.lan:80",
        "ipc:///run/falconas/front",
        "ipc://@abstract",
        "ipc://relative",
    ],
)
def test_endpoints_to_listen_on(endpoint: str) -> None:
    assert Endpoint().parse(endpoint) == endpoint


@pytest.mark.parametrize(
    "value",
    [
        "",
        "127.0.0.1:5570",
        "tcp://127.0.0.1",
        "tcp://127.0.0.1:0",
        "tcp://h:65536",
        "tcp://:5570",
        "tcp://a b:1",
        "tcp://[zz]:1",
        "tcp://[:::]:1",
        "ipc://",
        "udp://h:1",
        "inproc://x",
        "tcp://h:*",
        "tcp://h:1/x",
        5570,
        None,
        "tcp://h:",
    ],
)
def test_wrong_endpoints_say_what_would_be_right(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^must be .*text|tcp://HOST:PORT"):
        Endpoint().parse(value)


def test_an_ipc_path_fits_into_a_unix_socket_address() -> None:
    assert Endpoint().parse("ipc://" + "a" * 107)
    with pytest.raises(ValueError, match="at most 107 bytes, got 108"):
        Endpoint().parse("ipc://" + "ä" * 54)


@pytest.mark.parametrize("host", ["*", "0.0.0.0", "[::]"])
def test_nobody_connects_to_a_wildcard(host: str) -> None:
    assert Endpoint().parse(f"tcp://{host}:1")
    with pytest.raises(ValueError, match="must name the host to connect to"):
        Endpoint(dial=True).parse(f"tcp://{host}:1")


@pytest.mark.parametrize(
    ("endpoint", "local"),
    [
        ("tcp://127.0.0.1:1", True),
        ("tcp://127.9.9.9:1", True),
        ("ipc://x", True),
        ("tcp://[::1]:1", True),
        ("tcp://localhost:1", True),
        ("tcp://*:1", False),
        ("tcp://0.0.0.0:1", False),
        ("tcp://10.0.0.1:1", False),
        ("udp://x", False),
        ("tcp://localhost.example.org:1", False),
        ("tcp://[::]:1", False),
        ("tcp://eth0:1", False),
        ("tcp://LocalHost:1", True),
    ],
)
def test_loopback(endpoint: str, *, local: bool) -> None:
    assert is_loopback(endpoint) is local


def test_dialable_replaces_wildcards_only() -> None:
    assert dialable("tcp://*:7") == "tcp://127.0.0.1:7"
    assert dialable("tcp://0.0.0.0:7") == "tcp://127.0.0.1:7"
    assert dialable("tcp://[::]:7") == "tcp://[::1]:7"
    assert dialable("tcp://10.0.0.1:7") == "tcp://10.0.0.1:7"
    assert dialable("ipc://x") == "ipc://x"


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
    assert Flag().toml(value=True) == "true"
    assert Kind().toml('a"b') == '"a\\"b"'

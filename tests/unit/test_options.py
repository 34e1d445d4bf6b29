from __future__ import annotations

from typing import Any

import pytest

from falconas.options import (
    Choice,
    Endpoint,
    Filled,
    Flag,
    Kind,
    Name,
    Names,
    Url,
    Urls,
    Words,
    dialable,
    is_loopback,
)


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
    "url", ["http://db1:8008", "https://db1", "http://[::1]:8008/x/cluster"]
)
def test_urls(url: str) -> None:
    assert Url().parse(url) == url
    assert Urls().parse([url]) == Urls().parse_text(f" {url},") == (url,)


@pytest.mark.parametrize(
    "url",
    list[Any](
        (
            *("", "db1:8008", "ftp://h", "http://", "http://h:x", "http://h:70000"),
            *("http://h:0", "http://[::1", 7),
        )
    ),
)
def test_what_is_no_url_is_said_with_what_would_be_right(url: Any) -> None:
    with pytest.raises(ValueError, match=r"^must be a (URL such as https://|text)"):
        Url().parse(url)


@pytest.mark.parametrize(
    "url", ["http://me:s3cret@h", "me:s3cret@h", "http://s3cret@["]
)
def test_a_url_holds_no_secret(url: str) -> None:
    with pytest.raises(ValueError, match="without user and password") as caught:
        Urls().parse([url])
    assert "s3cret" not in str(caught.value)


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


def test_values_are_written_as_they_are_read() -> None:
    assert Flag().toml(value=True) == "true"
    assert Kind().toml('a"b') == '"a\\"b"'
    words = ("a b", 'c"d')
    assert Words().text(words) == 'a b,c"d'
    assert Words().toml(words) == '["a b", "c\\"d"]'


def test_names() -> None:
    for name in ("a", "n1", "db-2_x", "a" * 64):
        assert Name().parse(name) == name
    for wrong in ("", "1a", "A", "a b", "a/b", "-a", "a" * 65, "ä", None, 3):
        with pytest.raises(ValueError, match=r"^must be a name of 1 to 64"):
            Name().parse(wrong)


def test_words_are_an_array_or_a_text_with_commas() -> None:
    assert Words().parse(["a", " b "]) == ("a", "b")
    assert Words().parse_text("a, b ,,c") == ("a", "b", "c")
    assert Words().parse([]) == Words().parse_text("") == ()
    for wrong in ("a", None, {"a": 1}):
        with pytest.raises(ValueError, match=r"^must be an array of texts"):
            Words().parse(wrong)
    with pytest.raises(ValueError, match='without commas, got "a,b"'):
        Words().parse(["a,b"])
    for item in (3, "", "a\nb"):
        with pytest.raises(ValueError, match=r"^must be a text"):
            Words().parse([item])


def test_names_are_words_that_are_names() -> None:
    assert Names().parse_text("a,b-1") == ("a", "b-1")
    with pytest.raises(ValueError, match='a letter first, got "A"'):
        Names().parse(["A"])
    with pytest.raises(ValueError, match="must be an array of names"):
        Names().parse("a")

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falconas.database.patroni import LIMIT, Api, Member, members

# As https://patroni.readthedocs.io/en/latest/rest_api.html shows the answer.
DOCUMENTED = {
    "members": [
        {
            "name": "patroni1",
            "role": "leader",
            "state": "running",
            "api_url": "http://10.89.0.4:8008/patroni",
            "host": "10.89.0.4",
            "port": 5432,
            "timeline": 5,
            "tags": {"clonefrom": True},
        },
        {
            "name": "patroni2",
            "role": "replica",
            "state": "streaming",
            "api_url": "http://10.89.0.6:8008/patroni",
            "host": "10.89.0.6",
            "port": 5433,
            "timeline": 5,
            "tags": {"clonefrom": True},
            "receive_lag": 0,
            "receive_lsn": "0/4000060",
            "replay_lag": 0,
            "replay_lsn": "0/4000060",
            "lag": 0,
            "lsn": "0/4000060",
        },
    ],
    "scope": "demo",
    "scheduled_switchover": {
        "at": "2023-09-24T10:36:00+02:00",
        "from": "patroni1",
        "to": "patroni3",
    },
}


def read(*listed: dict[str, Any]) -> list[Member]:
    return members(json.dumps({"members": listed}).encode())


def test_the_documented_answer_is_understood() -> None:
    first, second = members(json.dumps(DOCUMENTED).encode())

    assert (first.name, first.host, first.port) == ("patroni1", "10.89.0.4", 5432)
    assert (second.name, second.host, second.port) == ("patroni2", "10.89.0.6", 5433)
    assert first.running
    assert second.running
    assert not first.reserve


@pytest.mark.parametrize(
    ("state", "running"),
    [
        ("running", True),
        ("streaming", True),
        ("in archive recovery", True),
        ("starting", False),
        ("creating replica", False),
        ("stopped", False),
        ("start failed", False),
        ("", False),
    ],
)
def test_the_state_says_who_runs(state: str, running: bool) -> None:
    (member,) = read({"name": "a", "host": "h", "state": state})

    assert member.running is running


@pytest.mark.parametrize(
    ("tags", "reserve"),
    [
        ({"noloadbalance": True}, True),
        ({"nofailover": True}, True),
        ({"noloadbalance": False, "clonefrom": True}, False),
        ({}, False),
        (None, False),
    ],
)
def test_tags_say_who_is_for_reserve(tags: Any, reserve: bool) -> None:
    (member,) = read({"name": "a", "host": "h", "tags": tags})

    assert member.reserve is reserve


def test_a_member_without_an_address_is_none_yet() -> None:
    assert read({"name": "a", "state": "creating replica"}) == []


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"host": "h"}, "name"),
        ({"name": "a b", "host": "h"}, "name"),
        ({"name": "a\n", "host": "h"}, "name"),
        ({"name": "", "host": "h"}, "name"),
        ({"name": "a" * 129, "host": "h"}, "name"),
        ({"name": "a", "host": "h,i"}, "host"),
        ({"name": "a", "host": "/tmp"}, "host"),
        ({"name": "a", "host": "h\n"}, "host"),
        ({"name": "a", "host": 7}, "host"),
        ({"name": "a", "host": "h", "port": 0}, "port"),
        ({"name": "a", "host": "h", "port": 65536}, "port"),
        ({"name": "a", "host": "h", "port": "5432"}, "port"),
        ({"name": "a", "host": "h", "tags": ["x"]}, "tags"),
        ({"name": "a", "host": "h", "state": 3}, "state"),
    ],
)
def test_what_cannot_be_a_member_spoils_the_answer(
    wrong: dict[str, Any], why: str
) -> None:
    with pytest.raises(ValueError, match=f"not one of Patroni's: .*{why}"):
        read({"name": "fine", "host": "h"}, wrong)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"members": null}',
        b'{"members": [7]}',
        b'{"members": []',
        b"<html>502 Bad Gateway</html>",
        b'{"members": [{"name": "\xff", "host": "h"}]}',
        b'{"members": [], "more": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
)
def test_what_is_no_answer_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match="not one of Patroni's"):
        members(body)


def test_its_size_is_bounded() -> None:
    with pytest.raises(ValueError, match=f"more than {LIMIT} bytes"):
        members(b" " * LIMIT + b"{}")


def test_names_are_unique() -> None:
    with pytest.raises(ValueError, match="two members have the same name"):
        read({"name": "a", "host": "h"}, {"name": "a", "host": "i"})


@given(st.binary() | st.recursive(st.none() | st.text() | st.integers(), st.lists))
def test_nothing_else_ever_happens(body: Any) -> None:
    if not isinstance(body, bytes):
        body = json.dumps({"members": body}).encode()
    with suppress(ValueError):
        members(body)


@pytest.mark.parametrize(
    ("url", "api"),
    [
        ("http://10.0.0.1:8008", Api(False, "10.0.0.1", 8008, "/cluster")),
        ("http://p:8008/cluster", Api(False, "p", 8008, "/cluster")),
        ("https://p/db1/", Api(True, "p", None, "/db1/cluster")),
        ("http://[::1]:8008/", Api(False, "::1", 8008, "/cluster")),
    ],
)
def test_urls(url: str, api: Api) -> None:
    assert Api.of(url) == api


@pytest.mark.parametrize("url", ["", "p:8008", "ftp://p", "http://", "http://p:x"])
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="API must be a URL such as https://db1:8008"):
        Api.of(url)


def test_a_secret_in_a_url_is_refused_and_not_repeated() -> None:
    with pytest.raises(ValueError, match="without user and password") as caught:
        Api.of("http://me:s3cret@p:8008")
    assert "s3cret" not in str(caught.value)


def test_the_log_calls_it_by_its_address() -> None:
    assert str(Api.of("http://p:8008")) == "p:8008"
    assert str(Api.of("http://p")) == "p"

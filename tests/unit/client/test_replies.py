from __future__ import annotations

from math import inf
from typing import Any

import pytest

from falconas.client.replies import DATABASES, Positions, positive, value_of
from falconas.codec import encode_value
from falconas.errors import InvalidArgument


def test_positions_only_rise() -> None:
    positions = Positions(follow=True)
    assert positions.wanted(None) == {}
    for lsn in ({"main": 7}, {"main": 5}, {"shard": 3}, {"main": 6, "shard": 4}):
        positions.learn({"node": "n1", "lsn": lsn})
    assert positions.seen == {"main": 7, "shard": 4}
    positions.seen["main"] = 0  # a copy
    assert positions.wanted(None) == {"main": 7, "shard": 4}


def test_what_a_call_holds_on_to_does_not_change() -> None:
    positions = Positions(follow=True)
    positions.learn({"lsn": {"main": 7}})
    held = positions.wanted(None)
    positions.learn({"lsn": {"main": 8}})
    assert held == {"main": 7}


def test_the_callers_word_adds_to_what_was_seen() -> None:
    positions = Positions(follow=True)
    positions.learn({"lsn": {"main": 7}})
    assert positions.wanted({"main": 5}) == {"main": 7}
    assert positions.wanted({"main": 9, "shard": 0}) == {"main": 9, "shard": 0}
    assert positions.seen == {"main": 7}


def test_without_following_only_the_callers_word_counts() -> None:
    positions = Positions()
    positions.learn({"lsn": {"main": 7}})
    assert positions.seen == {}
    assert positions.wanted({"main": 5}) == {"main": 5}


@pytest.mark.parametrize(
    "lsn", [5, [5], {"main": "0/5"}, {"main": True}, {"main": -1}, {7: 5}, {"a": 2**64}]
)
def test_what_is_no_map_of_positions_is_refused_or_not_believed(lsn: Any) -> None:
    positions = Positions(follow=True)
    positions.learn({"lsn": lsn})
    assert positions.seen == {}
    with pytest.raises(InvalidArgument, match="map of databases to positions"):
        positions.wanted(lsn)


def test_a_broker_cannot_fill_our_requests() -> None:
    positions = Positions(follow=True)
    positions.learn({"lsn": {str(number): 1 for number in range(DATABASES + 1)}})
    assert positions.seen == {}


def test_a_limit_is_a_number_above_0() -> None:
    assert positive({"budget": 3}, "budget") == 3.0
    for limits in (None, {}, {"budget": 0}, {"budget": "3"}):
        assert positive(limits, "budget") == inf
        assert positive(limits, "budget", 2.0) == 2.0


def test_a_body_that_cannot_be_read_holds_nothing() -> None:
    assert value_of(encode_value([1])) == [1]
    assert value_of(b"\xc1") is None

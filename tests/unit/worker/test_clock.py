from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falconas.worker.clock import DRIFT, Clock

AHEAD = 1000.0
SECONDS = st.floats(0.0, 5.0)


def test_a_stamp_came_later_than_it_was_made() -> None:
    clock = Clock()
    clock.sample(AHEAD + 10.0, 9.5, 10.25)
    assert clock.at_latest(AHEAD + 20.0) == 20.25
    assert clock.at_earliest(AHEAD + 20.0) == 19.5


def test_without_an_answer_to_it_nothing_is_early_enough() -> None:
    clock = Clock()
    assert clock.at_earliest(AHEAD) == -inf
    clock.sample(AHEAD + 10.0, -inf, 10.0)
    assert clock.at_earliest(AHEAD) == -inf
    assert clock.at_latest(AHEAD) == 0.0


def test_the_best_stamps_count_and_fade() -> None:
    clock = Clock()
    clock.sample(AHEAD + 10.0, 10.0, 10.0)
    clock.sample(AHEAD + 20.0, 11.0, 25.0)
    assert clock.at_latest(AHEAD) == pytest.approx(DRIFT * 15.0)
    assert clock.at_earliest(AHEAD) == pytest.approx(-DRIFT * 15.0)


def test_what_cannot_have_been_heard_was_not() -> None:
    clock = Clock()
    clock.sample(AHEAD + 10.0, 9.5, 10.25)
    clock.sample(AHEAD + 10.5, 12.0, 13.0)
    assert clock.at_earliest(AHEAD + 20.0) == pytest.approx(19.5, abs=0.001)


def test_what_is_no_time_says_nothing() -> None:
    clock = Clock()
    for stamp in (None, "10", b"", True):
        clock.sample(stamp, 0.0, 10.0)
    assert clock.at_latest(1.0) == inf
    assert clock.at_earliest(1.0) == -inf


@given(st.lists(st.tuples(SECONDS, SECONDS, SECONDS), min_size=1, max_size=20))
def test_the_truth_lies_between_the_bounds(ways: list[tuple[float, ...]]) -> None:
    clock, now = Clock(), 0.0
    for there, back, pause in ways:
        said = now
        stamped = said + there
        now = stamped + back
        clock.sample(stamped + AHEAD, said, now)
        now += pause
        assert clock.at_earliest(now + AHEAD) <= now + 1e-6
        assert clock.at_latest(now + AHEAD) >= now - 1e-6

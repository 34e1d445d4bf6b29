from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falconas.database.health import (
    FIRST_DELAY,
    LEAST_SHARE,
    LONGEST_DELAY,
    LONGEST_PROBATION,
    PROBATION,
    STEADY,
    Health,
)


def fresh(random: float = 1.0) -> Health:
    return Health(1.0, lambda: random)


def up(now: float = 0.0) -> Health:
    health = fresh()
    health.asked(now)
    health.succeeded(now)
    return health


def test_it_is_to_be_probed_at_once_and_not_twice() -> None:
    health = fresh()
    assert health.probe_at <= 0
    assert not health.up

    health.asked(5.0)

    assert health.probe_at == inf


def test_one_that_answers_has_its_whole_share_from_the_start() -> None:
    health = up()

    assert (health.up, health.share(0.0), health.why) == (True, 1.0, "")
    assert health.probe_at == 1.0
    assert health.settled(0.0)


def test_one_that_is_down_is_probed_at_intervals_that_double() -> None:
    health, now, delays = up(), 0.0, []
    for _ in range(9):
        health.failed("refused", now)
        delays.append(health.probe_at - now)
        now = health.probe_at
        health.asked(now)

    assert delays[:4] == pytest.approx([FIRST_DELAY * 2**n for n in range(4)])
    assert delays[-1] == LONGEST_DELAY
    assert (health.up, health.why, health.share(now)) == (False, "refused", 0.0)


@given(st.floats(0, 1))
def test_jitter_shortens_a_delay_by_half_at_most(random: float) -> None:
    health = fresh(random)

    health.failed("refused", 10.0)

    assert FIRST_DELAY / 2 <= health.probe_at - 10.0 <= FIRST_DELAY + 1e-9


def test_one_that_returns_is_on_probation() -> None:
    health = up()
    health.failed("refused", 100.0)
    health.succeeded(101.0)

    shares = [health.share(101.0 + PROBATION * part) for part in (0, 0.5, 0.9, 1)]

    assert shares == pytest.approx([LEAST_SHARE, 0.5, 0.9, 1.0])
    assert not health.settled(101.0)
    assert health.settled(101.0 + PROBATION)


def test_the_probation_of_one_that_keeps_failing_is_longer_each_time() -> None:
    health, now, lengths = up(), 0.0, []
    for _ in range(6):
        health.failed("refused", now)
        health.succeeded(now + 1)
        lengths.append(health.probation_ends - now - 1)
        now = health.probation_ends

    assert lengths == [5.0, 10.0, 20.0, 40.0, 60.0, 60.0]
    assert max(lengths) == LONGEST_PROBATION


def test_one_that_was_well_for_long_has_a_clean_record() -> None:
    health = up()
    for now in (0.0, 20.0):
        health.failed("refused", now)
        health.succeeded(now + 1)
    assert health.returns == 1
    later = health.probation_ends + STEADY
    health.asked(later)
    health.succeeded(later)

    health.failed("refused", later + 1)
    health.succeeded(later + 2)

    assert health.probation_ends == later + 2 + PROBATION


def test_a_suspicion_is_probed_at_once_and_is_news_once() -> None:
    health = up()

    assert health.suspected("lost", 0.5)
    assert not health.suspected("lost", 0.6)

    assert (health.up, health.suspect, health.probe_at) == (True, True, 0.5)
    health.asked(0.6)
    health.succeeded(0.7)
    assert (health.suspect, health.why) == (False, "")


def test_a_probe_that_was_on_its_way_before_does_not_clear_a_suspicion() -> None:
    health = up()
    health.asked(1.0)
    health.suspected("lost", 1.1)
    assert health.probe_at == inf

    health.succeeded(1.2)

    assert (health.suspect, health.probe_at) == (True, 1.2)


def test_one_that_is_down_is_not_suspect_and_keeps_its_back_off() -> None:
    health = up()
    health.failed("refused", 1.0)
    due = health.probe_at

    assert not health.suspected("lost", 1.01)

    assert (health.suspect, health.probe_at) == (False, due)


def test_it_is_known_once_it_was_probed_and_silent_if_it_said_nothing() -> None:
    health = fresh()
    assert not health.known
    health.failed("no connection within 3 s", 1.0, silent=True)
    assert (health.known, health.silent) == (True, True)
    health.failed("refused", 2.0)
    assert (health.known, health.silent) == (True, False)
    health.failed("no connection within 3 s", 3.0, silent=True)
    health.succeeded(4.0)
    assert (health.known, health.silent) == (True, False)


def test_one_in_a_hurry_is_probed_soon_but_only_once_at_a_time() -> None:
    health = up()
    health.hurry(0.2)
    assert health.probe_at == 0.2
    health.hurry(0.5)
    assert health.probe_at == 0.2

    health.asked(0.2)
    health.hurry(0.3)
    assert health.probe_at == inf


def test_one_that_refuses_a_connection_is_up_but_suspect_till_it_answers() -> None:
    health = up()
    health.asked(1.0)
    health.refused("all slots are taken", 1.0, known=True)

    assert (health.up, health.suspect, health.closed) == (True, True, True)
    assert health.why == "takes no new connections: all slots are taken"
    assert (health.probe_at, health.settled(1.0)) == (2.0, True)
    assert not health.suspected("no connection in time", 1.5)  # that is no news

    health.asked(2.0)
    health.succeeded(2.0)

    assert (health.suspect, health.closed, health.why) == (False, False, "")


def test_one_that_was_down_returns_on_probation_though_it_refuses_connections() -> None:
    health = up()
    health.failed("nobody listens", 1.0, silent=True)
    health.refused("all slots are taken", 2.0, known=True)

    assert (health.up, health.silent, health.since) == (True, False, 2.0)
    assert not health.settled(2.0)

    health.failed("nobody listens", 3.0)

    assert (health.up, health.closed, health.suspect) == (False, False, False)


def test_of_one_that_never_answered_a_refusal_tells_nothing() -> None:
    health = fresh()
    health.failed("nobody listens", 0.0)
    health.refused("wrong password", 1.0, known=False)

    assert (health.known, health.up, health.suspect) == (False, False, False)
    assert health.why == "takes no new connections: wrong password"

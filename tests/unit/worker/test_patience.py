from __future__ import annotations

from math import inf

from falconas.worker.patience import (
    HELD,
    HOLD,
    LATER,
    LET_GO,
    LONG,
    SHORT,
    Patience,
)

NOW = 50.0


def patience(**longest: float) -> Patience:
    made = Patience()
    made.longest.update(longest)
    return made


def test_an_answer_waits_for_one_that_is_known_to_be_short() -> None:
    assert patience(echo=SHORT).holds("other", 9.0, "echo", NOW)


def test_it_does_not_wait_for_nothing_nor_for_what_may_be_long() -> None:
    assert not patience().holds("echo", 0.0, None, NOW)
    assert not patience().holds("echo", 0.0, "unknown", NOW)
    assert not patience(slow=2 * SHORT).holds("echo", 0.0, "slow", NOW)


def test_what_was_long_is_forgotten_by_and_by() -> None:
    made = patience(echo=0.0)
    assert not made.holds("echo", 3 * SHORT, "echo", NOW)
    held = [made.holds("echo", 0.0, "echo", NOW) for _ in range(10)]
    assert held[0] is False
    assert held[-1] is True


def test_no_longer_than_a_moment_and_not_too_many() -> None:
    made = patience(echo=0.0)
    assert made.holds("echo", 0.0, "echo", NOW)
    assert not made.holds("echo", 0.0, "echo", NOW + HOLD)
    made.released()
    held = [made.holds("echo", 0.0, "echo", NOW) for _ in range(HELD)]
    assert held == [True] * (HELD - 1) + [False]


def test_a_script_that_takes_long_lets_go_twice() -> None:
    made = patience()
    assert made.begin(NOW, followed=True) == NOW + LONG
    assert made.is_long
    assert made.next() == NOW + LATER
    assert made.is_long
    assert made.next() == inf


def test_what_is_held_back_is_let_go_first() -> None:
    made = patience(echo=0.0)
    made.holds("echo", 0.0, "echo", NOW)
    assert made.begin(NOW + 0.001, followed=True) == NOW + LET_GO
    assert not made.is_long
    assert made.next() == NOW + 0.001 + LONG
    assert made.is_long


def test_with_each_script_it_begins_anew() -> None:
    made = patience()
    made.begin(NOW, followed=True)
    made.next()
    assert made.begin(NOW + 1.0, followed=True) == NOW + 1.0 + LONG


def test_a_script_that_nothing_follows_is_not_called() -> None:
    made = patience(echo=0.0)
    assert made.begin(NOW, followed=False) == inf
    assert not made.is_long
    made.holds("echo", 0.0, "echo", NOW)
    assert made.begin(NOW, followed=False) == NOW + LET_GO
    assert not made.is_long
    assert made.next() == inf

from __future__ import annotations

from falconas.worker.backoff import Backoff


def test_waits_are_shortened_at_random_by_up_to_a_half() -> None:
    assert Backoff(1.0, 8.0, lambda: 0.0).next() == 0.5
    assert Backoff(1.0, 8.0, lambda: 1.0).next() == 1.0


def test_waits_double_up_to_a_limit_and_begin_anew() -> None:
    backoff = Backoff(1.0, 3.0, lambda: 1.0)
    assert [backoff.next() for _ in range(4)] == [1.0, 2.0, 3.0, 3.0]
    backoff.reset()
    assert backoff.next() == 1.0

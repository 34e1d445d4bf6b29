from __future__ import annotations

from math import inf

import pytest

from falconas.broker.expiry import RESOLUTION, SPARE, Expiry
from tests.unit.broker.desk import pending


def test_what_is_due_is_taken_the_earliest_first_and_at_most_a_resolution_late() -> (
    None
):
    expiry = Expiry()
    late, soon = pending(1), pending(2)
    expiry.set(late, 20.0)
    expiry.set(soon, 10.005)

    assert expiry.take(10.004) == []
    assert expiry.take(10.005 + RESOLUTION) == [soon]
    assert expiry.take(30.0) == [late]
    assert len(expiry) == 0


def test_it_is_due_at_the_last_time_that_was_set() -> None:
    expiry = Expiry()
    request = pending()
    expiry.set(request, 10.0)
    expiry.set(request, 20.0)

    assert len(expiry) == 1
    assert expiry.take(19.0) == []
    assert expiry.take(20.0) == [request]


def test_what_was_cleared_is_not_due() -> None:
    expiry = Expiry()
    request, neighbour = pending(1), pending(2)
    expiry.set(request, 10.0)
    expiry.set(neighbour, 10.0)
    assert request in expiry

    expiry.clear(request)
    expiry.clear(request)

    assert request not in expiry
    assert expiry.take(10.0) == [neighbour]
    assert neighbour not in expiry


def test_wake_at_is_the_earliest_that_was_not_cleared() -> None:
    expiry = Expiry()
    assert expiry.wake_at() == inf
    first, second = pending(1), pending(2)
    expiry.set(first, 10.0)
    expiry.set(second, 20.0)
    expiry.clear(first)

    assert expiry.wake_at() == pytest.approx(20.0)


def test_requests_that_end_early_leave_next_to_nothing_behind() -> None:
    expiry = Expiry()
    stays = pending(0)
    expiry.set(stays, 5.0)
    for number in range(1, 5 * SPARE):
        request = pending(number)
        expiry.set(request, 1000.0 + number)
        expiry.clear(request)

    assert len(expiry._buckets) <= SPARE + 4
    assert len(expiry._order) == len(expiry._buckets)
    assert expiry.take(5.0) == [stays]

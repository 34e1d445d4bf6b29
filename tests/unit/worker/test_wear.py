from __future__ import annotations

from math import inf
from typing import Any

import pytest

from falconas.settings import Worker
from falconas.worker.slot import Snapshot, Spoiled, State
from falconas.worker.wear import FDS, UNLIMITED, Limits

FRESH = Snapshot(State.IDLE, b"", 0.0, 0, 0, 1)
SETTINGS = Worker(recycle_requests=1000, recycle_age=600.0, recycle_memory=200 << 20)


@pytest.mark.parametrize(("random", "factor"), [(0.0, 0.9), (0.5, 1.0), (1.0, 1.1)])
def test_limits_are_a_tenth_more_or_less(random: float, factor: float) -> None:
    limits = Limits.draw(SETTINGS, lambda: random)
    assert limits.requests == pytest.approx(1000 * factor)
    assert limits.age == pytest.approx(600 * factor)
    assert limits.memory == pytest.approx((200 << 20) * factor)


def test_each_limit_is_drawn_for_itself() -> None:
    numbers = iter([0.0, 0.5, 1.0])
    limits = Limits.draw(SETTINGS, lambda: next(numbers))
    assert limits == pytest.approx((900.0, 600.0, (200 << 20) * 1.1))


@pytest.mark.parametrize("random", [0.0, 0.5, 1.0])
def test_after_each_request_is_after_each_request(random: float) -> None:
    assert Limits.draw(Worker(recycle_requests=1), lambda: random).requests == 1


def test_zero_is_no_limit() -> None:
    none = Worker(recycle_requests=0, recycle_age=0.0, recycle_memory=0)
    assert Limits.draw(none, lambda: 1.0) == UNLIMITED == (inf, inf, inf)


@pytest.mark.parametrize(
    ("worn", "age", "reason"),
    [
        ({}, 0.0, ""),
        ({"served": 999, "memory": 200 << 20, "fds": FDS - 1}, 599.9, ""),
        ({"served": 1000}, 0.0, "it has served 1000 requests"),
        ({}, 600.0, "it is 600 s old"),
        ({"memory": (200 << 20) + 1}, 0.0, "it holds 200 MiB of memory"),
        ({"threads": 1}, 0.0, "scripts left 1 thread(s) running"),
        ({"fds": FDS}, 0.0, f"scripts left {FDS} file descriptors open"),
        ({"spoiled": Spoiled.MEMORY_ERROR}, 0.0, "it ran out of memory"),
        ({"spoiled": Spoiled.CHILDREN}, 0.0, "a script left a process running"),
        ({"spoiled": Spoiled.STATE}, 0.0, "a script changed what cannot be undone"),
    ],
)
def test_what_wears_a_worker_out(worn: Any, age: float, reason: str) -> None:
    limits = Limits.draw(SETTINGS, lambda: 0.5)
    assert limits.reason(FRESH._replace(**worn), age) == reason


def test_every_way_to_spoil_has_its_words() -> None:
    for spoiled in Spoiled:
        reason = UNLIMITED.reason(FRESH._replace(spoiled=spoiled), 0.0)
        assert bool(reason) is (spoiled is not Spoiled.NO)

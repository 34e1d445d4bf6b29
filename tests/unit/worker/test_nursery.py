from __future__ import annotations

from math import inf

import pytest

from falconas.worker.nursery import (
    YOUNG,
    AdoptZygote,
    KillZygote,
    Nursery,
    StartZygote,
)


@pytest.fixture
def nursery() -> Nursery:
    return Nursery(60.0, lambda: 1.0)


def serving(nursery: Nursery) -> Nursery:
    nursery.tick(0.0)
    nursery.loaded(1, "m1", "", 0.0)
    nursery.tick(0.0)
    return nursery


def test_the_first_that_fails_is_fatal(nursery: Nursery) -> None:
    assert nursery.tick(0.0) == [StartZygote(1)]
    nursery.exited(1, "no such folder", 0.0)
    assert nursery.fatal == "no such folder"
    assert nursery.tick(100.0) == []
    assert nursery.wake_at() == inf


def test_the_first_can_be_refused(nursery: Nursery) -> None:
    nursery.tick(0.0)
    assert nursery.loaded(1, "m1", "x does not load", 0.0) == "x does not load"
    assert nursery.fatal == "x does not load"


def test_one_that_does_not_load_in_time_is_killed(nursery: Nursery) -> None:
    nursery.tick(0.0)
    assert nursery.wake_at() == 60.0
    text = "the scripts did not load within 60 s"
    assert nursery.tick(60.0) == [KillZygote(1, text)]
    assert nursery.tick(61.0) == []
    assert nursery.loaded(1, "m1", "", 61.0) == ""  # too late
    assert nursery.forks == 0


def test_one_that_fails_again_and_again_waits(nursery: Nursery) -> None:
    serving(nursery)
    now, waits = 0.0, []
    for number in (1, 2, 3):
        nursery.exited(number, "broken", now)
        waits.append(nursery.wake_at() - now)
        now = nursery.wake_at()
        assert nursery.tick(now) == [StartZygote(number + 1)]
    assert waits == pytest.approx([0.1, 0.2, 0.4])


def test_one_that_lasted_is_replaced_at_once(nursery: Nursery) -> None:
    serving(nursery)
    nursery.exited(1, "killed", YOUNG)
    assert nursery.tick(YOUNG) == [StartZygote(2)]


def test_a_successor_takes_over_when_it_has_loaded(nursery: Nursery) -> None:
    serving(nursery).begin(1.0)
    assert not nursery.promote()
    nursery.loaded(2, "m2", "", 2.0)
    assert nursery.forks == 1
    assert nursery.promote()
    assert nursery.forks == nursery.current == 2
    assert nursery.generation == 2
    assert nursery.tick(2.0) == [
        StartZygote(2), KillZygote(1, ""), AdoptZygote(2, fresh=True)
    ]  # fmt: skip
    assert not nursery.exited(1, "killed", 3.0)
    assert nursery.tick(3.0) == []


def test_the_one_in_service_may_die_while_its_successor_loads(
    nursery: Nursery,
) -> None:
    serving(nursery).begin(1.0)
    assert not nursery.exited(1, "killed", YOUNG)
    assert StartZygote(3) in nursery.tick(YOUNG)
    nursery.loaded(2, "m2", "", YOUNG)
    assert nursery.promote()
    assert KillZygote(3, "") in nursery.tick(YOUNG)


def test_after_the_close_none_is_started(nursery: Nursery) -> None:
    serving(nursery).begin(1.0)
    nursery.close()
    assert KillZygote(2, "") in nursery.tick(1.0)
    nursery.exited(1, "killed", YOUNG)
    assert nursery.tick(100.0) == []

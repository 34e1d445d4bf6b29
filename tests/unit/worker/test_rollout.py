from __future__ import annotations

from math import inf

from falconas.database.placement import Group
from falconas.settings import Worker
from falconas.worker.nursery import Nursery
from falconas.worker.places import Place, Places
from falconas.worker.rollout import DEATHS, Rollout
from falconas.worker.roster import Roster
from tests.unit.database.world import well


class Shift:
    """Groups of workers that all live, and what replaces them."""

    def __init__(self, **sizes: int) -> None:
        roster = Roster([Group(name, n) for name, n in sizes.items()], well(n1=1, n2=1))
        self.places = Places(sizes, 0, lambda: 1.0)
        self.nursery = Nursery(60.0, lambda: 1.0)
        self.nursery.generation = 1
        self.rollout = Rollout(Worker(), self.places, roster, self.nursery, lambda: 1.0)
        groups = [name for name, size in sizes.items() for _ in range(size)]
        self.workers = [self.spawn(group, float(i)) for i, group in enumerate(groups)]

    def spawn(self, group: str, now: float, replaces: int = -1) -> Place:
        place = self.places.free(group)
        assert place is not None
        place.settle(bytes([place.index + 1]), group, "n1", now)
        place.generation, place.pid = self.nursery.generation, place.index + 7
        place.replaces, place.reason = replaces, "for a test"
        return place

    def reload(self, id_: bytes = b"r") -> None:
        self.rollout.reloads.ask(id_)
        self.rollout.reloads.begin()
        self.nursery.generation += 1
        self.rollout.begin()

    def state(self) -> str:
        self.places.check_invariants()
        return self.rollout.reloads.state


def test_nobody_is_replaced_without_a_reason() -> None:
    assert Shift(a=4).rollout.next() is None


def test_the_reasons() -> None:
    shift = Shift(a=1)
    (worker,) = shift.workers
    worker.target = "n2"
    assert shift.rollout.reason(worker) == "it belongs to n2"
    shift.reload()
    assert shift.rollout.reason(worker) == "its scripts are old"
    worker.worn = "it has served 7 requests"
    assert shift.rollout.reason(worker) == "it has served 7 requests"


def test_nobody_is_replaced_who_has_no_node_to_be_on() -> None:
    shift = Shift(a=1)
    shift.workers[0].target = ""
    shift.reload()
    assert shift.rollout.next() is None


def test_the_oldest_is_next_and_of_a_group_a_share_at_once() -> None:
    shift = Shift(a=8, b=1)
    shift.reload()
    next_ = shift.rollout.next
    replaced = []
    for now in (10.0, 11.0, 12.0):
        old = next_()
        assert old is not None
        replaced.append(old)
        shift.spawn(old.group, now, old.index)
    assert replaced == [*shift.workers[:2], shift.workers[8]]
    assert next_() is None


def test_a_group_that_gets_no_further_does_not_hold_up_another() -> None:
    shift = Shift(a=1, b=1)
    shift.reload()
    shift.spawn("a", 10.0, 0)
    assert shift.rollout.next() is shift.workers[1]


def test_who_has_a_replacement_that_is_ready_is_to_finish() -> None:
    shift = Shift(a=1)
    (old,) = shift.workers
    shift.reload()
    new = shift.spawn("a", 10.0, old.index)
    assert shift.rollout.replaced(11.0) == []
    new.ready = True
    assert shift.rollout.replaced(11.0) == [(old, "for a test")]
    old.retiring = True
    assert new.is_regular
    assert shift.rollout.replaced(12.0) == []
    assert shift.state() == "rolling"  # the old one is still there
    old.vacate()
    shift.rollout.replaced(13.0)
    assert shift.state() == "done"


def test_a_reload_fails_if_nobody_gets_ready_in_time() -> None:
    shift = Shift(a=1)
    assert shift.rollout.fails_at() == inf
    shift.reload()
    assert shift.rollout.fails_at() == inf
    shift.spawn("a", 10.0, 0)
    assert shift.rollout.fails_at() == 70.0
    shift.rollout.replaced(69.0)
    assert shift.state() == "rolling"
    shift.rollout.replaced(70.0)
    assert shift.state() == "failed"


def test_replacements_that_die_make_the_next_wait_and_end_a_reload() -> None:
    shift = Shift(a=1)
    shift.reload()
    waits = []
    for now in range(10, 10 + DEATHS):
        assert shift.rollout.next() is shift.workers[0]
        shift.rollout.died("was killed", float(now))
        waits.append(shift.rollout.not_before - now)
    assert shift.state() == "failed"
    assert [round(wait, 6) for wait in waits] == [0.1, 0.2, 0.4]
    assert shift.rollout.next() is None  # until the next reload
    shift.reload(b"s")
    assert shift.rollout.next() is shift.workers[0]
    assert shift.rollout.not_before == -inf
    shift.rollout.died("was killed", 20.0)
    assert shift.state() == "rolling"


def test_without_a_place_nobody_is_next() -> None:
    shift = Shift(a=1)
    shift.reload()
    shift.spawn("a", 10.0)
    assert shift.rollout.next() is None

from __future__ import annotations

import decimal
from typing import Any

import pytest

from falconas.worker import steady as module
from falconas.worker.steady import KINDS, shows, steady, structure


class Place:
    """Holds something, and counts how often it is compared."""

    def __init__(self, thing: Any, kind: type) -> None:
        self.thing = thing
        self.before = thing.copy()
        self.compared = 0
        self.is_same = steady(lambda: self.thing, self.equal, kind)

    def equal(self, now: Any) -> bool:
        self.compared += 1
        return bool(now == self.before)


@pytest.fixture
def place() -> Place:
    return Place({b"a": b"b", b"c": b"d"}, dict)


def test_what_nobody_touches_is_compared_once(place: Place) -> None:
    assert all(place.is_same() for _ in range(5))
    assert place.compared == (1 if KINDS[dict]() else 5)


def test_a_change_is_seen_until_it_is_undone(place: Place) -> None:
    place.is_same()
    place.thing[b"a"] = b"B"
    assert not place.is_same()
    assert not place.is_same()
    place.thing[b"a"] = b"b"
    assert place.is_same()


@pytest.mark.parametrize("change", [{b"a": b"x"}, {b"z": b"b"}, {b"c": b"b"}])
def test_a_change_in_place_of_the_same_size_is_seen(
    place: Place, change: dict[bytes, bytes]
) -> None:
    place.is_same()
    del place.thing[next(iter(place.thing))]
    place.thing.update(change)
    assert not place.is_same()


def test_another_in_its_place_is_compared(place: Place) -> None:
    place.is_same()
    place.thing = dict(place.thing)
    assert place.is_same()
    place.thing = {}
    assert not place.is_same()


def test_another_kind_is_compared_each_time(place: Place) -> None:
    class Deceiving(dict[bytes, bytes]):
        pass

    place.thing = Deceiving(place.thing)
    place.is_same()
    place.is_same()
    assert place.compared == 2


def test_where_it_does_not_show_it_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module.KINDS, dict, lambda: False)
    place = Place({1: 2}, dict)
    assert place.is_same()
    assert place.is_same()
    assert place.compared == 2


def test_what_one_change_hides_is_not_shown() -> None:
    assert not shows([1, 2], lambda it: it.append(3), lambda it: it.__setitem__(0, 9))
    assert shows([1, 2], lambda it: it.append(3))


def test_this_python_shows_all_of_a_context() -> None:
    """Else it works as well, and takes longer."""
    assert KINDS[decimal.Context]()


def test_the_number_of_references_is_not_part_of_it() -> None:
    thing = {1: 2}
    before = structure(thing).raw
    more = [thing] * 100
    assert structure(thing).raw == before
    assert len(more) == 100

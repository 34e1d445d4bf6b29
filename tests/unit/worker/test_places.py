from __future__ import annotations

import pytest

from falconas.worker.places import Place, Places


def make(guests: int = 0, **sizes: int) -> Places:
    return Places(sizes, guests, lambda: 1.0)


def live(place: Place, group: str = "g") -> Place:
    """Have a worker there."""
    place.settle(bytes([place.index + 1]), group, "n1", 0.0)
    place.pid = place.index + 7
    return place


@pytest.mark.parametrize(
    ("count", "places", "share"),
    [(1, 2, 1), (2, 3, 1), (4, 5, 1), (5, 7, 1), (8, 10, 2)],
)
def test_there_is_room_for_replacements(count: int, places: int, share: int) -> None:
    made = make(g=count)
    assert len(made) == len(list(made)) == places
    assert made.share("g") == share


def test_each_group_has_its_room_and_those_who_leave_have_theirs() -> None:
    made = make(a=8, b=1, guests=3)
    assert made.count == 9
    assert len(made) == 10 + 2 + 3
    assert (made.share("a"), made.share("b")) == (2, 1)


def test_who_is_missing_is_who_neither_lives_nor_is_to_wait() -> None:
    places = make(g=4)
    assert places.missing("g") == 4
    live(places[0])
    assert places.missing("g") == 3
    live(places[1]).vacate(100.0)
    assert places.missing("g") == 2
    places[2].settle(b"b", "g", "n1", 0.0)
    places[2].replaces = 0
    assert places.missing("g") == 2
    assert places.under_way("g") == 1
    assert places.pending() is places[2]
    assert places.free("g") is places[3]
    assert places.of(7) is places[0]
    assert places.substitute(places[0]) is places[2]
    places.check_invariants()


def test_groups_are_counted_apart() -> None:
    places = make(a=2, b=2)
    first, _ = live(places[0], "a"), live(places[1], "b")
    live(places[2], "b").vacate(100.0)
    assert (places.missing("a"), places.missing("b")) == (1, 0)
    assert places.regular("a") == [first]
    first.retiring = True
    assert (places.under_way("a"), places.under_way("b")) == (1, 0)
    assert places.regular("a") == []
    places.check_invariants()


def test_who_leaves_a_dead_node_is_nobodys_replacement_and_takes_no_share() -> None:
    places = make(g=2, guests=2)
    old, new = live(places[0]), live(places[1])
    new.replaces = 0
    old.retiring = old.leaving = True
    places.release(old)
    assert (places.under_way("g"), places.regular("g")) == (0, [new])
    new.retiring = new.leaving = True
    new.replaces = 2
    places.release(new)
    assert (places.under_way("g"), new.replaces) == (0, -1)
    places.check_invariants()


def test_a_group_goes_where_others_of_it_were_and_takes_no_bad_luck_along() -> None:
    places = make(a=2, b=1)
    for index, group in ((0, "b"), (1, "a")):
        place = live(places[index], group)
        place.backoff.next()
        place.vacate()
    assert places.free("a") is places[1]
    live(places[1], "a")
    assert places[1].backoff.next() == pytest.approx(0.2)
    assert places.free("a") is places[2]
    for index in (2, 3, 4):
        live(places[index], "a")
    assert places.free("a") is places[0]
    live(places[0], "a")
    assert places[0].backoff.next() == pytest.approx(0.1)
    assert places.free("a") is None


def test_what_was_there_is_known_until_somebody_else_is() -> None:
    places = make(g=1)
    place = live(places[0])
    place.leaving = place.retiring = True
    place.reason, place.kill_at = "n2 is back", 5.0
    place.vacate()
    assert (place.group, place.node) == ("g", "n1")
    fresh = Place(0, place.backoff, group="g", node="n1", target="n1")
    assert place == fresh


def test_it_has_started_when_all_have_come_up_or_one_is_ready() -> None:
    places = make(g=2)
    for index in (0, 1):
        assert not places.started()
        live(places[index]).booted = True
    assert places.started()
    places[1].vacate()
    assert not places.started()
    places[0].ready = True
    assert places.started()

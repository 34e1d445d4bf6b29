from __future__ import annotations

import pytest

from falconas.worker.places import Places


@pytest.mark.parametrize(
    ("count", "places", "share"),
    [(1, 2, 1), (2, 3, 1), (4, 5, 1), (5, 7, 1), (8, 10, 2)],
)
def test_there_is_room_for_replacements(count: int, places: int, share: int) -> None:
    made = Places(count, lambda: 1.0)
    assert len(made) == len(list(made)) == places
    assert made.share == share


def test_who_is_missing_is_who_neither_lives_nor_is_to_wait() -> None:
    places = Places(4, lambda: 1.0)
    assert places.missing() == 4
    places[0].worker, places[0].pid = b"a", 7
    assert places.missing() == 3
    places[1].vacate(100.0)
    assert places.missing() == 2
    places[2].worker, places[2].replaces = b"b", 0
    assert places.missing() == 2
    assert places.under_way() == 1
    assert places.pending() is places[2]
    assert places.free() is places[3]
    assert places.of(7) is places[0]
    places.check_invariants()


def test_it_has_started_when_all_have_come_up_or_one_is_ready() -> None:
    places = Places(2, lambda: 1.0)
    for index in (0, 1):
        assert not places.started()
        places[index].worker, places[index].pid = bytes([index]), index + 7
        places[index].booted = True
    assert places.started()
    places[1].vacate()
    assert not places.started()
    places[0].ready = True
    assert places.started()

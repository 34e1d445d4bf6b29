from __future__ import annotations

import pytest

from falconas.broker.quarantine import CRASHES, SUSPECTS, WINDOW, Quarantine, Suspect

DAILY = Suspect("m", "daily")


def crash(
    quarantine: Quarantine, *times: float, suspect: Suspect = DAILY
) -> list[bool]:
    return [quarantine.crashed(suspect, now) for now in times]


def test_the_third_crash_in_a_minute_is_one_too_many() -> None:
    quarantine = Quarantine()

    assert crash(quarantine, 10.0, 20.0, 70.0) == [False, False, True]
    assert DAILY in quarantine
    assert quarantine.since == {DAILY: 70.0}
    assert len(quarantine) == 1


def test_the_minute_slides() -> None:
    quarantine = Quarantine()

    assert crash(quarantine, 10.0, 20.0, 70.1, 80.0, 80.1) == [
        False,
        False,
        False,
        True,
        False,  # it is already
    ]
    assert quarantine.since == {DAILY: 80.0}


def test_versions_and_scripts_have_each_their_own_count() -> None:
    quarantine = Quarantine()
    for suspect in (DAILY, Suspect("n", "daily"), Suspect("m", "hourly")):
        assert crash(quarantine, 1.0, 2.0, suspect=suspect) == [False, False]

    assert not quarantine


def test_it_is_lifted_for_the_manifests_named_with_what_was_counted() -> None:
    quarantine = Quarantine()
    other = Suspect("n", "daily")
    crash(quarantine, 1.0, 2.0, 3.0)
    crash(quarantine, 1.0, 2.0, 3.0, suspect=other)

    assert quarantine.lift({"m", "unknown"})

    assert set(quarantine.since) == {other}
    assert crash(quarantine, 4.0, 5.0) == [False, False]
    assert not quarantine.lift({"m"})
    assert crash(quarantine, 6.0, 7.0) == [False, False]


def test_memory_is_bounded_and_the_latest_are_kept() -> None:
    quarantine = Quarantine()
    crash(quarantine, 1.0, 2.0, 3.0)
    for number in range(SUSPECTS):
        quarantine.crashed(Suspect("m", f"s{number}"), 4.0)

    assert DAILY not in quarantine
    assert len(quarantine._crashes) == SUSPECTS
    assert crash(quarantine, 5.0) == [False]


@pytest.mark.parametrize(("name", "value"), [("crashes", CRASHES), ("window", WINDOW)])
def test_numbers_are_documented(name: str, value: float) -> None:
    assert value == {"crashes": 3, "window": 60.0}[name]

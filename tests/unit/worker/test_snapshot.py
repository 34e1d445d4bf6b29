from __future__ import annotations

from falconas.worker.snapshot import Snapshot, Spoiled, State


def test_states_and_reasons_fit_into_cells_and_begin_with_the_harmless() -> None:
    assert State(0) is State.BOOT
    assert Spoiled(0) is Spoiled.NO
    assert len(set(State)) == 6


def test_a_slot_of_long_ago_says_nothing_that_would_end_a_worker() -> None:
    snapshot = Snapshot(State.IDLE, b"", 0.0, 0, 0, 1)
    assert not snapshot.torn
    assert not snapshot.ready
    assert snapshot.spoiled is Spoiled.NO
    assert (snapshot.memory, snapshot.threads, snapshot.fds) == (0, 0, 0)

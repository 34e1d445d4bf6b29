from __future__ import annotations

from math import inf

import pytest

from falconas.worker.slot import Snapshot, State
from falconas.worker.watchdog import (
    ALARM_AFTER,
    ALARM_INTERVAL,
    ASLEEP,
    CANCELS,
    GRACE,
    STOP_WAIT,
    STUCK,
    Alarm,
    Continue,
    Kill,
    Stop,
    Watchdog,
)

ONE, TWO = b"epoch..1" * 2, b"epoch..2" * 2
RUNNING = Snapshot(State.RUN, ONE, 100.0, 0, 0, 7, sequence=2)
IDLE = RUNNING._replace(state=State.IDLE, sequence=4)


@pytest.fixture
def dog() -> Watchdog:
    dog = Watchdog(60.0)
    dog.begin(7, 90.0)
    return dog


def test_what_runs_in_time_is_left_alone(dog: Watchdog) -> None:
    assert dog.look(RUNNING, 100.0 + ALARM_AFTER - 0.01) is None
    assert dog.wake_at == 100.0 + ALARM_AFTER


def test_after_the_deadline_alarms_follow_each_other(dog: Watchdog) -> None:
    now = 100.0 + ALARM_AFTER
    assert dog.look(RUNNING, now) == Alarm(b"")
    assert dog.wake_at == now + ALARM_INTERVAL
    assert dog.look(RUNNING, now + ALARM_INTERVAL / 2) is None
    assert dog.look(RUNNING, now + ALARM_INTERVAL) == Alarm(b"")


def test_what_outlives_the_grace_is_stopped_and_killed(dog: Watchdog) -> None:
    assert dog.look(RUNNING, 100.0 + GRACE) == Stop()
    assert dog.stopping
    assert dog.look(RUNNING, 100.0 + GRACE) is None  # it has not stopped yet
    kill = Kill("was killed 0.4 s after its deadline, which it ignored", "deadline")
    assert dog.stopped(RUNNING) == kill
    assert dog.verdict == kill
    assert dog.look(RUNNING, 200.0) is None  # it is dead


@pytest.mark.parametrize(
    "moved_on",
    [
        RUNNING._replace(state=State.COMMIT),
        RUNNING._replace(state=State.REPLY),
        IDLE,
        RUNNING._replace(id=TWO, deadline=200.0),
        RUNNING._replace(torn=True),
    ],
)
def test_what_has_moved_on_meanwhile_goes_on(dog: Watchdog, moved_on: Snapshot) -> None:
    dog.look(RUNNING, 100.0 + GRACE)
    assert dog.stopped(moved_on) == Continue()
    assert dog.verdict is None
    assert not dog.stopping


def test_what_does_not_stop_is_judged_all_the_same(dog: Watchdog) -> None:
    assert dog.look(RUNNING, 100.0 + GRACE) == Stop()
    assert dog.wake_at == 100.0 + GRACE + STOP_WAIT
    assert isinstance(dog.look(RUNNING, dog.wake_at), Kill)


def test_a_cancel_is_passed_on_at_once_and_until_it_is_heeded(dog: Watchdog) -> None:
    dog.look(RUNNING, 91.0)
    dog.cancel(ONE, 92.0)
    assert dog.look(RUNNING, 92.0) == Alarm(ONE)
    assert dog.look(RUNNING, 92.0 + ALARM_INTERVAL) == Alarm(ONE)
    assert dog.look(RUNNING, 92.0 + GRACE) == Stop()
    kill = Kill("was killed 0.4 s after a cancel, which it ignored", "cancel")
    assert dog.stopped(RUNNING) == kill


def test_a_cancel_before_the_start_counts_from_the_start(dog: Watchdog) -> None:
    dog.cancel(ONE, 91.0)
    assert dog.look(IDLE._replace(id=TWO), 91.0) is None
    assert dog.look(RUNNING, 95.0) == Alarm(ONE)
    assert dog.look(RUNNING, 95.0 + GRACE - 0.01) != Stop()
    assert dog.look(RUNNING, 95.0 + GRACE) == Stop()


def test_a_cancel_does_not_put_the_deadline_off(dog: Watchdog) -> None:
    dog.look(RUNNING, 99.0)
    dog.cancel(ONE, 100.3)
    assert dog.look(RUNNING, 100.0 + GRACE) == Stop()
    assert dog.stopped(RUNNING) == Kill(
        "was killed 0.4 s after its deadline, which it ignored", "deadline"
    )


def test_a_cancel_hits_no_other_request(dog: Watchdog) -> None:
    dog.cancel(TWO, 91.0)
    assert dog.look(RUNNING, 99.0) is None


def test_two_cancels_are_both_kept(dog: Watchdog) -> None:
    dog.look(RUNNING, 91.0)
    dog.cancel(ONE, 92.0)
    dog.cancel(TWO, 92.0)
    assert dog.look(RUNNING, 92.0) == Alarm(ONE)
    assert dog.look(RUNNING._replace(id=TWO), 92.1) == Alarm(TWO)


def test_of_many_cancels_the_oldest_are_forgotten(dog: Watchdog) -> None:
    dog.cancel(ONE, 91.0)
    for number in range(CANCELS):
        dog.cancel(number.to_bytes(16, "big"), 91.0)
    assert dog.look(RUNNING, 92.0) is None


@pytest.mark.parametrize("state", [State.COMMIT, State.REPLY, State.RESET])
def test_deadlines_do_not_hold_for_the_end(dog: Watchdog, state: State) -> None:
    slot = RUNNING._replace(state=state)
    dog.cancel(ONE, 91.0)
    assert dog.look(slot, 101.0) is None
    assert dog.look(slot._replace(sequence=3), 101.0 + STUCK) is None  # it moves


@pytest.mark.parametrize("state", [State.COMMIT, State.REPLY, State.RESET])
def test_nothing_may_stand_still_in_the_end(dog: Watchdog, state: State) -> None:
    slot = RUNNING._replace(state=state)
    dog.look(slot, 101.0)
    assert dog.wake_at == 101.0 + STUCK
    assert dog.look(slot, 101.0 + STUCK) == Stop()
    assert dog.stopped(slot._replace(sequence=3)) == Continue()
    assert dog.look(slot, 101.0 + STUCK) == Stop()
    kill = Kill(f"was killed: it stood still in {state.name} for 10 s")
    assert dog.stopped(slot) == kill


def test_who_stands_still_in_the_middle_of_writing_is_killed(dog: Watchdog) -> None:
    slot = RUNNING._replace(torn=True, sequence=3)
    assert dog.look(slot, 101.0) is None
    assert dog.look(slot, 101.0 + STUCK) == Stop()
    assert isinstance(dog.stopped(slot), Kill)


def test_a_commit_may_take_the_time_that_its_request_has(dog: Watchdog) -> None:
    slot = RUNNING._replace(state=State.COMMIT, deadline=140.0)
    dog.look(slot, 101.0)
    assert dog.look(slot, 149.9) is None
    assert dog.wake_at == 140.0 + STUCK
    assert dog.look(slot, 140.0 + STUCK) == Stop()


def test_who_is_idle_shows_that_it_lives(dog: Watchdog) -> None:
    assert dog.look(IDLE, 91.0) is None
    assert dog.look(IDLE._replace(sequence=6), 91.0 + ASLEEP) is None
    assert dog.wake_at == 91.0 + 2 * ASLEEP
    assert dog.look(IDLE._replace(sequence=6), dog.wake_at) == Stop()


@pytest.mark.parametrize(
    "slot",
    [
        Snapshot(State.BOOT, b"", 0.0, 0, 0, 7, sequence=2),
        RUNNING._replace(pid=6),  # the predecessor's
        RUNNING._replace(pid=6, torn=True),
    ],
)
def test_who_does_not_come_up_is_killed(dog: Watchdog, slot: Snapshot) -> None:
    assert dog.look(slot, 149.9) is None
    assert dog.wake_at == 150.0
    assert dog.look(slot, 150.0) == Stop()
    assert dog.stopped(slot) == Kill("was killed: it did not come up within 60 s")


def test_who_comes_up_while_it_is_stopped_lives(dog: Watchdog) -> None:
    assert dog.look(RUNNING._replace(pid=6), 150.0) == Stop()
    assert dog.stopped(IDLE) == Continue()


def test_where_nobody_is_nothing_is_done() -> None:
    dog = Watchdog(60.0)
    assert dog.look(RUNNING._replace(pid=0), 1000.0) is None
    assert dog.wake_at == inf


def test_a_new_process_owes_nothing_of_the_old(dog: Watchdog) -> None:
    dog.cancel(ONE, 91.0)
    dog.look(RUNNING, 100.0 + GRACE)
    dog.stopped(RUNNING)
    dog.begin(8, 101.0)
    assert dog.look(RUNNING._replace(pid=8, deadline=200.0), 102.0) is None


def test_who_an_alarm_ended_had_passed_a_limit_or_not(dog: Watchdog) -> None:
    assert dog.blame(RUNNING, 99.0) == ""
    assert dog.blame(RUNNING, 100.0) == "deadline"
    assert dog.blame(RUNNING._replace(state=State.RESET), 100.0) == ""
    dog.cancel(ONE, 95.0)
    assert dog.blame(RUNNING, 100.0) == "cancel"

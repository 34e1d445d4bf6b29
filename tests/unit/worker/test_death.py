from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import pytest

from falconas.worker.death import OutOfMemory, describe, explain, state_of
from falconas.worker.slot import Snapshot, Spoiled, State
from falconas.worker.watchdog import Kill

if TYPE_CHECKING:
    from pathlib import Path

RUNNING = Snapshot(State.RUN, b"d" * 16, 1.0, 0, 0, 1)
IDLE = RUNNING._replace(state=State.IDLE)
KILLED = -signal.SIGKILL
ON = "it was on node n1"


class Memory(OutOfMemory):
    """Says whether the kernel killed somebody, as the test wants."""

    def __init__(self, starved: bool = False) -> None:
        self.starved = starved

    def moved(self) -> bool:
        return self.starved


def extras(code: int, last: Snapshot = RUNNING, **how: Any) -> dict[str, Any]:
    kill, blame = how.get("kill"), how.get("blame", "")
    memory = Memory(starved=how.get("starved", False))
    return explain(code, last, kill, blame, memory, ON)[1]


def test_how_a_process_ended_is_said_in_words() -> None:
    assert describe(0) == "exited with code 0"
    assert describe(-11) == "was killed by signal 11 (Segmentation fault)"
    assert describe(-35).startswith("was killed by signal 35 (")


@pytest.mark.parametrize("code", [0, 1, -signal.SIGSEGV, -signal.SIGABRT])
def test_a_script_is_to_blame_for_a_crash_at_work(code: int) -> None:
    assert extras(code) == {"crash": True}
    assert extras(code, RUNNING._replace(state=State.RESET)) == {"crash": True}
    assert extras(code, IDLE) == {}
    assert extras(code, RUNNING._replace(state=State.BOOT)) == {}


def test_under_autocommit_nobody_says_that_a_script_was_rolled_back() -> None:
    assert state_of(RUNNING, autocommit=False) == "RUN"
    assert state_of(RUNNING, autocommit=True) == "COMMIT"
    assert state_of(IDLE, autocommit=True) == "IDLE"


def test_nobody_is_to_blame_for_what_earlier_scripts_left_behind() -> None:
    assert extras(-signal.SIGSEGV, RUNNING._replace(threads=1)) == {}
    assert extras(1, RUNNING._replace(spoiled=Spoiled.CHILDREN)) == {}


@pytest.mark.parametrize("code", [KILLED, -signal.SIGTERM])
def test_nobody_is_to_blame_for_a_kill_from_outside(code: int) -> None:
    assert extras(code) == {}


def test_a_script_is_to_blame_if_the_kernel_had_no_memory_left() -> None:
    assert extras(KILLED, starved=True) == {"crash": True}
    reason, _ = explain(KILLED, RUNNING, None, "", Memory(starved=True), ON)
    assert reason.endswith(": the machine is out of memory")
    assert extras(KILLED, IDLE, starved=True) == {}


def test_a_watchdogs_kill_says_why() -> None:
    kill = Kill("was killed for a reason", "cancel")
    assert explain(KILLED, RUNNING, kill, "", Memory(), ON) == (
        "was killed for a reason; it was on node n1",
        {"why": "cancel"},
    )
    assert explain(KILLED, RUNNING, Kill("was stuck"), "", Memory(), ON) == (
        "was stuck",
        {},
    )
    assert extras(KILLED, kill=kill, starved=True) == {"why": "cancel"}


def test_a_crash_comes_before_the_kill_that_was_to_follow() -> None:
    assert extras(-signal.SIGSEGV, kill=Kill("was late", "deadline")) == {"crash": True}


def test_an_alarm_that_nobody_handled_is_the_deadlines() -> None:
    assert extras(-signal.SIGALRM, blame="deadline") == {"why": "deadline"}
    assert extras(-signal.SIGALRM) == {"crash": True}


def test_a_slot_that_was_being_written_is_mentioned() -> None:
    reason, _ = explain(0, RUNNING._replace(torn=True), None, "", Memory(), ON)
    assert reason == "exited with code 0 while it wrote its slot"


def test_the_kernels_kills_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "vmstat"
    path.write_text("nr_free 7\noom_kill 3\noom_kill_disable 9\n")
    memory = OutOfMemory(path)
    assert not memory.moved()
    path.write_text("oom_kill 4\n")
    assert memory.moved()
    assert not memory.moved()


def test_a_kernel_that_does_not_count_has_killed_nobody(tmp_path: Path) -> None:
    memory = OutOfMemory(tmp_path / "none")
    (tmp_path / "none").write_text("nr_free 7\n")
    assert not memory.moved()

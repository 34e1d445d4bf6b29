from __future__ import annotations

import os
import subprocess
import sys
import threading
from typing import Any

import pytest

from falconas.protocol import Request
from falconas.worker import upkeep as module
from falconas.worker.forks import Forks
from falconas.worker.slot import SlotTable, Spoiled
from falconas.worker.upkeep import MEASURE, Upkeep
from tests.child import in_child

REQUEST = Request(b"d" * 16, "noisy", None, {"origin": b"\1\2"})


class Output:
    def __init__(self) -> None:
        self.printed = ("", 0)

    def take(self) -> tuple[str, int]:
        printed, self.printed = self.printed, ("", 0)
        return printed


class Kept:
    """An upkeep, and what it finds and tells; in a process that has no children."""

    def __init__(self) -> None:
        self.slot = SlotTable.create(1).slot(0)
        self.upkeep = Upkeep(self.slot, Forks())
        self.upkeep.connected(0)

    def tidy(self) -> Spoiled:
        self.upkeep.tidy(REQUEST)
        return self.slot.read().spoiled


def test_what_a_script_prints_is_logged_with_its_request(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    output: Any = Output()
    table = SlotTable.create(1)
    upkeep = Upkeep(table.slot(0), Forks(), output)
    for printed in ("", 0), ("hello\nworld\n", 0), ("much", 17):
        output.printed = printed
        assert upkeep.tidy(REQUEST)
    table.close()
    messages = [record.getMessage() for record in caplog.records]
    assert messages == [
        "printed: hello\nworld",
        "printed: much\n(17 bytes more were left out)",
    ]
    facts = vars(caplog.records[0])
    assert (facts["script"], facts["request"]) == ("noisy", "0102")


def test_what_it_holds_is_in_the_slot() -> None:
    def work() -> list[int]:
        kept = Kept()
        for _ in range(3):
            os.open(os.devnull, os.O_RDONLY)
        found = kept.tidy()
        seen = kept.slot.read()
        return [found, seen.memory, seen.fds]

    spoiled, memory, fds = in_child(work)
    assert (spoiled, fds) == (Spoiled.NO, 3)
    assert memory > 1 << 20


def test_many_short_requests_are_measured_from_time_to_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the last of them left is seen when there is nothing else to do."""
    clock = [100.0]
    monkeypatch.setattr(module, "monotonic", lambda: clock[0])

    def work() -> list[int]:
        kept = Kept()
        found = []
        for later in (0.0, MEASURE / 2, MEASURE / 2):
            clock[0] += later
            for _ in range(3):
                os.open(os.devnull, os.O_RDONLY)
            kept.tidy()
            found.append(kept.slot.read().fds)
        os.open(os.devnull, os.O_RDONLY)
        kept.tidy()
        found.append(kept.slot.read().fds)
        for later in (MEASURE / 2, MEASURE / 2):
            clock[0] += later
            kept.upkeep.measure()
            found.append(kept.slot.read().fds)
        before = kept.slot.read().sequence
        clock[0] += MEASURE
        kept.upkeep.measure()
        return [*found, kept.slot.read().sequence - before]

    assert in_child(work) == [3, 3, 9, 9, 9, 10, 0]


def test_threads_that_have_ended_are_forgotten() -> None:
    def work() -> list[bool | int]:
        kept = Kept()
        counts = iter([2, 2, 0])
        kept.upkeep._vitals.threads = lambda: next(counts)  # type: ignore[union-attr,method-assign]
        found: list[bool | int] = []
        for _ in range(3):
            found += [kept.upkeep.tidy(REQUEST), kept.slot.read().threads]
        return found

    assert in_child(work) == [False, 2, False, 2, True, 0]


def test_a_thread_that_lives_on_may_still_use_the_connection() -> None:
    def work() -> list[bool | int]:
        kept = Kept()
        before = kept.upkeep.tidy(REQUEST)
        threading.Thread(target=threading.Event().wait).start()
        return [before, kept.upkeep.tidy(REQUEST), kept.slot.read().threads]

    assert in_child(work) == [True, False, 1]


def test_a_child_that_lives_on_spoils_it() -> None:
    def work() -> Spoiled:
        kept = Kept()
        command = [sys.executable, "-c", "input()"]
        with subprocess.Popen(command, stdin=subprocess.PIPE) as child:
            found = kept.tidy()
            assert child.stdin is not None
            child.stdin.close()
        return found

    assert in_child(work) == Spoiled.CHILDREN


def test_what_a_script_changed_is_put_back() -> None:
    def work() -> list[int]:
        kept = Kept()
        before = os.umask(0o77)
        return [kept.tidy(), os.umask(0o77) == before]

    assert in_child(work) == [Spoiled.NO, True]


def test_what_cannot_be_put_back_spoils_it() -> None:
    def work() -> Spoiled:
        kept = Kept()
        kept.upkeep._state = Stubborn()  # type: ignore[assignment]
        return kept.tidy()

    assert in_child(work) == Spoiled.STATE


class Stubborn:
    def restore(self, script: str) -> bool:
        return script != "noisy"

"""Real processes that ignore what they are told; this test is their parent."""

from __future__ import annotations

import os
import select
import signal
import sys
from math import inf
from subprocess import DEVNULL, PIPE, Popen
from time import monotonic
from typing import TYPE_CHECKING, Any

import pytest

from falconas.worker.guard import Guard, has_stopped, kill_group, send
from falconas.worker.slot import SlotTable, State
from falconas.worker.watchdog import GRACE

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE = 20.0
REQUEST = b"epoch..." + (1).to_bytes(8, "big")
OTHER = b"epoch..." + (2).to_bytes(8, "big")

# Says "up", and then each signal that comes; does nothing about it.
STUBBORN = """
import os, signal, sys
from falconas.worker.slot import SlotTable, State
slot = SlotTable.attach(int(sys.argv[1]), 1).slot(0)
def note(signum, frame):
    cancelled = b" cancelled" if slot.is_cancelled() else b""
    os.write(1, b"%d%s\\n" % (signum, cancelled))
for signum in (signal.SIGALRM, signal.SIGCONT):
    signal.signal(signum, note)
slot.clear(os.getpid())
state, id, deadline = sys.argv[2:]
if state:
    slot.enter(State[state], bytes.fromhex(id), float(deadline))
os.write(1, b"up\\n")
while True:
    signal.pause()
"""


class Child:
    """A worker that says what it gets, and obeys nothing."""

    def __init__(self, state: str, deadline: float = inf) -> None:
        self.slots = SlotTable.create(1)
        self.guard = Guard(self.slots, 1, 60.0)
        self.process = Popen(
            [sys.executable, "-c", STUBBORN, str(self.slots.fd), state]  # noqa: RUF005
            + [REQUEST.hex(), str(deadline)],
            stdin=DEVNULL,
            stdout=PIPE,
            pass_fds=(self.slots.fd,),
            process_group=0,
            bufsize=0,
        )
        assert self.hears() == "up"
        self.guard.begin(0, self.process.pid, monotonic())

    def hears(self) -> str:
        """Return the next line of what it says."""
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], PATIENCE)
        assert ready, "it said nothing"
        return self.process.stdout.readline().decode().strip()

    def scan_until_dead(self) -> int:
        """Scan as a supervisor does, until the process has ended."""
        fd = os.pidfd_open(self.process.pid)
        try:
            end = monotonic() + PATIENCE
            while monotonic() < end:
                self.guard.scan(monotonic())
                wait = max(0.0, self.guard.wake_at() - monotonic())
                if select.select([fd], [], [], wait)[0]:
                    return self.process.wait()
        finally:
            os.close(fd)
        raise AssertionError("it lives")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.slots.close()


@pytest.fixture
def child() -> Iterator[Any]:
    born: list[Child] = []

    def bear(state: str, deadline: float = inf) -> Child:
        born.append(Child(state, deadline))
        return born[-1]

    yield bear
    for one in born:
        one.close()


def test_a_worker_past_its_deadline_hears_alarms_and_is_killed(child: Any) -> None:
    one = child("RUN", monotonic())
    assert one.scan_until_dead() == -signal.SIGKILL
    assert one.hears() == str(int(signal.SIGALRM))
    last, kill, blame = one.guard.end(0, monotonic())
    assert (last.state, last.id) == (State.RUN, REQUEST)
    assert kill is not None
    assert kill.why == blame == "deadline"
    assert kill.reason == f"was killed {GRACE:g} s after its deadline, which it ignored"


def test_a_cancelled_worker_hears_of_it_at_once_and_is_killed(child: Any) -> None:
    one = child("RUN")
    one.guard.cancel(0, REQUEST, monotonic())
    assert one.hears() == f"{int(signal.SIGALRM)} cancelled"
    assert one.scan_until_dead() == -signal.SIGKILL
    _, kill, blame = one.guard.end(0, monotonic())
    assert kill is not None
    assert kill.why == blame == "cancel"


def test_a_cancel_for_another_request_waits_in_the_slot(child: Any) -> None:
    one = child("RUN")
    one.guard.cancel(0, OTHER, monotonic())
    one.guard.scan(monotonic())
    send(one.process.pid, signal.SIGALRM)  # by the test: the first that it hears
    assert one.hears() == str(int(signal.SIGALRM))
    one.slots.slot(0).enter(State.RUN, OTHER, inf)
    assert one.slots.slot(0).is_cancelled()
    assert one.scan_until_dead() == -signal.SIGKILL


def test_a_worker_that_moved_on_before_it_stopped_goes_on(child: Any) -> None:
    one = child("RUN", monotonic() - 1.0)
    one.guard.scan(monotonic())
    os.waitid(os.P_PID, one.process.pid, os.WSTOPPED | os.WNOWAIT)
    one.slots.slot(0).enter(State.REPLY)  # as if it had done so just before
    one.guard.scan(monotonic())
    assert one.hears() == str(int(signal.SIGCONT))
    _, kill, _ = one.guard.end(0, monotonic())
    assert kill is None


def test_nobody_is_signalled_once_the_watch_has_ended(child: Any) -> None:
    one = child("RUN", monotonic() - 1.0)
    one.guard.end(0, monotonic())
    one.guard.cancel(0, REQUEST, monotonic())
    one.guard.scan(monotonic())
    assert one.guard.wake_at() < inf
    send(one.process.pid, signal.SIGALRM)
    assert one.hears() == str(int(signal.SIGALRM))
    assert not has_stopped(one.process.pid)


def test_killing_who_is_gone_is_no_error(child: Any) -> None:
    one = child("IDLE")
    kill_group(one.process.pid)
    assert one.process.wait() == -signal.SIGKILL
    kill_group(one.process.pid)  # gone: not an error
    assert has_stopped(one.process.pid)

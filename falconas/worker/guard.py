"""Does to workers what their watchdogs say.

A worker is this process's child and is signalled only until it is reaped, so that its
id is nobody else's.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING

from falconas.worker.watchdog import Alarm, Continue, Kill, Stop, Watchdog

if TYPE_CHECKING:
    from falconas.worker.slot import SlotTable, Snapshot
    from falconas.worker.watchdog import Step

SCAN_INTERVAL = 0.1


class Guard:
    """The watchdogs of all places.

    Args:
        slots: What the workers are doing.
        count: How many places there are.
        boot_timeout: How long a worker may take to come up.
    """

    def __init__(self, slots: SlotTable, count: int, boot_timeout: float) -> None:
        self._slots = [slots.slot(index) for index in range(count)]
        self._dogs = [Watchdog(boot_timeout) for _ in range(count)]
        self._scan_at = -inf

    def begin(self, index: int, pid: int, now: float) -> None:
        """Watch the new process at a place."""
        self._dogs[index].begin(pid, now)

    def end(self, index: int, now: float) -> tuple[Snapshot, Kill | None, str]:
        """Return what a dead process did last, its sentence and what it had passed."""
        dog, last = self._dogs[index], self._slots[index].read()
        kill, blame = dog.verdict, dog.blame(last, now)
        dog.begin(0, now)
        return last, kill, blame

    def cancel(self, index: int, id_: bytes, now: float) -> None:
        """Have a request cancelled that the worker at a place has in hand."""
        dog, slot = self._dogs[index], self._slots[index]
        if not dog.pid:
            return
        slot.cancel(id_)
        dog.cancel(id_, now)
        self._follow(index, dog.look(slot.read(), now))

    def kill(self, pid: int, text: str) -> None:
        """End a worker for a reason that is not its watchdog's."""
        for index, dog in enumerate(self._dogs):
            if dog.pid == pid:
                dog.verdict = Kill(f"was killed: {text}")
                self._follow(index, dog.verdict)

    def scan(self, now: float) -> list[Snapshot] | None:
        """Look at the slots if it is time to; return them if all were looked at."""
        if now < self._scan_at:
            for index, dog in enumerate(self._dogs):
                if dog.stopping and has_stopped(dog.pid):
                    self._follow(index, dog.stopped(self._slots[index].read()))
                elif now >= dog.wake_at:
                    self._follow(index, dog.look(self._slots[index].read(), now))
            return None
        self._scan_at = now + SCAN_INTERVAL
        found = [slot.read() for slot in self._slots]
        for index, (dog, snapshot) in enumerate(zip(self._dogs, found, strict=True)):
            self._follow(index, dog.look(snapshot, now))
        return found

    def wake_at(self) -> float:
        """Return when to scan next."""
        return min(self._scan_at, *(dog.wake_at for dog in self._dogs))

    def _follow(self, index: int, step: Step | None) -> None:
        pid, slot = self._dogs[index].pid, self._slots[index]
        if isinstance(step, Alarm):
            if step.cancel and not slot.is_cancelled():
                slot.cancel(step.cancel)
            send(pid, signal.SIGALRM)
        elif isinstance(step, Stop):
            send(pid, signal.SIGSTOP)
        elif isinstance(step, Continue):
            send(pid, signal.SIGCONT)
        elif isinstance(step, Kill):
            kill_group(pid)  # who reaps it says why


def send(pid: int, signum: int) -> None:
    """Send a signal to a child that is not reaped yet."""
    with suppress(ProcessLookupError):
        os.kill(pid, signum)


def kill_group(pid: int) -> None:
    """End a worker and what its scripts started."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    send(pid, signal.SIGKILL)  # a script may have left the group


def has_stopped(pid: int) -> bool:
    """Tell whether a child has stopped, or ended."""
    options = os.WSTOPPED | os.WEXITED | os.WNOHANG | os.WNOWAIT
    try:
        return os.waitid(os.P_PID, pid, options) is not None
    except ChildProcessError:
        return True

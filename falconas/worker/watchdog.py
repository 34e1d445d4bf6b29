"""When a worker is reminded, stopped and killed: pure, slot and `now` in, a step out.

A request is due at its deadline, or at once when it is cancelled. From then on its
worker is sent an alarm again and again; what does not heed it within the grace is
stopped, its slot is read again, and only if it still does the same is it killed: a
worker that moved on meanwhile is let go on. Commit, reply and reset are not subject to
deadlines, but nothing may stand still in them for long, a commit never before its
request's deadline. An idle worker shows from time to time that it lives.
"""

from __future__ import annotations

from math import inf
from typing import NamedTuple

from falconas.worker.snapshot import Snapshot, State

ALARM_AFTER = 0.1  # of the deadline: until then the worker's own timer is to do it
ALARM_INTERVAL = 0.05
GRACE = 0.4
STUCK = 10.0
ASLEEP = 30.0  # an idle worker changes its slot each few seconds
STOP_WAIT = 0.1
CANCELS = 64
ANY = -1

_ENDING = (State.COMMIT, State.REPLY, State.RESET)


class Alarm(NamedTuple):
    """Make the worker look at its slot; with an id, say there that it is cancelled."""

    cancel: bytes


class Stop(NamedTuple):
    """Stop the process, and call `stopped` when it has stopped."""


class Continue(NamedTuple):
    """Let the stopped process go on."""


class Kill(NamedTuple):
    """End the process, for that reason; `why` is for the broker."""

    reason: str
    why: str = ""


Step = Alarm | Stop | Continue | Kill


class _Suspect(NamedTuple):
    """What a worker must still be doing once it has been stopped."""

    kill: Kill
    state: State
    id: bytes
    sequence: int

    def is_caught(self, slot: Snapshot) -> bool:
        same = (slot.state, slot.id) == (self.state, self.id)
        if self.sequence == ANY:
            return same and not slot.torn
        return same and slot.sequence == self.sequence


class Watchdog:
    """What is due to the worker at one place.

    Args:
        boot_timeout: How long a worker may be in state BOOT.
    """

    def __init__(self, boot_timeout: float) -> None:
        self._boot_timeout = boot_timeout
        self.begin(0, -inf)

    def begin(self, pid: int, now: float) -> None:
        """Watch this process from now on; 0: nobody is there."""
        self.pid = pid
        self.verdict: Kill | None = None
        self.stopping = False
        self.wake_at = inf
        self._cancels: dict[bytes, float] = {}
        self._suspect: _Suspect | None = None
        self._stop_until = inf
        self._alarm_at = -inf
        self._running = b""
        self._running_since = now
        self._sequence = -1
        self._standing_since = self._begun = now

    def cancel(self, id: bytes, now: float) -> None:  # noqa: A002
        """Note that a request is to be cancelled, whether it runs yet or not."""
        self._cancels.setdefault(id, now)
        if len(self._cancels) > CANCELS:  # what was never started is never forgotten
            del self._cancels[next(iter(self._cancels))]

    def look(self, slot: Snapshot, now: float) -> Step | None:
        """Return what to do about the worker that is doing this."""
        self.wake_at = inf
        if not self.pid or self.verdict is not None:
            return None
        if self.stopping:
            self.wake_at = self._stop_until
            return None if now < self._stop_until else self.stopped(slot)
        slot = self._own(slot)
        self._note(slot, now)
        if slot.state is State.RUN and not slot.torn:
            return self._look_at_run(slot, now)
        return self._look_for_standstill(slot, now)

    def stopped(self, slot: Snapshot) -> Step:
        """Decide about the worker, which has stopped and does this."""
        assert self._suspect is not None
        suspect, self._suspect = self._suspect, None
        self.stopping = False
        if not suspect.is_caught(self._own(slot)):
            return Continue()
        self.verdict = suspect.kill
        return suspect.kill

    def blame(self, slot: Snapshot, now: float) -> str:
        """Say which limit a process had passed that an alarm put an end to."""
        slot = self._own(slot)
        if slot.state is not State.RUN or slot.torn:
            return ""
        due, kill = self._due(slot)
        return kill.why if now >= due else ""

    def _own(self, slot: Snapshot) -> Snapshot:
        """Return the slot as the worker's, which may not have cleared it yet."""
        if slot.pid == self.pid:
            return slot
        return Snapshot(State.BOOT, b"", 0.0, 0, 0, self.pid)

    def _note(self, slot: Snapshot, now: float) -> None:
        running = slot.id if slot.state is State.RUN else b""
        if running != self._running and not slot.torn:
            self._cancels.pop(self._running, None)
            self._running, self._running_since = running, now
        if slot.sequence != self._sequence:
            self._sequence, self._standing_since = slot.sequence, now

    def _due(self, slot: Snapshot) -> tuple[float, Kill]:
        """Return when the running request should have ended, and the sentence."""
        cancelled = self._cancels.get(slot.id, inf)
        if cancelled < inf:
            cancelled = max(cancelled, self._running_since)
        if cancelled < slot.deadline:
            text = f"was killed {GRACE:g} s after a cancel, which it ignored"
            return cancelled, Kill(text, "cancel")
        text = f"was killed {GRACE:g} s after its deadline, which it ignored"
        return slot.deadline, Kill(text, "deadline")

    def _look_at_run(self, slot: Snapshot, now: float) -> Step | None:
        due, kill = self._due(slot)
        if now >= due + GRACE:
            return self._stop(_Suspect(kill, State.RUN, slot.id, ANY), now)
        cancelled = slot.id in self._cancels
        alarm_at = max(due + (0.0 if cancelled else ALARM_AFTER), self._alarm_at)
        if now < alarm_at:
            self.wake_at = min(alarm_at, due + GRACE)
            return None
        self._alarm_at = now + ALARM_INTERVAL
        self.wake_at = min(self._alarm_at, due + GRACE)
        return Alarm(slot.id if cancelled else b"")

    def _look_for_standstill(self, slot: Snapshot, now: float) -> Step | None:
        if slot.state is State.BOOT:
            due = self._begun + self._boot_timeout
            text = f"it did not come up within {self._boot_timeout:g} s"
        else:
            limit = STUCK if slot.state in _ENDING or slot.torn else ASLEEP
            since = self._standing_since
            if slot.state is State.COMMIT:
                since = max(since, slot.deadline)
            due = since + limit
            text = f"it stood still in {slot.state.name} for {limit:g} s"
        if now < due:
            self.wake_at = due
            return None
        sequence = ANY if slot.state is State.BOOT else slot.sequence
        kill = Kill(f"was killed: {text}")
        return self._stop(_Suspect(kill, slot.state, slot.id, sequence), now)

    def _stop(self, suspect: _Suspect, now: float) -> Step:
        self._suspect = suspect
        self.stopping = True
        self._stop_until = self.wake_at = now + STOP_WAIT
        return Stop()

"""Which zygotes there are: the one that forks workers, and during a reload the next.

Pure. A zygote has a number. One that dies is replaced, later each time if it did not
last; the successor of a reload is not, for then the reload has failed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from math import inf
from typing import NamedTuple

from falconas.worker.backoff import Backoff

YOUNG = 10.0


class StartZygote(NamedTuple):
    """Exec a fresh zygote."""

    number: int


class AdoptZygote(NamedTuple):
    """Make its scripts known: workers are forked from it from now on."""

    number: int
    fresh: bool  # by a reload, after which all is forgiven


class KillZygote(NamedTuple):
    """End a zygote, which nobody needs any more or (reason) does not answer."""

    number: int
    reason: str


Action = StartZygote | AdoptZygote | KillZygote


class Phase(Enum):
    """How far a zygote has come."""

    BOOTING = "booting"
    READY = "ready"
    KILLED = "killed"


@dataclass(slots=True)
class _Zygote:
    number: int
    since: float
    phase: Phase = Phase.BOOTING
    manifest: str = ""


class Nursery:
    """The zygote in service, and the one that a reload has begun.

    Args:
        boot_timeout: How long a zygote may load scripts.
        random: A number from 0 to 1, for jitter.
    """

    def __init__(self, boot_timeout: float, random: Callable[[], float]) -> None:
        self.manifest = ""
        self.generation = 0
        self.fatal = ""
        self._boot_timeout = boot_timeout
        self._backoff = Backoff(0.1, 30.0, random)
        self._current: _Zygote | None = None
        self._next: _Zygote | None = None
        self._not_before = -inf
        self._born = 0
        self._closed = False
        self._actions: list[Action] = []

    # What happens

    def begin(self, now: float) -> None:
        """Start a successor."""
        assert self._next is None
        self._next = self._start(now)

    def loaded(self, number: int, manifest: str, refusal: str, now: float) -> str:
        """Note that a zygote has loaded its scripts; return why that is a failure.

        Only the successor and the first one can be refused. A replacement is all there
        is; but workers that live on better scripts are not replaced by its.
        """
        zygote = self._find(number)
        if zygote is None or zygote.phase is not Phase.BOOTING:
            return ""
        if zygote is self._next and refusal:
            self.drop_successor()
            return refusal
        if not self.manifest and refusal:
            self.fatal = refusal
            return refusal
        zygote.phase, zygote.manifest, zygote.since = Phase.READY, manifest, now
        if zygote is self._current:
            self._adopt(zygote, newer=manifest != self.manifest and not refusal)
        return ""

    def exited(self, number: int, reason: str, now: float) -> bool:
        """Note that a zygote is gone; True if it was the successor."""
        if self._next is not None and self._next.number == number:
            self._next = None
            return True
        zygote = self._current
        if zygote is None or zygote.number != number:
            return False
        self._current = None
        if not self.manifest:
            self.fatal = self.fatal or reason
        if zygote.manifest and now - zygote.since >= YOUNG:
            self._backoff.reset()
            self._not_before = now
        else:
            self._not_before = now + self._backoff.next()
        return False

    def promote(self) -> bool:
        """Let the successor take over if it can; workers being forked come first."""
        successor = self._next
        if successor is None or not self.can_promote:
            return False
        if self._current is not None:
            self._actions.append(KillZygote(self._current.number, ""))
        self._current, self._next = successor, None
        self._backoff.reset()
        self._adopt(successor, newer=True, fresh=True)
        return True

    def close(self) -> None:
        """Start no more."""
        self._closed = True
        self.drop_successor()

    def drop_successor(self) -> None:
        """Give the successor up."""
        if self._next is not None:
            self._actions.append(KillZygote(self._next.number, ""))
            self._next = None

    def is_stuck(self, reason: str) -> bool:
        """Kill the zygote in service, which does not fork; True if there is one."""
        if self._current is None or self._current.phase is not Phase.READY:
            return False
        self._kill(self._current, reason)
        return True

    def tick(self, now: float) -> list[Action]:
        """Return what is to be done now."""
        if now >= self._start_at():
            self._current = self._start(now)
        for zygote in (self._current, self._next):
            if zygote is not None and now >= self._boot_until(zygote):
                limit = f"{self._boot_timeout:g} s"
                self._kill(zygote, f"the scripts did not load within {limit}")
        actions, self._actions = self._actions, []
        return actions

    # What there is

    @property
    def forks(self) -> int:
        """Return the number of the zygote that can fork workers, 0 if there is none."""
        ready = self._current is not None and self._current.phase is Phase.READY
        return self._current.number if ready and self._current is not None else 0

    @property
    def can_promote(self) -> bool:
        """Whether there is a successor that has loaded its scripts."""
        return self._next is not None and self._next.phase is Phase.READY

    @property
    def current(self) -> int:
        """Return the number of the zygote in service, 0 if there is none."""
        return self._current.number if self._current is not None else 0

    def wake_at(self) -> float:
        """Return when `tick` has work next."""
        zygotes = [z for z in (self._current, self._next) if z is not None]
        return min(self._start_at(), *map(self._boot_until, zygotes), inf)

    def _find(self, number: int) -> _Zygote | None:
        found = (z for z in (self._current, self._next) if z and z.number == number)
        return next(found, None)

    def _start_at(self) -> float:
        needed = self._current is None and not self._closed and not self.fatal
        return self._not_before if needed else inf

    def _boot_until(self, zygote: _Zygote) -> float:
        booting = zygote.phase is Phase.BOOTING
        return zygote.since + self._boot_timeout if booting else inf

    def _start(self, now: float) -> _Zygote:
        self._born += 1
        self._actions.append(StartZygote(self._born))
        return _Zygote(self._born, now)

    def _kill(self, zygote: _Zygote, reason: str) -> None:
        zygote.phase = Phase.KILLED
        self._actions.append(KillZygote(zygote.number, reason))

    def _adopt(self, zygote: _Zygote, *, newer: bool, fresh: bool = False) -> None:
        self.generation += newer
        self.manifest = zygote.manifest
        self._actions.append(AdoptZygote(zygote.number, fresh))

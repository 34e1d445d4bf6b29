"""What a supervisor does next: pure, events and `now` in, actions out.

A *place* is a slot and what lives in it. It is empty, being filled (SPAWN is with the
zygote), or has a process. Workers are spawned one after the other, so that an answer
of the zygote never has to be guessed at. A worker that dies young leaves its place
empty for a while that doubles; one that had served is replaced at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from math import inf
from typing import NamedTuple

YOUNG = 10.0
SPAWN_TIMEOUT = 5.0


class Backoff:
    """Waits that double from `first` to `limit`, each shortened at random by a half."""

    def __init__(self, first: float, limit: float, random: Callable[[], float]) -> None:
        self.first = first
        self.limit = limit
        self._random = random
        self._next = first

    def next(self) -> float:
        """Return how long to wait this time."""
        wait, self._next = self._next, min(self.limit, self._next * 2)
        return wait * (0.5 + self._random() / 2)

    def reset(self) -> None:
        """Begin anew: all is well."""
        self._next = self.first


class StartZygote(NamedTuple):
    """Exec a fresh zygote."""


class KillZygote(NamedTuple):
    """End the zygote, which does not answer."""

    reason: str


class Spawn(NamedTuple):
    """Have the zygote fork a worker."""

    place: int
    worker: bytes


class Signal(NamedTuple):
    """Ask a worker to finish (`hard` False) or end its process group."""

    pid: int
    hard: bool


Action = StartZygote | KillZygote | Spawn | Signal


class Zygote(Enum):
    """What there is of a zygote."""

    NONE = "none"
    BOOTING = "booting"
    READY = "ready"
    KILLED = "killed"


@dataclass(slots=True)
class Place:
    """One slot; `pid` is 0 while `worker` is being spawned or nobody is there."""

    index: int
    backoff: Backoff
    worker: bytes = b""
    pid: int = 0
    manifest: str = ""
    since: float = 0.0
    not_before: float = 0.0


class Policy:
    """Which processes there are, which there should be, and since when.

    Args:
        count: How many workers to keep alive.
        boot_timeout: How long a zygote may load scripts.
        drain_timeout: How long workers may finish.
        random: A number from 0 to 1, for jitter.
        new_id: A new worker's uuid.
    """

    def __init__(
        self,
        count: int,
        boot_timeout: float,
        drain_timeout: float,
        random: Callable[[], float],
        new_id: Callable[[], bytes],
    ) -> None:
        self.places = [Place(i, Backoff(0.1, 30.0, random)) for i in range(count)]
        self.zygote = Zygote.NONE
        self.manifest = ""
        self.fatal = ""
        self._boot_timeout = boot_timeout
        self._drain_timeout = drain_timeout
        self._new_id = new_id
        self._zygote_backoff = Backoff(0.1, 30.0, random)
        self._zygote_since = -inf  # or not to be started before
        self._kill_at = inf
        self.draining = False
        self._killing = False
        self._actions: list[Action] = []

    # What happens

    def manifest_loaded(self, manifest: str, now: float) -> None:
        """Take a zygote into service that has loaded the scripts."""
        self.zygote = Zygote.READY
        self.manifest = manifest
        self._zygote_since = now

    def zygote_exited(self, reason: str, now: float) -> None:
        """Note that the zygote is gone; a SPAWN that it did not answer came to nothing.

        One that never got as far as a manifest is `fatal` if it was the first.
        """
        if not self.manifest:
            self.fatal = reason
        served = self.zygote is Zygote.READY and now - self._zygote_since >= YOUNG
        if served:
            self._zygote_backoff.reset()
        self._zygote_since = now if served else now + self._zygote_backoff.next()
        self.zygote = Zygote.NONE
        for place in self.places:
            if place.worker and not place.pid:
                place.worker = b""

    def spawned(self, worker: bytes, pid: int, now: float) -> bool:
        """Note a worker's process; False if nobody asked for it."""
        for place in self.places:
            if place.worker == worker and not place.pid:
                place.pid, place.since = pid, now
                if self.draining:
                    self._actions.append(Signal(pid, hard=self._killing))
                return True
        return False

    def exited(self, pid: int, served: int, now: float) -> None:
        """Note that a worker's process is gone, and how much it had served."""
        place = self.place(pid)
        if place is None:
            return
        if served or now - place.since >= YOUNG:
            place.backoff.reset()
            place.not_before = now
        else:
            place.not_before = now + place.backoff.next()
        place.worker, place.pid = b"", 0

    def drain(self, now: float) -> None:
        """Let the workers finish and start no more; the second time: end them."""
        if self.draining:
            self._kill_at = now
            return
        self.draining = True
        self._kill_at = now + self._drain_timeout
        self._signal_all(hard=False)

    def tick(self, now: float) -> list[Action]:
        """Return what is to be done now."""
        if now >= self._kill_at:
            self._killing = True
            self._kill_at = inf
            self._signal_all(hard=True)
        if now >= self._zygote_due():
            self._tend_zygote(now)
        self._fill(now)
        actions, self._actions = self._actions, []
        return actions

    # What there is

    def place(self, pid: int) -> Place | None:
        """Return the place of the worker with this process."""
        return next((p for p in self.places if p.pid and p.pid == pid), None)

    def workers(self) -> list[bytes]:
        """Return the workers that live, or are just coming alive."""
        return [place.worker for place in self.places if place.worker]

    def manifests(self) -> set[str]:
        """Return the manifests in use."""
        return {p.manifest for p in self.places if p.worker} | {self.manifest}

    @property
    def drained(self) -> bool:
        """Whether a drain is complete."""
        return self.draining and not self.workers()

    def wake_at(self) -> float:
        """Return when `tick` has work next, if nothing happens before."""
        due = [self._kill_at, self._zygote_due()]
        if self._may_spawn():
            due.extend(p.not_before for p in self.places if not p.worker)
        return min(due)

    def check_invariants(self) -> None:
        """Raise AssertionError unless the state is sound."""
        pids = [p.pid for p in self.places if p.pid]
        assert len(pids) == len(set(pids))
        assert all(p.worker for p in self.places if p.pid)
        pending = [p for p in self.places if p.worker and not p.pid]
        assert len(pending) <= 1
        assert not pending or self.zygote in (Zygote.READY, Zygote.KILLED)

    def _pending(self) -> Place | None:
        return next((p for p in self.places if p.worker and not p.pid), None)

    def _zygote_due(self) -> float:
        if self.zygote is Zygote.NONE:
            return inf if self.draining or self.fatal else self._zygote_since
        if self.zygote is Zygote.BOOTING:
            return self._zygote_since + self._boot_timeout
        pending = self._pending()
        if self.zygote is Zygote.READY and pending is not None:
            return pending.since + SPAWN_TIMEOUT
        return inf

    def _tend_zygote(self, now: float) -> None:
        if self.zygote is Zygote.NONE:
            self.zygote, self._zygote_since = Zygote.BOOTING, now
            self._actions.append(StartZygote())
            return
        if self.zygote is Zygote.BOOTING:
            reason = f"the scripts did not load within {self._boot_timeout:g} s"
        else:
            reason = f"the zygote did not fork within {SPAWN_TIMEOUT:g} s"
        self.zygote = Zygote.KILLED
        self._actions.append(KillZygote(reason))

    def _may_spawn(self) -> bool:
        ready = self.zygote is Zygote.READY and not self.draining
        return ready and self._pending() is None

    def _fill(self, now: float) -> None:
        if not self._may_spawn():
            return
        for place in self.places:
            if not place.worker and now >= place.not_before:
                place.worker, place.since = self._new_id(), now
                place.manifest = self.manifest
                self._actions.append(Spawn(place.index, place.worker))
                return

    def _signal_all(self, *, hard: bool) -> None:
        self._actions.extend(Signal(p.pid, hard) for p in self.places if p.pid)

"""Replaces workers that live: pure.

Who is old, has served long enough or should be on another node is replaced: a worker is
spawned in a spare place first, and when that one is ready the other is told to finish.
Of a group at most a share is being replaced at once.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from falconas.settings import Worker
from falconas.worker.backoff import Backoff
from falconas.worker.nursery import Nursery
from falconas.worker.places import Place, Places
from falconas.worker.reload import Reloads
from falconas.worker.roster import Roster

DEATHS = 3


class Rollout:
    """Which worker is replaced next, and how a reload goes on.

    Args:
        worker: How workers are to be.
        places: Where they live.
        roster: On which node each should be.
        nursery: Which scripts are in service.
        random: A number from 0 to 1, for jitter.
    """

    def __init__(
        self,
        worker: Worker,
        places: Places,
        roster: Roster,
        nursery: Nursery,
        random: Callable[[], float],
    ) -> None:
        self.reloads = Reloads()
        self.not_before = -inf
        self._worker = worker
        self._places = places
        self._roster = roster
        self._nursery = nursery
        self._halted = 0  # the generation that is not rolled out any further
        self._backoff = Backoff(0.1, 30.0, random)
        self._failures = 0

    def begin(self) -> None:
        """Note that new scripts are in service."""
        self.reloads.roll()
        self.not_before = -inf
        self._succeeded()

    def next(self) -> Place | None:
        """Return the worker to be replaced next, None if none is, or not yet."""
        places = self._places
        busy = {g for g in places.sizes if places.under_way(g) >= places.share(g)}
        busy |= {group for group in places.sizes if places.free(group) is None}
        replaced = {place.replaces for place in places}
        due = [
            p
            for p in places
            if p.pid and p.is_regular and p.group not in busy and self.reason(p)
            if p.index not in replaced
        ]
        return min(due, key=lambda place: place.since, default=None)

    def reason(self, place: Place) -> str:
        """Say why a worker should be replaced, nothing if it should not."""
        if not place.target:
            return ""
        if place.worn:
            return place.worn
        if self._is_old(place):
            return "its scripts are old"
        if place.target != place.node:
            return self._roster.reason(place.target)
        return ""

    def replaced(self, now: float) -> list[tuple[Place, str]]:
        """Return who is to finish, for the replacement is ready, and why."""
        done = []
        for place in self._places:
            if place.replaces >= 0 and place.ready:
                old, place.replaces = self._places[place.replaces], -1
                done.append((old, place.reason))
                self._succeeded()
        if self.reloads.rolling and not any(
            place.worker and (self._is_old(place) or place.replaces >= 0)
            for place in self._places
        ):
            self.reloads.end()
        elif now >= self.fails_at():
            self.reloads.end(
                f"new workers are not ready after {self._worker.boot_timeout:g} s: is"
                " there a database? They replace the old ones when they are"
            )
        return done

    def died(self, reason: str, now: float) -> None:
        """Note that a replacement is gone before it was ready."""
        self.not_before = now + self._backoff.next()
        self._failures += 1
        if self._failures >= DEATHS and self.reloads.rolling:
            self._halted = self._nursery.generation
            self.reloads.end(f"new workers do not come up: the last one {reason}")

    def fails_at(self) -> float:
        """Return when a reload has failed unless a new worker gets ready before."""
        if not self.reloads.rolling:
            return inf
        new = [place.since for place in self._places if place.replaces >= 0]
        return min(new, default=inf) + self._worker.boot_timeout

    def _is_old(self, place: Place) -> bool:
        generation = self._nursery.generation
        return generation not in (place.generation, self._halted)

    def _succeeded(self) -> None:
        self._failures = 0
        self._backoff.reset()

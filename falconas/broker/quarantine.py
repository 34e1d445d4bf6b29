"""Scripts that kill their workers: counted, and no longer given to anybody.

A script is named with its manifest: the next version of it begins without a past.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container
from typing import NamedTuple

CRASHES = 3
WINDOW = 60.0
# Far more than a sound host has; beyond it the suspects of longest ago are forgotten.
SUSPECTS = 1000


class Suspect(NamedTuple):
    """One version of a script."""

    manifest: str
    script: str


class Quarantine:
    """Crashes of late, and `since`: what is quarantined, and from when on."""

    def __init__(self) -> None:
        self.since: dict[Suspect, float] = {}
        self._crashes: dict[Suspect, deque[float]] = {}

    def __len__(self) -> int:
        return len(self.since)

    def __contains__(self, suspect: Suspect) -> bool:
        return suspect in self.since

    def crashed(self, suspect: Suspect, now: float) -> bool:
        """Count a worker that died of a script; True if that is one too many."""
        times = self._crashes.pop(suspect, None) or deque(maxlen=CRASHES)
        self._crashes[suspect] = times  # as the last
        times.append(now)
        if len(self._crashes) > SUSPECTS:
            forgotten = next(iter(self._crashes))
            del self._crashes[forgotten]
            self.since.pop(forgotten, None)
        often = len(times) == CRASHES and now - times[0] <= WINDOW
        if not often or suspect in self.since:
            return False
        self.since[suspect] = now
        return True

    def lift(self, manifests: Container[str]) -> bool:
        """Forget what these manifests' scripts did; True if one was quarantined."""
        before = len(self.since)
        for suspect in [s for s in self._crashes if s.manifest in manifests]:
            del self._crashes[suspect]
            self.since.pop(suspect, None)
        return len(self.since) < before

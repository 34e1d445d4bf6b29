"""A timer for many requests of which nearly none ever fires: O(1) to set and clear.

Requests lie in buckets of `RESOLUTION` seconds; a small heap orders the buckets.
What ends early leaves at most an empty bucket behind, and few of those.
"""

from __future__ import annotations

from heapq import heappop, heappush
from math import ceil, inf

from falconas.broker.records import Pending

RESOLUTION = 0.01
SPARE = 1024


class Expiry:
    """Which request is due when; a request is due at most `RESOLUTION` late."""

    def __init__(self) -> None:
        self._buckets: dict[int, dict[int, Pending]] = {}
        self._order: list[int] = []
        self._count = 0

    def __contains__(self, pending: Pending) -> bool:
        bucket = self._buckets.get(ceil(pending.due / RESOLUTION))
        return bucket is not None and bucket is pending.bucket

    def __len__(self) -> int:
        return self._count

    def set(self, pending: Pending, due: float) -> None:
        """Call `pending` due at `due`, and no longer at another time."""
        if pending.bucket is None:
            self._count += 1
        else:
            del pending.bucket[pending.number]
        pending.due = due
        index = ceil(due / RESOLUTION)
        bucket = self._buckets.get(index)
        if bucket is None:
            if len(self._buckets) > 2 * self._count + SPARE:
                self._compact()
            bucket = self._buckets[index] = {}
            heappush(self._order, index)
        bucket[pending.number] = pending
        pending.bucket = bucket

    def clear(self, pending: Pending) -> None:
        """Forget `pending`."""
        if pending.bucket is not None:
            del pending.bucket[pending.number]
            pending.bucket = None
            self._count -= 1

    def take(self, now: float) -> list[Pending]:
        """Remove and return what is due, the earliest first."""
        due: list[Pending] = []
        while self._order and self._order[0] * RESOLUTION <= now:
            due.extend(self._buckets.pop(heappop(self._order)).values())
        self._count -= len(due)
        for pending in due:
            pending.bucket = None
        return due

    def wake_at(self) -> float:
        """Return when `take` has work next; inf for never."""
        while self._order and not self._buckets[self._order[0]]:
            del self._buckets[heappop(self._order)]
        return self._order[0] * RESOLUTION if self._order else inf

    def _compact(self) -> None:
        self._buckets = {index: held for index, held in self._buckets.items() if held}
        self._order = sorted(self._buckets)

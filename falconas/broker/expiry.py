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
        self._most = SPARE  # buckets, before the empty ones are looked for

    def __contains__(self, pending: Pending) -> bool:
        bucket = self._buckets.get(ceil(pending.due / RESOLUTION))
        return bucket is not None and bucket is pending.bucket

    def __len__(self) -> int:
        return sum(map(len, self._buckets.values()))

    def set(self, pending: Pending, due: float) -> None:
        """Call `pending` due at `due`, and no longer at another time."""
        number, bucket = pending.number, pending.bucket
        if bucket is not None:
            del bucket[number]
        pending.due = due
        index = ceil(due / RESOLUTION)
        bucket = self._buckets.get(index)
        if bucket is None:
            bucket = self._open(index)
        bucket[number] = pending
        pending.bucket = bucket

    def clear(self, pending: Pending) -> None:
        """Forget `pending`."""
        bucket = pending.bucket
        if bucket is not None:
            del bucket[pending.number]
            pending.bucket = None

    def take(self, now: float) -> list[Pending]:
        """Remove and return what is due, the earliest first."""
        due: list[Pending] = []
        while self._order and self._order[0] * RESOLUTION <= now:
            due.extend(self._buckets.pop(heappop(self._order)).values())
        for pending in due:
            pending.bucket = None
        return due

    def wake_at(self) -> float:
        """Return when `take` has work next; inf for never."""
        while self._order and not self._buckets[self._order[0]]:
            del self._buckets[heappop(self._order)]
        return self._order[0] * RESOLUTION if self._order else inf

    def _open(self, index: int) -> dict[int, Pending]:
        if len(self._buckets) > self._most:
            self._buckets = {at: held for at, held in self._buckets.items() if held}
            self._order = sorted(self._buckets)
            self._most = 2 * len(self) + SPARE
        bucket = self._buckets[index] = {}
        heappush(self._order, index)
        return bucket

"""When a worker has served long enough: pure."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import NamedTuple

from falconas.settings import Worker
from falconas.worker.snapshot import Snapshot, Spoiled

FDS = 50
_SPOILED = {
    Spoiled.MEMORY_ERROR: "it ran out of memory",
    Spoiled.CHILDREN: "a script left a process running",
    Spoiled.STATE: "a script changed what cannot be undone",
}


class Limits(NamedTuple):
    """What one worker may come to, each a tenth more or less than another's."""

    requests: float
    age: float
    memory: float

    @classmethod
    def draw(cls, worker: Worker, random: Callable[[], float]) -> Limits:
        """Return a new worker's limits, so that not all reach theirs at once."""

        def jittered(limit: float) -> float:
            return limit * (0.9 + random() / 5) if limit else inf

        requests = jittered(worker.recycle_requests)
        return cls(
            requests if requests == inf else round(requests),
            jittered(worker.recycle_age),
            jittered(worker.recycle_memory),
        )

    def reason(self, slot: Snapshot, age: float) -> str:
        """Say why a worker is to be replaced, nothing if it is not."""
        if slot.spoiled:
            return _SPOILED[slot.spoiled]
        if slot.threads:
            return f"scripts left {slot.threads} thread(s) running"
        if slot.fds >= FDS:
            return f"scripts left {slot.fds} file descriptors open"
        if slot.memory > self.memory:
            return f"it holds {slot.memory >> 20} MiB of memory"
        if slot.served >= self.requests:
            return f"it has served {slot.served} requests"
        if age >= self.age:
            return f"it is {age:.0f} s old"
        return ""


UNLIMITED = Limits(inf, inf, inf)

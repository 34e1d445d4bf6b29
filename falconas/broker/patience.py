"""How long a request waits: until its deadline, or for a worker to appear.

Where no worker of its queue's lanes is ready, a request waits `worker_wait` at most:
since it came, or since there was one. When a queue ceases to be served, one timer is
set for all that waits in it, so that news of workers cost the same however much that
is; what comes later has its own, which may go off in vain when a worker has come.
"""

from __future__ import annotations

from math import inf

from falconas.broker.backlog import Backlog, Queue
from falconas.broker.expiry import Expiry
from falconas.broker.pool import Pool
from falconas.broker.records import Pending
from falconas.settings import Broker as BrokerSettings

# A node that serves may take so long to have replayed something: mostly it lags by
# less, but what is known of its position is old too.
CATCH_UP = 3.0


class Patience:
    """Which queues are not served, and until when what waits in them may wait."""

    def __init__(
        self,
        settings: BrokerSettings,
        began: float,
        pool: Pool,
        backlog: Backlog,
        expiry: Expiry,
    ) -> None:
        self._wait = settings.worker_wait
        self._started_at = began + settings.start_wait
        self._pool = pool
        self._backlog = backlog
        self._expiry = expiry
        self._ends: dict[Queue, float] = {}

    def end(self, pending: Pending) -> float:
        """Return when to give up a request that waits."""
        queue = pending.queue
        if queue.alone_at is None:
            return pending.deadline
        if pending.astray_at is not None:
            wait = self._wait
            if self._pool.is_served(self._pool.route(pending.script)):
                wait = max(wait, CATCH_UP)  # for nodes that only have to catch up
            return min(pending.deadline, pending.astray_at + wait)
        since = max(queue.alone_at, pending.alone_at)
        return min(pending.deadline, self._end(since))

    def begin(self, pending: Pending, now: float) -> None:
        """Count from now, unless it waits for a worker already."""
        alone_at = pending.queue.alone_at
        pending.alone_at = now if alone_at is None else max(alone_at, pending.alone_at)

    def look(self, queue: Queue, now: float) -> None:
        """Take into account whether workers of a queue are ready."""
        if self._pool.is_served(queue.key):
            queue.alone_at = None
            self._ends.pop(queue, None)
        elif queue.alone_at is None:
            queue.alone_at = now
            self._ends[queue] = self._end(now)

    def reconsider(self, now: float) -> None:
        """Look at all queues: workers or their ways have changed."""
        for queue in self._backlog.queues.values():
            self.look(queue, now)
        for pending in self._backlog.demanding:  # each has its own reasons
            self._expiry.set(pending, self.end(pending))

    def over(self, now: float) -> list[Pending]:
        """Return those whose queue's timer is over."""
        over = [queue for queue, end in self._ends.items() if end <= now]
        for queue in over:
            del self._ends[queue]
        return [p for queue in over for p in queue if self.end(p) <= now]

    def timer(self, queue: Queue) -> float:
        """Return when the timer of a queue is over; inf if it has none."""
        return self._ends.get(queue, inf)

    def wake_at(self) -> float:
        """Return when `over` has something next; inf for never."""
        return min(self._ends.values(), default=inf)

    def _end(self, since: float) -> float:
        return max(since + self._wait, self._started_at)

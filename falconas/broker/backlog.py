"""Requests that wait for a worker: bounded, fair between clients, with priorities.

A queue holds the requests that the same lanes can serve. Inside it, start-time
fair queueing (Goyal, Vin, Cheng 1996): each request gets a tag one after its
client's previous one, and the smallest tag leaves first, so that a client with a
thousand requests waiting delays another's single one by one place. A priority is a
head start of `BOOST` places for each level; since tags only grow, it ages by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import heapify, heappop, heappush

from falconas.broker.records import Client, LaneKey, Pending

BOOST = 100
PRIORITY_LIMIT = 3

QueueKey = frozenset[LaneKey]


class Queue:
    """The waiting requests of one set of lanes."""

    def __init__(self, key: QueueKey) -> None:
        self.key = key
        self._heap: list[tuple[int, float, int]] = []
        self._waiting: dict[int, Pending] = {}
        self._tags: dict[Client, tuple[float, int]] = {}
        self._virtual = 0.0

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Pending]:
        return iter(self._waiting.values())

    def push(self, pending: Pending, *, front: bool = False) -> None:
        """Add a request; at the head if it had been handed out before."""
        last, count = self._tags.get(pending.client, (0.0, 0))
        tag = max(self._virtual, last) + (0.0 if front else 1.0)
        self._tags[pending.client] = (tag, count + 1)
        self._waiting[pending.number] = pending
        rank = 0 if front else 1
        # Of what had been handed out age decides, not how much its client has asked.
        order = (tag if rank else 0.0) - BOOST * pending.priority
        heappush(self._heap, (rank, order, pending.number))

    def first(self) -> Pending:
        """Return the next request; the queue must not be empty."""
        while True:
            pending = self._waiting.get(self._heap[0][2])
            if pending is not None:
                return pending
            heappop(self._heap)

    def head(self) -> tuple[int, float, int]:
        """Return the sort key of the next request; the queue must not be empty."""
        pending = self.first()
        # Between queues age decides; tags of two queues do not compare.
        return self._heap[0][0], pending.arrived, pending.number

    def pop(self) -> Pending:
        """Remove and return the next request; the queue must not be empty."""
        while True:
            rank, order, number = heappop(self._heap)
            pending = self._waiting.get(number)
            if pending is not None:
                break
        if rank:
            self._virtual = max(self._virtual, order + BOOST * pending.priority)
        self._drop(pending)
        return pending

    def remove(self, pending: Pending) -> None:
        """Remove a request from the middle."""
        self._drop(pending)
        if len(self._heap) > 2 * len(self._waiting) + 64:
            self._heap = [entry for entry in self._heap if entry[2] in self._waiting]
            heapify(self._heap)

    def _drop(self, pending: Pending) -> None:
        del self._waiting[pending.number]
        tag, count = self._tags[pending.client]
        if count == 1:
            del self._tags[pending.client]
        else:
            self._tags[pending.client] = (tag, count - 1)


class Backlog:
    """All queues, under one bound of requests and of bytes."""

    def __init__(self, limit: int, limit_bytes: int) -> None:
        self.limit = limit
        self.limit_bytes = limit_bytes
        self.queues: dict[QueueKey, Queue] = {}
        self.demanding: dict[int, Pending] = {}  # which nodes' facts may release
        self.count = 0
        self.bytes = 0

    def __iter__(self) -> Iterator[Pending]:
        for queue in self.queues.values():
            yield from queue

    def has_room(self, size: int) -> bool:
        """Tell whether a request of `size` bytes fits."""
        return self.count < self.limit and self.bytes + size <= self.limit_bytes

    def push(self, pending: Pending, key: QueueKey, *, front: bool = False) -> None:
        """Queue a request; the bound is the caller's to ask (`has_room`)."""
        queue = self.queues.get(key)
        if queue is None:
            queue = self.queues[key] = Queue(key)
        queue.push(pending, front=front)
        pending.queue = queue
        if pending.demanding:
            self.demanding[pending.number] = pending
        self.count += 1
        self.bytes += pending.size

    def awaits(self, lane: LaneKey) -> bool:
        """Tell whether a request waits that `lane` can serve."""
        return self.count > 0 and any(lane in key for key in self.queues)

    def queue_of(self, lane: LaneKey) -> Queue | None:
        """Return the queue of the next request that `lane` can serve."""
        if not self.count:
            return None
        best: Queue | None = None
        best_head = None
        if len(self.queues) == 1:  # nearly always: nothing to compare
            (best,) = self.queues.values()
            return best if lane in best.key else None
        for queue in self.queues.values():
            if lane in queue.key:
                head = queue.head()
                if best_head is None or head < best_head:
                    best, best_head = queue, head
        return best

    def pop(self, queue: Queue) -> Pending:
        """Remove and return the next request of a queue."""
        pending = queue.pop()
        self._forget(pending, queue)
        return pending

    def remove(self, pending: Pending) -> None:
        """Remove a request that was cancelled or expired."""
        queue = pending.queue
        queue.remove(pending)
        self._forget(pending, queue)

    def strays(self, key_of: Callable[[Pending], QueueKey]) -> list[Pending]:
        """Return what waits in another queue than that of its key.

        Of what is not demanding, requests of one kind have one key: to look at one is
        to know all.
        """
        strays = self.astray(key_of)
        for queue in self.queues.values():
            samples = {p.kind: p for p in queue if not p.demanding}
            moved = {k for k, p in samples.items() if key_of(p) != queue.key}
            if moved:
                strays += [p for p in queue if not p.demanding and p.kind in moved]
        return strays

    def astray(self, key_of: Callable[[Pending], QueueKey]) -> list[Pending]:
        """Return the same of what is demanding."""
        waiting = self.demanding.values()
        return [p for p in waiting if key_of(p) != p.queue.key]

    def move(
        self, strays: list[Pending], key_of: Callable[[Pending], QueueKey]
    ) -> None:
        """Put requests into the queues of their keys, the oldest first."""
        for pending in sorted(strays, key=lambda pending: pending.number):
            self.remove(pending)
            self.push(pending, key_of(pending), front=pending.demanding)

    def _forget(self, pending: Pending, queue: Queue) -> None:
        pending.queue = None
        if pending.demanding:
            del self.demanding[pending.number]
        self.count -= 1
        self.bytes -= pending.size
        if not queue:
            del self.queues[queue.key]

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
DEMANDING = ()  # the kind of what is looked at one by one

QueueKey = frozenset[LaneKey]


class Queue:
    """The waiting requests of one set of lanes."""

    def __init__(self, key: QueueKey) -> None:
        self.key = key
        self.alone_at: float | None = None  # since when no worker of it is ready
        self.kinds: dict[tuple[str, ...], dict[int, Pending]] = {}
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
        kind = pending.kind
        if kind not in self.kinds:
            self.kinds[kind] = {}
        self.kinds[kind][pending.number] = pending
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

    def ways(self, key_of: Callable[[Pending], QueueKey]) -> set[QueueKey]:
        """Return the keys of all that waits: one look at each kind."""
        ways = {
            key_of(next(iter(alike.values())))
            for kind, alike in self.kinds.items()
            if kind != DEMANDING
        }
        return ways | {key_of(p) for p in self.kinds.get(DEMANDING, {}).values()}

    def _drop(self, pending: Pending) -> None:
        del self._waiting[pending.number]
        kind = pending.kind
        alike = self.kinds[kind]
        del alike[pending.number]
        if not alike:
            del self.kinds[kind]
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
        self.count = 0
        self.bytes = 0

    def __iter__(self) -> Iterator[Pending]:
        for queue in self.queues.values():
            yield from queue

    def has_room(self, size: int) -> bool:
        """Tell whether a request of `size` bytes fits."""
        return self.count < self.limit and self.bytes + size <= self.limit_bytes

    @property
    def demanding(self) -> list[Pending]:
        """Return what facts of nodes may release."""
        queues = self.queues.values()
        return [p for q in queues for p in q.kinds.get(DEMANDING, {}).values()]

    @property
    def scripts(self) -> set[str]:
        """Return what is waited for."""
        scripts = {kind[0] for q in self.queues.values() for kind in q.kinds if kind}
        return scripts | {pending.script for pending in self.demanding}

    def push(self, pending: Pending, key: QueueKey, *, front: bool = False) -> bool:
        """Queue a request; True if its queue is new.

        The bound is the caller's to ask (`has_room`).
        """
        queue = self.queues.get(key)
        fresh = queue is None
        if queue is None:
            queue = self.queues[key] = Queue(key)
        queue.push(pending, front=front)
        pending.queue = queue
        self.count += 1
        self.bytes += pending.size
        return fresh

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

    def rename(self, key_of: Callable[[Pending], QueueKey]) -> bool:
        """Let queues follow what waits in them, where all of it goes to no other.

        True if there was one: it moves as it is, however much waits in it.
        """
        renamed = False
        for queue in list(self.queues.values()):
            ways = queue.ways(key_of)
            if len(ways) == 1 and not ways & self.queues.keys():
                del self.queues[queue.key]
                (queue.key,) = ways
                self.queues[queue.key] = queue
                renamed = True
        return renamed

    def strays(self, key_of: Callable[[Pending], QueueKey]) -> list[Pending]:
        """Return what waits in another queue than that of its key.

        Requests of one kind have one key: to look at one is to know all.
        """
        strays = self.astray(key_of)
        for queue in self.queues.values():
            for kind, alike in queue.kinds.items():
                if (
                    kind != DEMANDING
                    and key_of(next(iter(alike.values()))) != queue.key
                ):
                    strays += alike.values()
        return strays

    def astray(self, key_of: Callable[[Pending], QueueKey]) -> list[Pending]:
        """Return the same of what is demanding."""
        return [p for p in self.demanding if key_of(p) != p.queue.key]

    def move(
        self, strays: list[Pending], key_of: Callable[[Pending], QueueKey]
    ) -> list[Queue]:
        """Put requests into the queues of their keys, the oldest first.

        Return the queues that are new.
        """
        fresh = []
        for pending in sorted(strays, key=lambda pending: pending.number):
            self.remove(pending)
            if self.push(pending, key_of(pending), front=pending.demanding):
                fresh.append(pending.queue)
        return fresh

    def _forget(self, pending: Pending, queue: Queue) -> None:
        pending.queue = None
        self.count -= 1
        self.bytes -= pending.size
        if not queue:
            del self.queues[queue.key]

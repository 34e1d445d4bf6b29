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
# Rank, order, number; and whose place it is, as long as that says so too.
Place = tuple[int, float, int, Pending]


class Turn:
    """How far ahead a client's requests reach, and how many they are."""

    __slots__ = ("tag", "waiting")

    def __init__(self) -> None:
        self.tag = 0.0
        self.waiting = 0


class Queue:
    """The waiting requests of one set of lanes."""

    def __init__(self, key: QueueKey) -> None:
        self.key = key
        self.alone_at: float | None = None  # since when no worker of it is ready
        self.kinds: dict[tuple[str, ...], dict[int, Pending]] = {}
        self._heap: list[Place] = []
        self._count = 0
        self._turns: dict[Client, Turn] = {}
        self._virtual = 0.0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Pending]:
        for alike in self.kinds.values():
            yield from alike.values()

    def push(self, pending: Pending, *, front: bool = False) -> None:
        """Add a request; at the head if it had been handed out before."""
        turn = self._turns.get(pending.client)
        if turn is None:
            turn = self._turns[pending.client] = Turn()
        tag = max(self._virtual, turn.tag) + (0.0 if front else 1.0)
        turn.tag = tag
        turn.waiting += 1
        self._count += 1
        kind = pending.kind
        alike = self.kinds.get(kind)
        if alike is None:
            alike = self.kinds[kind] = {}
        alike[pending.number] = pending
        rank = 0 if front else 1
        # Of what had been handed out age decides, not how much its client has asked.
        order = (tag if rank else 0.0) - BOOST * pending.priority
        pending.alike = alike
        pending.place = (rank, order, pending.number, pending)
        heappush(self._heap, pending.place)

    def first(self) -> Pending:
        """Return the next request; the queue must not be empty."""
        while True:
            place = self._heap[0]
            pending = place[3]
            if pending.place is place:
                return pending
            heappop(self._heap)  # it was removed

    def head(self) -> tuple[int, float, int]:
        """Return the sort key of the next request; the queue must not be empty."""
        pending = self.first()
        # Between queues age decides; tags of two queues do not compare.
        return self._heap[0][0], pending.arrived, pending.number

    def pop(self) -> Pending:
        """Remove and return the next request; the queue must not be empty."""
        pending = self.first()
        rank, order, _, _ = heappop(self._heap)
        if rank:
            self._virtual = max(self._virtual, order + BOOST * pending.priority)
        self._drop(pending)
        return pending

    def remove(self, pending: Pending) -> None:
        """Remove a request from the middle."""
        self._drop(pending)
        if len(self._heap) > 2 * self._count + 64:
            self._heap = [place for place in self._heap if place[3].place is place]
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
        self._count -= 1
        alike = pending.alike
        del alike[pending.number]
        if not alike:
            del self.kinds[pending.kind]
        pending.alike = pending.place = None
        turn = self._turns[pending.client]
        turn.waiting -= 1
        if not turn.waiting:
            del self._turns[pending.client]


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

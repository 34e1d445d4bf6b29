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
# Ranks: what had been handed out goes before what has only been asked for.
TAKEN_BACK, ASKED = 0, 1

QueueKey = frozenset[LaneKey]
# Rank, order, number; whose place it is, as long as that says so too; and its tag.
Place = tuple[int, float, int, Pending, float]


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
        self._empty = 0  # places there, of what was removed; never the first one
        self._turns: dict[Client, Turn] = {}
        self._virtual = 0.0

    def __len__(self) -> int:
        return len(self._heap) - self._empty

    def __iter__(self) -> Iterator[Pending]:
        for alike in self.kinds.values():
            yield from alike.values()

    def push(self, pending: Pending, rank: int = ASKED) -> None:
        """Add a request."""
        turn = self._turns.get(pending.client)
        if turn is None:
            turn = self._turns[pending.client] = Turn()
        if (virtual := self._virtual) > turn.tag:
            turn.tag = virtual
        tag = turn.tag = turn.tag + rank
        turn.waiting += 1
        kind, number = pending.kind, pending.number
        alike = self.kinds.get(kind)
        if alike is None:
            alike = self.kinds[kind] = {}
        alike[number] = pending
        # Of what had been handed out age decides, not how much its client has asked.
        order = tag if rank else 0.0
        if pending.priority:
            order -= BOOST * pending.priority
        pending.queue = self
        pending.alike = alike
        place = pending.place = (rank, order, number, pending, tag)
        heappush(self._heap, place)

    def first(self) -> Pending:
        """Return the next request; the queue must not be empty."""
        return self._heap[0][3]

    def head(self) -> tuple[int, float, int]:
        """Return the sort key of the next request; the queue must not be empty."""
        rank, _, number, pending, _ = self._heap[0]
        # Between queues age decides; tags of two queues do not compare.
        return rank, pending.arrived, number

    def pop(self) -> Pending:
        """Remove and return the next request; the queue must not be empty."""
        rank, _, _, pending, tag = heappop(self._heap)
        if rank and tag > self._virtual:
            self._virtual = tag
        self._drop(pending)
        return pending

    def remove(self, pending: Pending) -> None:
        """Remove a request from the middle."""
        self._empty += 1
        self._drop(pending)

    def ways(self, key_of: Callable[[Pending], QueueKey]) -> set[QueueKey]:
        """Return the keys of all that waits: one look at each kind."""
        ways = {
            key_of(next(iter(alike.values())))
            for kind, alike in self.kinds.items()
            if kind != DEMANDING
        }
        return ways | {key_of(p) for p in self.kinds.get(DEMANDING, {}).values()}

    def _drop(self, pending: Pending) -> None:
        pending.queue = pending.place = None  # which held it in turn
        alike = pending.alike
        del alike[pending.number]
        if not alike:
            del self.kinds[pending.kind]
        turn = self._turns[pending.client]
        turn.waiting -= 1
        if not turn.waiting:
            del self._turns[pending.client]
        if self._empty:
            self._sweep()

    def _sweep(self) -> None:
        """Let the first place be somebody's, and not most of them nobody's."""
        heap = self._heap
        while heap and heap[0][3].place is not heap[0]:
            heappop(heap)
            self._empty -= 1
        if 2 * self._empty > len(heap) + 64:
            self._heap = [place for place in heap if place[3].place is place]
            heapify(self._heap)
            self._empty = 0


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

    def push(self, pending: Pending, key: QueueKey, rank: int = ASKED) -> bool:
        """Queue a request; True if its queue is new.

        The bound is the caller's to ask (`has_room`).
        """
        queue = self.queues.get(key)
        fresh = queue is None
        if queue is None:
            queue = self.queues[key] = Queue(key)
        queue.push(pending, rank)
        self.count += 1
        self.bytes += pending.size
        return fresh

    def awaits(self, lane: LaneKey) -> bool:
        """Tell whether a request waits that `lane` can serve."""
        return self.count > 0 and any(lane in key for key in self.queues)

    def queue_of(self, lane: LaneKey) -> Queue | None:
        """Return the queue of the next request that `lane` can serve."""
        best: Queue | None = None
        for queue in self.queues.values():
            if lane in queue.key and (best is None or queue.head() < best.head()):
                best = queue
        return best

    def pop(self, queue: Queue) -> Pending:
        """Remove and return the next request of a queue."""
        return self._forget(queue.pop(), queue)

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
            rank = TAKEN_BACK if pending.demanding else ASKED
            if self.push(pending, key_of(pending), rank):
                fresh.append(pending.queue)
        return fresh

    def _forget(self, pending: Pending, queue: Queue) -> Pending:
        self.count -= 1
        self.bytes -= pending.size
        if not queue.kinds:
            del self.queues[queue.key]
        return pending

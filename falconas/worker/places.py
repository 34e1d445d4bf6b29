"""Where workers live: pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import ceil, inf

from falconas.worker.backoff import Backoff
from falconas.worker.wear import UNLIMITED, Limits


@dataclass(slots=True)
class Place:
    """One slot; `pid` is 0 while `worker` is being spawned or nobody is there.

    Attributes:
        group: Whose worker it is, or was.
        node: The node that it is connected to, or was.
        target: The node that it, or who replaces it, should have; empty: there is none.
        not_before: Until then nobody is spawned for whom died here; 0: nobody did.
        replaces: The place whose worker ends when this one is ready, -1 for none.
        reason: Why it replaces that one.
        retiring: It was told to finish: others do its work.
        leaving: Because its node is of no use.
        kill_at: When a worker that was told to finish is killed.
    """

    index: int
    backoff: Backoff
    limits: Limits = UNLIMITED
    worker: bytes = b""
    pid: int = 0
    group: str = ""
    node: str = ""
    target: str = ""
    manifest: str = ""
    generation: int = 0
    since: float = 0.0
    not_before: float = 0.0
    booted: bool = False
    ready: bool = False
    worn: str = ""
    replaces: int = -1
    reason: str = ""
    retiring: bool = False
    leaving: bool = False
    kill_at: float = inf

    @property
    def is_free(self) -> bool:
        """Whether somebody may be spawned there."""
        return not self.worker and not self.not_before

    @property
    def is_regular(self) -> bool:
        """Whether somebody is there to stay."""
        return bool(self.worker) and not self.retiring and self.replaces < 0

    def settle(self, worker: bytes, group: str, node: str, now: float) -> None:
        """Have a worker spawned there."""
        if group != self.group:  # whose bad luck is not this one's
            self.backoff.reset()
        self.worker, self.group, self.since = worker, group, now
        self.node = self.target = node

    def vacate(self, not_before: float = 0.0) -> None:
        """Have nobody there."""
        self.worker, self.pid, self.not_before = b"", 0, not_before
        self.booted = self.ready = self.retiring = self.leaving = False
        self.worn, self.replaces, self.reason, self.kill_at = "", -1, "", inf


class Places:
    """Room for the workers of all groups, and for some more.

    Args:
        sizes: How many workers each group should have.
        guests: How many may hang on a node that is down while others do their work.
        random: A number from 0 to 1, for jitter.
    """

    def __init__(
        self, sizes: Mapping[str, int], guests: int, random: Callable[[], float]
    ) -> None:
        self.sizes = dict(sizes)
        self.count = sum(sizes.values())
        spare = sum(max(1, ceil(size / 4)) for size in sizes.values())
        rooms = range(self.count + spare + guests)
        self._all = [Place(i, Backoff(0.1, 30.0, random)) for i in rooms]

    def __iter__(self) -> Iterator[Place]:
        return iter(self._all)

    def __getitem__(self, index: int) -> Place:
        return self._all[index]

    def __len__(self) -> int:
        return len(self._all)

    def of(self, pid: int) -> Place | None:
        """Return the place of the worker with this process."""
        return next((p for p in self._all if p.pid and p.pid == pid), None)

    def pending(self) -> Place | None:
        """Return the place that is being filled."""
        return next((p for p in self._all if p.worker and not p.pid), None)

    def free(self, group: str) -> Place | None:
        """Return a place for one of this group: rather one where others of it died."""
        free = (p for p in self._all if p.is_free)
        return min(free, key=lambda p: (p.group != group, p.group != ""), default=None)

    def share(self, group: str) -> int:
        """Return how many of a group may be replaced at once."""
        return max(1, self.sizes[group] // 4)

    def missing(self, group: str) -> int:
        """Return how many of a group are missing and are not to wait."""
        held = sum(p.not_before > 0 and p.group == group for p in self._all)
        return self.sizes[group] - held - len(self.regular(group))

    def regular(self, group: str) -> list[Place]:
        """Return those of a group who are there to stay."""
        return [p for p in self._all if p.is_regular and p.group == group]

    def under_way(self, group: str) -> int:
        """Return how many of a group are being replaced, or end after that."""
        return sum(
            p.group == group and (p.replaces >= 0 or (p.retiring and not p.leaving))
            for p in self._all
            if p.worker
        )

    def substitute(self, place: Place) -> Place | None:
        """Return where a worker's replacement is."""
        return next((p for p in self._all if p.replaces == place.index), None)

    def release(self, place: Place) -> None:
        """Have nobody replaced by this one, and its own replacement stay for good."""
        place.replaces = -1
        if (other := self.substitute(place)) is not None:
            other.replaces = -1

    def started(self) -> bool:
        """Tell whether the first workers have come up, or as far as they get."""
        alive = [p for p in self._all if p.pid]
        booted = sum(p.booted for p in alive)
        return booted >= self.count or any(p.ready for p in alive)

    def check_invariants(self) -> None:
        """Raise AssertionError unless the state is sound."""
        pids = [p.pid for p in self._all if p.pid]
        assert len(pids) == len(set(pids))
        assert all(p.worker for p in self._all if p.pid)
        assert all(p.group and p.node for p in self._all if p.worker)
        assert all(p.retiring for p in self._all if p.leaving)
        assert sum(p.worker != b"" and not p.pid for p in self._all) <= 1
        for group, size in self.sizes.items():
            assert self.under_way(group) <= self.share(group), group
            assert len(self.regular(group)) <= size, group
        replaced = [p for p in self._all if p.replaces >= 0]
        assert len(replaced) == len({p.replaces for p in replaced})
        for place in replaced:
            old = self[place.replaces]
            assert old.pid
            assert old.is_regular
            assert old.group == place.group

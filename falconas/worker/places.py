"""Where workers live: pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import ceil, inf

from falconas.worker.backoff import Backoff
from falconas.worker.wear import UNLIMITED, Limits


@dataclass(slots=True)
class Place:
    """One slot; `pid` is 0 while `worker` is being spawned or nobody is there.

    Attributes:
        not_before: Until then nobody is spawned for whom died here; 0: nobody did.
        replaces: The place whose worker ends when this one is ready, -1 for none.
        kill_at: When a worker that was told to finish is killed.
    """

    index: int
    backoff: Backoff
    limits: Limits = UNLIMITED
    worker: bytes = b""
    pid: int = 0
    manifest: str = ""
    generation: int = 0
    since: float = 0.0
    not_before: float = 0.0
    booted: bool = False
    ready: bool = False
    worn: str = ""
    replaces: int = -1
    retiring: bool = False
    kill_at: float = inf

    @property
    def is_free(self) -> bool:
        """Whether somebody may be spawned there."""
        return not self.worker and not self.not_before

    def vacate(self, not_before: float = 0.0) -> None:
        """Have nobody there."""
        self.worker, self.pid, self.not_before = b"", 0, not_before
        self.booted = self.ready = self.retiring = False
        self.worn, self.replaces, self.kill_at = "", -1, inf


class Places:
    """Room for `count` workers and some that replace others.

    Args:
        count: How many workers there should be.
        random: A number from 0 to 1, for jitter.
    """

    def __init__(self, count: int, random: Callable[[], float]) -> None:
        self.count = count
        self.share = max(1, count // 4)
        spare = max(1, ceil(count / 4))
        self._all = [Place(i, Backoff(0.1, 30.0, random)) for i in range(count + spare)]

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

    def free(self) -> Place | None:
        """Return a place where somebody may be spawned."""
        return next((p for p in self._all if p.is_free), None)

    def missing(self) -> int:
        """Return how many of the `count` are missing and are not to wait."""
        held = sum(p.not_before > 0 for p in self._all)
        return self.count - held - self._regular()

    def under_way(self) -> int:
        """Return how many are being replaced, or end after that."""
        return sum(p.retiring or p.replaces >= 0 for p in self._all)

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
        assert sum(p.worker != b"" and not p.pid for p in self._all) <= 1
        assert self.under_way() <= self.share
        assert self._regular() <= self.count
        replaced = [p.replaces for p in self._all if p.replaces >= 0]
        assert len(replaced) == len(set(replaced))
        for index in replaced:
            assert self[index].pid
            assert not self[index].retiring

    def _regular(self) -> int:
        regular = (p.worker and not p.retiring and p.replaces < 0 for p in self._all)
        return sum(map(bool, regular))

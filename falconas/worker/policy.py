"""What a supervisor does next: pure, events and `now` in, actions out.

A *place* is a slot and what lives in it. It is empty, being filled (SPAWN is with the
zygote), or has a process. There are more places than workers: one that is to be
replaced, because its scripts are old or it has served long enough, gets a replacement
in a spare place first, and is told to finish when that one is ready. Of the workers of
a group at most a share is being replaced at once.

A worker has one node for life. One that should have another one is replaced like that
too; but one whose node is down leaves at once if another is usable. There is room for
its successor even if it hangs.

Workers are spawned one after the other, so that an answer of the zygote never has to
be guessed at. A worker that dies young leaves its place empty for a while that doubles;
one that had served is replaced at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from typing import NamedTuple

from falconas.settings import Worker
from falconas.worker import nursery
from falconas.worker.nursery import YOUNG, Nursery
from falconas.worker.places import Place, Places
from falconas.worker.rollout import Rollout
from falconas.worker.roster import Farewell, Roster
from falconas.worker.snapshot import Snapshot, State
from falconas.worker.wear import Limits

SPAWN_TIMEOUT = 5.0
BOOT_DEATHS = 3
SLACK = 1.0  # what a request may take beyond its deadline until its verdict
LEAVE_TIMEOUT = 2.0  # for whoever has no request in hand


class Spawn(NamedTuple):
    """Have the zygote in service fork a worker for a group and a node."""

    place: int
    worker: bytes
    group: str
    node: str


class Signal(NamedTuple):
    """Ask a worker to finish (`hard` False) or end its process group."""

    pid: int
    hard: bool


class Retire(NamedTuple):
    """Ask a worker to finish, which has been replaced for that reason."""

    pid: int
    reason: str


class Leave(NamedTuple):
    """Ask a worker to finish, or end it (`hard`), because its node is of no use."""

    pid: int
    reason: str
    hard: bool


Action = nursery.Action | Spawn | Signal | Retire | Leave


class Policy:
    """Which processes there are, which there should be, and since when.

    Args:
        worker: How workers are to be.
        roster: How many of which group to keep alive, and on which nodes.
        random: A number from 0 to 1, for jitter.
        new_id: A new worker's uuid.
    """

    def __init__(
        self,
        worker: Worker,
        roster: Roster,
        random: Callable[[], float],
        new_id: Callable[[], bytes],
    ) -> None:
        sizes = {group.name: group.workers for group in roster.groups.values()}
        self.roster = roster
        self.places = Places(sizes, roster.guests, random)
        self.nursery = Nursery(worker.boot_timeout, random)
        self._rollout = Rollout(worker, self.places, roster, self.nursery, random)
        self.reloads = self._rollout.reloads
        self.draining = False
        self._worker = worker
        self._random = random
        self._new_id = new_id
        self._drain_at = inf
        self._killing = False
        self._boot_deaths = 0
        self._proven = False
        self._vacant: dict[str, list[str]] = {}  # the nodes of those who are missing
        self._actions: list[Action] = []

    # What happens

    def loaded(self, number: int, manifest: str, refusal: str, now: float) -> None:
        """Note that a zygote has loaded the scripts, and what speaks against them."""
        failure = self.nursery.loaded(number, manifest, refusal, now)
        if failure and self.reloads.active:
            self.reloads.end(failure)

    def zygote_exited(self, number: int, reason: str, now: float) -> None:
        """Note that a zygote is gone; what it did not answer came to nothing."""
        if number == self.nursery.current:
            for place in self.places:
                if place.worker and not place.pid:
                    place.vacate()
        if self.nursery.exited(number, reason, now):
            self.reloads.end(reason)

    def spawned(self, worker: bytes, pid: int, now: float) -> Place | None:
        """Note a worker's process; None if nobody asked for it."""
        for place in self.places:
            if place.worker == worker and not place.pid:
                place.pid, place.since = pid, now
                if self.draining:
                    self._actions.append(Signal(pid, hard=self._killing))
                return place
        return None

    def observe(self, slots: Sequence[Snapshot], now: float) -> None:
        """Take in what the slots say."""
        for place, slot in zip(self.places, slots, strict=True):
            if not place.pid or slot.pid != place.pid:
                continue
            if place.ready and not slot.ready and not place.retiring:
                self.roster.doubt(place.node, "a worker is not ready any more", now)
            place.ready = slot.ready
            if slot.state is not State.BOOT:
                place.booted = self._proven = True
            if slot.state in (State.RUN, State.COMMIT) and place.retiring:
                place.kill_at = max(place.kill_at, slot.deadline + SLACK)
            place.worn = place.worn or place.limits.reason(slot, now - place.since)

    def exited(
        self, pid: int, last: Snapshot, now: float, *, reason: str, murdered: bool
    ) -> None:
        """Note that a worker's process is gone.

        Args:
            pid: The process.
            last: What its slot says.
            now: The time.
            reason: How it ended.
            murdered: Somebody else has killed it.
        """
        place = self.places.of(pid)
        if place is None:
            return
        if last.state is not State.BOOT:
            self._proven = True
        elif not murdered and not place.leaving and not self.draining:
            self._boot_failed(f"(the last one {reason})")
        was_to_replace = place.replaces >= 0
        self.places.release(place)
        if was_to_replace:
            self._rollout.died(reason, now)
            place.vacate()
        elif last.served or place.retiring or now - place.since >= YOUNG:
            place.backoff.reset()
            place.vacate()
        else:
            place.vacate(now + place.backoff.next())

    def reload(self, id_: bytes) -> None:
        """Load the scripts anew, and replace the workers if they are good."""
        self.reloads.ask(id_)
        if self.draining:
            self.reloads.abandon("it is draining")

    def drain(self, now: float) -> None:
        """Let the workers finish and start no more; the second time: end them."""
        if self.draining:
            self._drain_at = now
            return
        self.draining = True
        self._drain_at = now + self._worker.drain_timeout
        self.reloads.abandon("it is draining")
        self.nursery.close()
        self._actions.extend(
            Signal(p.pid, hard=False) for p in self.places if p.pid and not p.retiring
        )

    def tick(self, now: float) -> list[Action]:
        """Return what is to be done now."""
        self._kill(now)
        pending = self.places.pending()
        if pending is not None and now >= pending.since + SPAWN_TIMEOUT:
            reason = f"it did not fork within {SPAWN_TIMEOUT:g} s"
            if self.nursery.is_stuck(f"the zygote was killed: {reason}"):
                self._boot_failed(f"({reason})")
        if self.reloads.wanted and self.nursery.manifest:
            self.reloads.begin()
            self.nursery.begin(now)
        if pending is None and self.nursery.promote():
            self._rollout.begin()
        self._actions.extend(self.nursery.tick(now))
        self.roster.look(now)
        if not self.draining:
            self._settle(now)
            self._retire(now)
            self._fill(now)
        actions, self._actions = self._actions, []
        return actions

    # What there is

    @property
    def fatal(self) -> str:
        """Say why there is no use in going on, nothing if there is."""
        return self.nursery.fatal

    def workers(self) -> list[bytes]:
        """Return the workers that live, or are just coming alive."""
        return [place.worker for place in self.places if place.worker]

    def manifests(self) -> set[str]:
        """Return the manifests in use."""
        return {p.manifest for p in self.places if p.worker} | {self.nursery.manifest}

    def awaited(self, group: str) -> list[str]:
        """Return the nodes that those of a group who are missing will have."""
        return self._vacant.get(group, [])

    @property
    def drained(self) -> bool:
        """Whether a drain is complete."""
        return self.draining and not self.workers()

    def wake_at(self) -> float:
        """Return when `tick` has work next, if nothing happens before."""
        due = [self._drain_at, self.nursery.wake_at(), self._rollout.fails_at()]
        due.append(self.roster.wake_at())
        due.extend(p.kill_at for p in self.places if p.pid)
        pending = self.places.pending()
        if pending is not None and self.nursery.forks:
            due.append(pending.since + SPAWN_TIMEOUT)
        if self.reloads.wanted and self.nursery.manifest:
            due.append(-inf)
        if self.nursery.can_promote and pending is None:
            due.append(-inf)
        if self._may_spawn():
            if any(map(self._is_vacant, self._vacant)):
                due.append(-inf)
            due.extend(p.not_before for p in self.places if p.not_before)
            if self._rollout.next() is not None:
                due.append(self._rollout.not_before)
        return min(due)

    def _may_spawn(self) -> bool:
        ready = self.nursery.forks and not self.draining
        return bool(ready) and self.places.pending() is None

    def _kill(self, now: float) -> None:
        """Kill who was told to finish and has not."""
        if now >= self._drain_at:
            self._killing = True
            self._drain_at = inf
            late = [p for p in self.places if p.pid]
        else:
            late = [p for p in self.places if now >= p.kill_at]
        for place in late:
            place.kill_at = inf
            self._actions.append(Signal(place.pid, hard=True))

    def _boot_failed(self, reason: str) -> None:
        self._boot_deaths += 1
        if self._boot_deaths >= BOOT_DEATHS and not self._proven:
            self.nursery.fatal = f"no worker comes up {reason}"

    def _settle(self, now: float) -> None:
        """Have those leave who must, and see who should be elsewhere."""
        for place, farewell in self.roster.farewells(self.places):
            self._leave(place, farewell, now)
        self._vacant = self.roster.assign(self.places, now)

    def _leave(self, place: Place, farewell: Farewell, now: float) -> None:
        dying = place.kill_at == inf
        if place.retiring and (dying or not farewell.hard):
            return
        place.retiring = place.leaving = True
        place.kill_at = inf if farewell.hard else now + LEAVE_TIMEOUT
        self.places.release(place)
        self._actions.append(Leave(place.pid, *farewell))

    def _retire(self, now: float) -> None:
        """Let those finish whose replacements are ready."""
        for old, reason in self._rollout.replaced(now):
            old.retiring = True
            old.kill_at = now + self._worker.drain_timeout
            self._actions.append(Retire(old.pid, reason))

    def _fill(self, now: float) -> None:
        """Spawn one worker if one is missing, or else if one is to be replaced."""
        if not self._may_spawn():
            return
        for place in self.places:
            if now >= place.not_before:
                place.not_before = 0.0
        group = next(filter(self._is_vacant, self._vacant), None)
        if group is not None:
            self._spawn(group, self._vacant[group][0], now)
        elif now >= self._rollout.not_before and (old := self._rollout.next()):
            new = self._spawn(old.group, old.target, now)
            new.replaces, new.reason = old.index, self._rollout.reason(old)

    def _is_vacant(self, group: str) -> bool:
        """Tell whether somebody of a group is missing and can be spawned."""
        return self.places.missing(group) > 0 and self.places.free(group) is not None

    def _spawn(self, group: str, node: str, now: float) -> Place:
        place = self.places.free(group)
        assert place is not None
        place.settle(self._new_id(), group, node, now)
        place.manifest = self.nursery.manifest
        place.generation = self.nursery.generation
        place.limits = Limits.draw(self._worker, self._random)
        self._actions.append(Spawn(place.index, place.worker, group, node))
        return place

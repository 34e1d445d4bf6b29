"""A policy, and the processes that it asks for as a test lets them be."""

from __future__ import annotations

from itertools import count

from falconas.database.nodes import Node, NodeSet
from falconas.database.placement import Group
from falconas.settings import Worker
from falconas.worker.nursery import AdoptZygote, StartZygote
from falconas.worker.policy import Leave, Policy, Retire, Signal, Spawn
from falconas.worker.roster import Roster
from falconas.worker.snapshot import Snapshot, State

EMPTY = Snapshot(State.BOOT, b"", 0.0, 0, 0, 0)


class World:
    """A policy and the processes that it asks for.

    Args:
        workers: How many, of one group on one node.
        roster: Those of other groups and nodes instead.
        settings: Of the workers.
    """

    def __init__(
        self, workers: int = 2, roster: Roster | None = None, **settings: float
    ) -> None:
        numbers = count(1)
        worker = Worker(recycle_age=0.0, **settings)  # type: ignore[arg-type]
        if roster is None:
            nodes = NodeSet([Node("n1")], random=lambda: 1.0)
            roster = Roster([Group("default", workers)], nodes)
        self.policy = Policy(
            worker, roster, lambda: 1.0, lambda: next(numbers).to_bytes(16, "big")
        )
        self.now = 100.0
        self.pids = count(1000)
        self.zygotes: list[int] = []
        self.adopted = 0
        self.spawns: list[Spawn] = []
        self.alive: dict[int, Snapshot] = {}
        self.told: set[int] = set()
        self.log: list[object] = []

    def tick(self) -> list[object]:
        actions = list(self.policy.tick(self.now))
        for action in actions:
            if isinstance(action, StartZygote):
                self.zygotes.append(action.number)
            elif isinstance(action, AdoptZygote):
                self.adopted = action.number
            elif isinstance(action, Spawn):
                self.spawns.append(action)
            elif isinstance(action, Signal | Retire | Leave):
                assert action.pid in self.alive
                if isinstance(action, Retire):
                    assert action.pid not in self.told
                self.told.add(action.pid)
        self.policy.places.check_invariants()
        self.log.extend(actions)
        return list(actions)

    def loaded(self, manifest: str = "m1", refusal: str = "") -> None:
        """Have the youngest zygote load its scripts."""
        self.policy.loaded(self.zygotes[-1], manifest, refusal, self.now)

    def zygote_dies(self, number: int = 0, reason: str = "killed") -> None:
        number = number or self.zygotes[-1]
        self.zygotes.remove(number)
        if number == self.policy.nursery.current:
            self.spawns.clear()
        self.policy.zygote_exited(number, reason, self.now)

    def spawned(self) -> int:
        spawn, pid = self.spawns.pop(0), next(self.pids)
        place = self.policy.spawned(spawn.worker, pid, self.now)
        assert place is not None
        assert place.index == spawn.place
        self.alive[pid] = EMPTY._replace(pid=pid)
        return pid

    def is_now(self, pid: int, state: State = State.IDLE, **facts: object) -> None:
        """Have a worker write its slot, and the supervisor read it."""
        self.alive[pid] = self.alive[pid]._replace(state=state, **facts)  # type: ignore[arg-type]
        self.look()

    def look(self) -> None:
        slots = [self.alive.get(p.pid, EMPTY) for p in self.policy.places]
        self.policy.observe(slots, self.now)

    def ready(self, pid: int) -> None:
        self.is_now(pid, ready=True)

    def die(self, pid: int, served: int = 0, *, murdered: bool = False) -> None:
        last = self.alive.pop(pid)
        last = last._replace(served=max(served, last.served))
        self.policy.exited(pid, last, self.now, reason="died", murdered=murdered)

    def fill(self) -> list[int]:
        """Boot a zygote and all workers, and have them ready."""
        self.tick()
        self.loaded()
        while self.tick() and self.spawns:
            self.ready(self.spawned())
        return list(self.alive)

    def news(self) -> list[str]:
        return [news["state"] for news in self.policy.reloads.take_news()]

from __future__ import annotations

from itertools import count

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from falconas.worker.policy import (
    SPAWN_TIMEOUT,
    YOUNG,
    Backoff,
    KillZygote,
    Policy,
    Signal,
    Spawn,
    StartZygote,
    Zygote,
)


class World:
    """A policy and the processes that it asks for."""

    def __init__(self, places: int = 2) -> None:
        numbers = count(1)
        self.policy = Policy(
            places, 60.0, 30.0, lambda: 1.0, lambda: next(numbers).to_bytes(16, "big")
        )
        self.now = 100.0
        self.pids = count(1000)
        self.spawns: list[Spawn] = []
        self.alive: dict[int, bytes] = {}
        self.log: list[object] = []

    def tick(self) -> list[object]:
        actions: list[object] = []
        for action in self.policy.tick(self.now):
            actions.append(action)
            if isinstance(action, Spawn):
                self.spawns.append(action)
            if isinstance(action, Signal):
                assert action.pid in self.alive
        self.policy.check_invariants()
        self.log.extend(actions)
        return actions

    def ready(self) -> None:
        self.policy.manifest_loaded("m1", self.now)

    def spawned(self) -> int:
        spawn, pid = self.spawns.pop(0), next(self.pids)
        assert self.policy.spawned(spawn.worker, pid, self.now)
        self.alive[pid] = spawn.worker
        return pid

    def die(self, pid: int, served: int = 0) -> None:
        del self.alive[pid]
        self.policy.exited(pid, served, self.now)

    def fill(self) -> list[int]:
        """Boot a zygote and all workers."""
        self.tick()
        self.ready()
        while self.tick() and self.spawns:
            self.spawned()
        return list(self.alive)


def test_it_starts_a_zygote_then_one_worker_after_the_other() -> None:
    world = World(2)
    assert world.tick() == [StartZygote()]
    assert world.tick() == []
    world.ready()
    first = world.tick()
    assert [type(action) for action in first] == [Spawn]
    assert world.tick() == []
    world.spawned()
    (second,) = world.tick()
    assert isinstance(second, Spawn)
    assert second.place == 1
    world.spawned()
    assert world.tick() == []
    assert len(world.policy.workers()) == 2


def test_a_worker_counts_as_alive_while_it_is_being_spawned() -> None:
    world = World(1)
    world.tick()
    world.ready()
    world.tick()
    assert world.policy.workers() == [world.spawns[0].worker]


def test_a_worker_that_had_served_is_replaced_at_once() -> None:
    world = World(1)
    (pid,) = world.fill()
    world.die(pid, served=1)
    assert [type(action) for action in world.tick()] == [Spawn]


def test_a_worker_that_grew_old_idle_is_replaced_at_once() -> None:
    world = World(1)
    (pid,) = world.fill()
    world.now += YOUNG
    world.die(pid)
    assert [type(action) for action in world.tick()] == [Spawn]


def test_a_worker_that_dies_young_again_and_again_waits_up_to_30_s() -> None:
    world = World(1)
    world.fill()
    waits = []
    for _ in range(12):
        (pid,) = world.alive
        world.die(pid)
        assert world.tick() == []
        waits.append(world.policy.wake_at() - world.now)
        world.now = world.policy.wake_at()
        world.tick()
        world.spawned()
    assert waits[:4] == pytest.approx([0.1, 0.2, 0.4, 0.8])
    assert waits[-1] == pytest.approx(30.0)


def test_a_worker_that_served_ends_the_waiting() -> None:
    world = World(1)
    world.fill()
    for served in (0, 0, 1, 0):
        (pid,) = world.alive
        world.die(pid, served)
        wait = max(0.0, world.policy.wake_at() - world.now)
        world.now += wait
        world.tick()
        world.spawned()
    assert wait == pytest.approx(0.1)


def test_waits_are_shortened_at_random_by_up_to_a_half() -> None:
    assert Backoff(1.0, 8.0, lambda: 0.0).next() == 0.5
    assert Backoff(1.0, 8.0, lambda: 1.0).next() == 1.0


def test_a_zygote_that_fails_at_first_is_fatal() -> None:
    world = World()
    world.tick()
    world.policy.zygote_exited("no such folder", world.now)
    assert world.policy.fatal == "no such folder"
    assert world.tick() == []


def test_a_zygote_that_does_not_load_in_time_is_killed() -> None:
    world = World()
    world.tick()
    world.now = world.policy.wake_at()
    (action,) = world.tick()
    assert action == KillZygote("the scripts did not load within 60 s")
    assert world.tick() == []
    world.policy.zygote_exited("the scripts did not load within 60 s", world.now)
    assert world.policy.fatal


def test_a_dead_zygote_is_replaced_and_its_workers_live_on() -> None:
    world = World(2)
    pids = world.fill()
    world.now += YOUNG
    world.policy.zygote_exited("killed", world.now)
    assert not world.policy.fatal
    assert world.tick() == [StartZygote()]
    assert sorted(world.alive) == sorted(pids)
    assert len(world.policy.workers()) == 2


def test_a_zygote_that_fails_later_is_tried_again_with_waits() -> None:
    world = World(1)
    world.fill()
    waits = []
    for _ in range(3):
        world.policy.zygote_exited("broken", world.now)
        waits.append(world.policy.wake_at() - world.now)
        world.now = world.policy.wake_at()
        assert world.tick() == [StartZygote()]
    assert waits == pytest.approx([0.1, 0.2, 0.4])


def test_an_unanswered_spawn_is_taken_back_when_the_zygote_dies() -> None:
    world = World(1)
    world.tick()
    world.ready()
    world.tick()
    world.policy.zygote_exited("killed", world.now)
    assert world.policy.workers() == []
    assert not world.policy.spawned(world.spawns[0].worker, 1, world.now)


def test_a_zygote_that_does_not_fork_is_killed() -> None:
    world = World(1)
    world.tick()
    world.ready()
    world.tick()
    world.now += SPAWN_TIMEOUT
    assert [type(action) for action in world.tick()] == [KillZygote]
    assert world.policy.zygote is Zygote.KILLED


def test_a_drain_asks_each_worker_and_spawns_no_more() -> None:
    world = World(2)
    first, second = world.fill()
    world.policy.drain(world.now)
    assert world.tick() == [Signal(first, hard=False), Signal(second, hard=False)]
    world.die(first, served=1)
    assert world.tick() == []
    assert not world.policy.drained
    world.die(second, served=1)
    assert world.policy.drained
    assert world.tick() == []


def test_workers_that_do_not_finish_in_time_are_killed() -> None:
    world = World(1)
    (pid,) = world.fill()
    world.policy.drain(world.now)
    world.tick()
    assert world.policy.wake_at() == world.now + 30.0
    world.now = world.policy.wake_at()
    assert world.tick() == [Signal(pid, hard=True)]


def test_a_second_stop_kills_at_once() -> None:
    world = World(1)
    (pid,) = world.fill()
    world.policy.drain(world.now)
    world.tick()
    world.policy.drain(world.now)
    assert world.tick() == [Signal(pid, hard=True)]


@pytest.mark.parametrize("hard", [False, True])
def test_a_worker_born_during_a_drain_is_stopped_too(hard: bool) -> None:
    world = World(1)
    world.tick()
    world.ready()
    world.tick()
    world.policy.drain(world.now)
    if hard:
        world.policy.drain(world.now)
    world.tick()
    assert not world.policy.drained
    pid = world.spawned()
    assert world.tick() == [Signal(pid, hard=hard)]


def test_without_workers_a_drain_is_done_at_once() -> None:
    world = World(1)
    world.tick()
    world.policy.drain(world.now)
    assert world.policy.drained


def test_manifests_in_use_are_those_of_the_workers_and_of_the_zygote() -> None:
    world = World(2)
    first, _ = world.fill()
    world.policy.zygote_exited("killed", world.now)
    world.policy.manifest_loaded("m2", world.now)
    assert world.policy.manifests() == {"m1", "m2"}
    world.die(first, served=1)
    world.tick()
    (place,) = [p for p in world.policy.places if not p.pid]
    assert place.manifest == "m2"


def test_an_unknown_process_is_no_business_of_the_policy() -> None:
    world = World(1)
    world.policy.exited(4711, 0, world.now)
    assert world.policy.place(0) is None


class PolicyMachine(RuleBasedStateMachine):
    """Whatever dies whenever: a place never has two processes, and fills again."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(3)
        self.world.tick()
        self.world.ready()

    @rule(seconds=st.floats(0.0, 40.0))
    def time_passes(self, seconds: float) -> None:
        self.world.now += seconds

    @rule()
    def tick(self) -> None:
        world = self.world
        for action in world.tick():
            if isinstance(action, Signal) and action.hard:
                world.die(action.pid)
            elif isinstance(action, KillZygote):
                world.spawns.clear()
                world.policy.zygote_exited("killed", world.now)

    @precondition(lambda self: self.world.policy.zygote is Zygote.BOOTING)
    @rule()
    def zygote_boots(self) -> None:
        self.world.ready()

    @precondition(lambda self: self.world.policy.manifest)
    @precondition(lambda self: self.world.policy.zygote is not Zygote.NONE)
    @rule()
    def zygote_dies(self) -> None:
        self.world.spawns.clear()
        self.world.policy.zygote_exited("killed", self.world.now)

    @precondition(lambda self: self.world.spawns)
    @rule()
    def worker_comes_up(self) -> None:
        self.world.spawned()

    @precondition(lambda self: self.world.alive)
    @rule(data=st.data(), served=st.integers(0, 1))
    def worker_dies(self, data: st.DataObject, served: int) -> None:
        pid = data.draw(st.sampled_from(sorted(self.world.alive)))
        self.world.die(pid, served)

    @precondition(lambda self: self.world.now > 400)
    @rule()
    def drain(self) -> None:
        self.world.policy.drain(self.world.now)

    @invariant()
    def sound(self) -> None:
        policy = self.world.policy
        policy.check_invariants()
        assert {p.pid for p in policy.places if p.pid} == set(self.world.alive)
        assert not policy.fatal

    def teardown(self) -> None:
        """Left in peace, everybody comes up, or everybody is gone."""
        world = self.world
        for _ in range(100):
            if world.policy.zygote is Zygote.BOOTING:
                world.ready()
            while world.spawns:
                world.spawned()
            self.tick()
            if min(world.policy.wake_at(), 1e9) > world.now:
                world.now = min(world.policy.wake_at(), world.now + 1)
        expected = 0 if world.policy.draining else 3
        assert len(world.alive) == expected
        assert world.policy.drained is world.policy.draining


TestPolicyMachine = PolicyMachine.TestCase
TestPolicyMachine.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None
)

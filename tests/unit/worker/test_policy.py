from __future__ import annotations

from math import inf

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from falconas.worker.nursery import YOUNG, AdoptZygote, KillZygote, StartZygote
from falconas.worker.policy import (
    BOOT_DEATHS,
    SLACK,
    SPAWN_TIMEOUT,
    Retire,
    Signal,
    Spawn,
)
from falconas.worker.snapshot import Spoiled, State
from tests.unit.worker.processes import EMPTY, World


def kinds(actions: list[object]) -> list[type]:
    return [type(action) for action in actions]


# Filling places


def test_it_starts_a_zygote_then_one_worker_after_the_other() -> None:
    world = World(2)
    assert world.tick() == [StartZygote(1)]
    assert world.tick() == []
    world.loaded()
    assert kinds(world.tick()) == [AdoptZygote, Spawn]
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
    world.loaded()
    world.tick()
    assert world.policy.workers() == [world.spawns[0].worker]


def test_a_worker_that_had_served_is_replaced_at_once() -> None:
    world = World(1)
    (pid,) = world.fill()
    world.die(pid, served=1)
    assert kinds(world.tick()) == [Spawn]


def test_a_worker_that_grew_old_idle_is_replaced_at_once() -> None:
    world = World(1)
    (pid,) = world.fill()
    world.now += YOUNG
    world.die(pid)
    assert kinds(world.tick()) == [Spawn]


def test_a_worker_that_dies_young_again_and_again_waits_up_to_30_s() -> None:
    """And no spare place is used to get round that."""
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


@pytest.mark.parametrize(("murdered", "proven"), [(False, True), (True, False)])
def test_deaths_in_boot_end_it_only_if_nobody_ever_came_up(
    murdered: bool, proven: bool
) -> None:
    world = World(1)
    world.tick()
    world.loaded()
    for death in range(BOOT_DEATHS):
        world.now = max(world.now, world.policy.wake_at())
        world.tick()
        pid = world.spawned()
        if proven and not death:
            world.is_now(pid)
        world.die(pid, murdered=murdered)
    assert not world.policy.fatal


def test_workers_that_do_not_come_up_end_it() -> None:
    world = World(1)
    world.tick()
    world.loaded()
    for _ in range(BOOT_DEATHS):
        assert not world.policy.fatal
        world.now = max(world.now, world.policy.wake_at())
        world.tick()
        world.die(world.spawned())
    assert world.policy.fatal == "no worker comes up (the last one died)"


def test_a_zygote_that_never_forks_ends_it() -> None:
    world = World(1)
    for _ in range(BOOT_DEATHS):
        assert not world.policy.fatal
        world.now = max(world.now, world.policy.wake_at())
        world.tick()
        world.loaded()
        world.tick()
        world.now += SPAWN_TIMEOUT
        assert KillZygote in kinds(world.tick())
        world.zygote_dies()
    assert world.policy.fatal == "no worker comes up (it did not fork within 5 s)"


# The zygote


def test_a_dead_zygote_is_replaced_and_its_workers_live_on() -> None:
    world = World(2)
    pids = world.fill()
    world.now += YOUNG
    world.zygote_dies()
    assert not world.policy.fatal
    assert world.tick() == [StartZygote(2)]
    assert sorted(world.alive) == sorted(pids)
    world.loaded()
    assert world.tick() == [AdoptZygote(2, fresh=False)]
    assert world.tick() == []  # the same scripts


def test_workers_follow_a_zygote_that_came_back_with_other_scripts() -> None:
    world = World(1)
    world.fill()
    world.zygote_dies()
    world.now = world.policy.wake_at()
    world.tick()
    world.loaded("m2")
    assert kinds(world.tick()) == [AdoptZygote, Spawn]
    assert world.policy.manifests() == {"m1", "m2"}


def test_workers_do_not_follow_it_if_these_are_worse() -> None:
    world = World(1)
    world.fill()
    world.zygote_dies()
    world.now = world.policy.wake_at()
    world.tick()
    world.loaded("m2", "script x does not load")
    assert kinds(world.tick()) == [AdoptZygote]
    assert world.tick() == []


def test_an_unanswered_spawn_is_taken_back_when_the_zygote_dies() -> None:
    world = World(1)
    world.tick()
    world.loaded()
    world.tick()
    (spawn,) = world.spawns
    world.zygote_dies()
    assert world.policy.workers() == []
    assert world.policy.spawned(spawn.worker, 1, world.now) is None


def test_a_zygote_that_does_not_fork_is_killed() -> None:
    world = World(1)
    world.tick()
    world.loaded()
    world.tick()
    assert world.policy.wake_at() == world.now + SPAWN_TIMEOUT
    world.now += SPAWN_TIMEOUT
    assert kinds(world.tick()) == [KillZygote]
    assert world.tick() == []


# Drain


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
    world.loaded()
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
    assert world.tick() == []


def test_an_unknown_process_is_no_business_of_the_policy() -> None:
    world = World(1)
    world.tick()
    world.policy.exited(4711, EMPTY, world.now, reason="", murdered=False)
    assert world.policy.places.of(0) is None


# Replacing workers


def reload(world: World, manifest: str = "m2") -> None:
    """Have a reload come as far as its scripts being in service."""
    world.policy.reload(b"r" * 16)
    assert StartZygote(world.zygotes[-1] + 1) in world.tick()
    world.loaded(manifest)


def test_a_reload_replaces_one_share_at_a_time_and_ends_the_old_zygote() -> None:
    world = World(4)
    old = world.fill()
    reload(world)
    actions = world.tick()
    assert kinds(actions) == [KillZygote, AdoptZygote, Spawn]
    assert actions[:2] == [KillZygote(1, ""), AdoptZygote(2, fresh=True)]
    for pid in old:
        fresh = world.spawned()
        world.is_now(fresh)
        assert world.tick() == []  # it is there, but not ready
        world.ready(fresh)
        assert world.tick() == [Retire(pid, "its scripts are old")]
        assert len(world.alive) == 5
        assert world.policy.reloads.rolling
        world.die(pid)
        world.tick()
    assert world.news() == ["loading", "rolling", "done"]
    assert {p.manifest for p in world.policy.places if p.pid} == {"m2"}
    assert len(world.alive) == 4


def test_a_reload_waits_until_the_worker_being_forked_is_there() -> None:
    world = World(1)
    (pid,) = world.fill()
    world.policy.reload(b"r" * 16)
    world.tick()
    world.die(pid, served=1)
    assert kinds(world.tick()) == [Spawn]
    world.loaded("m2")
    assert world.tick() == []
    world.spawned()
    assert AdoptZygote in kinds(world.tick())


def test_refused_scripts_change_nothing() -> None:
    world = World(1)
    world.fill()
    world.policy.reload(b"r" * 16)
    world.tick()
    world.loaded("m2", "script x does not load")
    assert world.tick() == [KillZygote(2, "")]
    world.zygote_dies(2)
    assert world.news() == ["loading", "failed"]
    assert world.tick() == []
    assert world.policy.nursery.manifest == "m1"


def test_a_successor_that_dies_or_takes_too_long_fails_the_reload() -> None:
    world = World(1)
    world.fill()
    world.policy.reload(b"r" * 16)
    world.tick()
    world.now += 60.0
    text = "the scripts did not load within 60 s"
    assert world.tick() == [KillZygote(2, text)]
    world.zygote_dies(2, text)
    assert world.news() == ["loading", "failed"]


def test_a_second_reload_follows_the_first() -> None:
    world = World(1)
    world.fill()
    reload(world)
    world.policy.reload(b"s" * 16)
    world.tick()
    world.ready(world.spawned())
    world.tick()
    assert world.zygotes == [1, 2]
    world.die(min(world.alive), served=1)
    world.tick()
    assert world.policy.wake_at() == -inf
    assert StartZygote(3) in world.tick()


def test_a_reload_whose_workers_do_not_get_ready_has_failed_but_goes_on() -> None:
    """Without a database nobody gets ready; the old ones stay meanwhile."""
    world = World(1)
    world.fill()
    reload(world)
    world.tick()
    new = world.spawned()
    world.tick()
    assert world.policy.wake_at() == world.now + 60.0
    world.now += 60.0
    assert world.tick() == []
    assert world.news()[-1] == "failed"
    world.ready(new)
    assert [type(action) for action in world.tick()] == [Retire]


def test_workers_of_new_scripts_that_do_not_come_up_fail_the_reload() -> None:
    world = World(1)
    (old,) = world.fill()
    reload(world)
    for _ in range(BOOT_DEATHS):
        world.now = max(world.now, world.policy.wake_at())
        world.tick()
        world.die(world.spawned())
    assert world.news() == ["loading", "rolling", "failed"]
    assert list(world.alive) == [old]
    world.now += 100.0
    assert world.tick() == []  # until the next one
    reload(world, "m3")
    assert Spawn in kinds(world.tick())


def test_an_old_worker_that_dies_leaves_its_place_to_its_replacement() -> None:
    world = World(1)
    (old,) = world.fill()
    reload(world)
    world.tick()
    fresh = world.spawned()
    world.die(old)
    assert world.tick() == []
    world.ready(fresh)
    assert world.tick() == []
    assert world.policy.reloads.state == "done"


def test_without_anybody_ready_the_old_ones_stay() -> None:
    world = World(4)
    world.fill()
    reload(world)
    world.tick()
    world.is_now(world.spawned())
    world.now += 1000.0
    world.look()
    assert world.tick() == []
    assert not world.told


def test_a_drain_abandons_a_reload() -> None:
    world = World(1)
    world.fill()
    reload(world)
    world.tick()
    world.policy.drain(world.now)
    world.policy.reload(b"s" * 16)
    assert world.news() == ["loading", "rolling", "failed", "failed"]


def test_a_retired_worker_may_finish_what_runs_and_no_more() -> None:
    world = World(1, drain_timeout=5.0)
    (old,) = world.fill()
    world.is_now(old, State.RUN, deadline=world.now + 20.0, id=b"d" * 16)
    reload(world)
    world.tick()
    world.ready(world.spawned())
    assert world.tick() == [Retire(old, "its scripts are old")]
    world.look()
    assert world.policy.wake_at() == world.now + 20.0 + SLACK
    world.now += 20.0 + SLACK
    assert world.tick() == [Signal(old, hard=True)]


def test_a_worn_worker_is_replaced() -> None:
    world = World(4)
    first, second, *_ = world.fill()
    world.is_now(first, spoiled=Spoiled.CHILDREN)
    world.is_now(second, threads=1)
    assert kinds(world.tick()) == [Spawn]
    world.ready(world.spawned())
    reason = "a script left a process running"
    assert world.tick() == [Retire(first, reason)]
    world.die(first)
    assert kinds(world.tick()) == [Spawn]  # for the second


def test_of_eight_two_are_replaced_at_once() -> None:
    world = World(8)
    world.fill()
    reload(world)
    world.tick()
    one = world.spawned()
    world.tick()
    two = world.spawned()
    assert world.tick() == []
    world.ready(one)
    world.ready(two)
    assert kinds(world.tick()) == [Retire, Retire]
    assert world.tick() == []


class PolicyMachine(RuleBasedStateMachine):
    """Whatever dies whenever: a place never has two processes, and fills again."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(5, recycle_requests=50)
        self.world.fill()
        self.manifests = iter(range(2, 1000))

    def pick(self, data: st.DataObject, pids: object) -> int:
        return data.draw(st.sampled_from(sorted(pids)))  # type: ignore[call-overload, no-any-return]

    @rule(seconds=st.floats(0.0, 40.0))
    def time_passes(self, seconds: float) -> None:
        self.world.now += seconds

    @rule()
    def tick(self) -> None:
        world = self.world
        ready = [p.ready for p in world.policy.places if p.pid and not p.retiring]
        for action in world.tick():
            if isinstance(action, Signal) and action.hard:
                world.die(action.pid)
            elif isinstance(action, KillZygote) and action.number in world.zygotes:
                world.zygote_dies(action.number)  # unless it had died by itself
            elif isinstance(action, Retire):
                serving = [p for p in world.policy.places if p.ready and not p.retiring]
                assert len(serving) >= min(sum(ready) - 1, 5)

    @precondition(lambda self: self.world.policy.nursery.wake_at() < inf)
    @rule(refused=st.sampled_from(["", "", "", "bad"]))
    def zygote_boots(self, refused: str) -> None:
        if self.world.zygotes:
            self.world.loaded(f"m{next(self.manifests)}", refused)

    @precondition(lambda self: self.world.zygotes)
    @rule()
    def zygote_dies(self) -> None:
        self.world.zygote_dies()

    @precondition(lambda self: self.world.spawns)
    @rule()
    def worker_comes_up(self) -> None:
        self.world.spawned()

    @precondition(lambda self: self.world.alive)
    @rule(data=st.data(), ready=st.booleans())
    def worker_says_how_it_is(self, data: st.DataObject, ready: bool) -> None:
        pid = self.pick(data, self.world.alive)
        self.world.is_now(pid, ready=ready)

    @precondition(lambda self: self.world.alive)
    @rule(data=st.data())
    def worker_wears_out(self, data: st.DataObject) -> None:
        self.world.is_now(self.pick(data, self.world.alive), served=55)

    @precondition(lambda self: self.world.alive)
    @rule(data=st.data(), served=st.integers(0, 1))
    def worker_dies(self, data: st.DataObject, served: int) -> None:
        self.world.die(self.pick(data, self.world.alive), served)

    @precondition(lambda self: self.world.told & self.world.alive.keys())
    @rule(data=st.data())
    def worker_obeys(self, data: st.DataObject) -> None:
        told = self.world.told & self.world.alive.keys()
        self.world.die(self.pick(data, told), served=1)

    @rule(id_=st.binary(min_size=1, max_size=1))
    def reload(self, id_: bytes) -> None:
        self.world.policy.reload(id_)

    @precondition(lambda self: self.world.now > 400)
    @rule()
    def drain(self) -> None:
        self.world.policy.drain(self.world.now)

    @invariant()
    def sound(self) -> None:
        policy = self.world.policy
        policy.places.check_invariants()
        assert {p.pid for p in policy.places if p.pid} == set(self.world.alive)
        assert not policy.fatal

    def teardown(self) -> None:
        """Left in peace, all are there and of one kind, or everybody is gone."""
        world = self.world
        for _ in range(200):
            for number in world.zygotes:
                world.policy.loaded(number, "last", "", world.now)
            while world.spawns:
                world.spawned()
            for pid in list(world.alive):
                if pid in world.told:
                    world.die(pid, served=1)
                else:
                    world.is_now(pid, ready=True)
            self.tick()
            world.now = max(world.now, min(world.policy.wake_at(), world.now + 1))
        places = world.policy.places
        assert len(world.alive) == (0 if world.policy.draining else 5)
        assert world.policy.drained is world.policy.draining
        assert not world.policy.reloads.active
        halted = world.policy.reloads.state == "failed"
        assert halted or len({p.generation for p in places if p.pid}) <= 1


TestPolicyMachine = PolicyMachine.TestCase
TestPolicyMachine.settings = settings(
    max_examples=30, stateful_step_count=40, deadline=None
)

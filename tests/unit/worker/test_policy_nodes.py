"""A policy whose nodes come and go."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from math import inf
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from falconas.database.health import PROBATION
from falconas.database.nodes import Node, NodeSet
from falconas.database.placement import Group, place
from falconas.worker.nursery import KillZygote
from falconas.worker.policy import LEAVE_TIMEOUT, SLACK, Leave, Retire, Signal, Spawn
from falconas.worker.roster import START_WAIT, Roster
from falconas.worker.snapshot import State
from tests.unit.database.world import PRIMARY, STANDBY
from tests.unit.worker.processes import World

READS = Group("reads", 4)


class Site(World):
    """Processes, and the nodes n1, n2, n3 that they are connected to.

    Args:
        groups: Whose workers.
        weights: Of the nodes.
        settings: Of the workers.
    """

    def __init__(
        self,
        *groups: Group,
        weights: tuple[float, ...] = (1.0, 1.0),
        **settings: Any,
    ) -> None:
        names = [f"n{number}" for number in range(1, len(weights) + 1)]
        self.all = [Node(n, weight=w) for n, w in zip(names, weights, strict=True)]
        self.nodes = NodeSet(self.all, random=lambda: 1.0)
        super().__init__(roster=Roster(groups, self.nodes), **settings)
        self.primary, self.timeline = "n1", 1

    def up(self, *names: str) -> None:
        """Have nodes answer their probes."""
        self.nodes.due(self.now)
        for name in {node.name for node in self.nodes} & set(names):
            probe = PRIMARY._replace(timeline=self.timeline)
            self.nodes.probed(
                name, probe if name == self.primary else STANDBY, self.now
            )

    def down(self, name: str, *, silent: bool = False) -> None:
        """Have a node fail its probe."""
        self.nodes.due(self.now)
        self.nodes.failed(name, "connection refused", self.now, silent=silent)

    def have(self, names: Collection[str]) -> None:
        """Have only these nodes from now on."""
        self.nodes.update(node for node in self.all if node.name in names)

    def promote(self, name: str) -> None:
        """Have a standby become the primary."""
        self.primary, self.timeline = name, self.timeline + 1

    def on(self, name: str, group: str = "") -> list[int]:
        """Return who is there to stay on a node."""
        return [
            place.pid
            for place in self.policy.places
            if place.pid and place.is_regular and place.node == name
            if group in ("", place.group)
        ]

    def spread(self, group: str = "") -> dict[str, int]:
        """Return how many are there to stay on each node."""
        names = [node.name for node in self.nodes]
        return {n: len(self.on(n, group)) for n in names if self.on(n, group)}

    def go_on(self) -> list[object]:
        """Let what is asked for be done at once, until nothing more is."""
        done: list[object] = []
        while (actions := self.tick()) or self.spawns:
            done.extend(actions)
            while self.spawns:
                self.ready(self.spawned())
            for action in actions:
                if isinstance(action, Leave | Retire | Signal):
                    self.die(action.pid)
        return done


def site(*groups: Group, **settings: Any) -> Site:
    """Return one whose nodes n1 and n2 are up and have their workers."""
    world = Site(*groups, **settings)
    world.up("n1", "n2")
    world.fill()
    return world


def spawns(actions: list[object]) -> list[str]:
    """Return the nodes of those that are to be spawned."""
    return [action.node for action in actions if isinstance(action, Spawn)]


# The start


def test_workers_wait_until_each_node_was_probed() -> None:
    world = Site(READS)
    world.tick()
    world.loaded()
    world.up("n1")
    assert Spawn not in map(type, world.tick())
    world.down("n2")
    assert spawns(world.tick()) == ["n1"]


def test_but_not_for_long() -> None:
    world = Site(READS)
    world.tick()
    world.loaded()
    world.tick()
    world.up("n1")
    assert world.policy.wake_at() == world.now + START_WAIT
    world.now += START_WAIT
    world.go_on()
    assert world.spread() == {"n1": 4}


def test_a_group_with_one_node_waits_for_nothing() -> None:
    world = Site(READS, Group("one", 1, nodes=("n2",)))
    world.tick()
    world.loaded()
    assert spawns(world.tick()) == ["n2"]
    assert world.spawns[0].group == "one"


def test_the_picture() -> None:
    """Script1 on two processes at node 1, Script2 on two at node 2."""
    world = site(Group("script1", 2, nodes=("n1",)), Group("script2", 2, nodes=("n2",)))

    assert world.spread("script1") == {"n1": 2}
    assert world.spread("script2") == {"n2": 2}
    assert len(world.policy.places) == 4 + 2  # nobody can move


def test_groups_have_the_size_that_they_want() -> None:
    world = site(READS, Group("few", 2), Group("w", 3, writes=1.0))

    assert world.spread("reads") == {"n1": 2, "n2": 2}
    assert world.spread("few") == {"n1": 1, "n2": 1}
    assert world.spread("w") == {"n1": 3}


# A node that goes


def test_workers_leave_a_node_that_is_down_at_once_and_their_places_are_filled() -> (
    None
):
    world = site(READS)
    gone = world.on("n2")
    world.down("n2")
    actions = world.tick()
    assert [a for a in actions if isinstance(a, Leave)] == [
        Leave(pid, "n2 is down: connection refused", hard=False) for pid in gone
    ]
    assert spawns(actions) == ["n1"]
    world.ready(world.spawned())
    assert spawns(world.tick()) == ["n1"]
    world.ready(world.spawned())
    assert set(gone) < set(world.alive)  # they hang, and are in nobody's way
    assert world.tick() == []
    assert world.spread() == {"n1": 4}


def test_those_of_a_silent_node_are_killed() -> None:
    world = site(READS)
    gone = world.on("n2")
    world.down("n2", silent=True)
    leaving = [a for a in world.tick() if isinstance(a, Leave)]
    assert [(a.pid, a.hard) for a in leaving] == [(pid, True) for pid in gone]
    assert world.policy.wake_at() > world.now + LEAVE_TIMEOUT  # nothing is left to do


def test_one_that_was_leaving_is_killed_when_the_node_falls_silent() -> None:
    world = site(READS)
    gone = world.on("n2")
    world.down("n2")
    world.tick()
    world.down("n2", silent=True)
    leaving = [a for a in world.tick() if isinstance(a, Leave)]
    assert [(a.pid, a.hard) for a in leaving] == [(pid, True) for pid in gone]
    assert Leave not in map(type, world.tick())


@pytest.mark.parametrize("state", [State.RUN, State.COMMIT])
def test_one_that_is_leaving_may_finish_its_request_but_nothing_else(
    state: State,
) -> None:
    world = site(READS)
    busy, idle = world.on("n2")
    world.is_now(busy, state, deadline=world.now + 20.0)
    world.down("n2")
    world.tick()
    world.look()
    world.now += LEAVE_TIMEOUT
    assert Signal(idle, hard=True) in world.tick()
    world.now += 20.0 - LEAVE_TIMEOUT + SLACK
    assert Signal(busy, hard=True) in world.tick()


def test_when_all_nodes_are_down_nobody_moves() -> None:
    world = site(READS)
    world.now += 10.0
    world.down("n1")
    world.down("n2", silent=True)
    assert world.tick() == []
    world.up("n1")
    assert world.spread() == {"n1": 2, "n2": 2}
    assert [type(a) for a in world.tick()] == [Leave, Leave, Spawn]


def test_a_worker_that_dies_on_the_last_node_is_replaced_there() -> None:
    world = site(Group("one", 2, nodes=("n1",)))
    (first, _) = world.on("n1")
    world.down("n1")
    world.die(first, served=1)
    assert spawns(world.tick()) == ["n1"]


def test_deaths_on_leaving_are_not_held_against_anybody() -> None:
    """They had not even come up; and their places are free at once."""
    world = Site(READS)
    world.up("n1", "n2")
    world.tick()
    world.loaded()
    while world.tick():
        world.spawned()
    assert world.spread() == {"n1": 2, "n2": 2}
    world.down("n2")
    leaving = [a.pid for a in world.tick() if isinstance(a, Leave)]
    world.down("n1")
    world.up("n2")
    leaving += [a.pid for a in world.tick() if isinstance(a, Leave)]
    for pid in leaving:
        world.die(pid)
    world.go_on()
    assert len(leaving) == 4
    assert not world.policy.fatal
    assert len(world.alive) == 4


def test_one_that_replaced_another_and_leaves_lets_it_stay() -> None:
    world = site(READS, recycle_requests=10)
    (worn, _) = world.on("n2")
    world.is_now(worn, served=20)
    assert spawns(world.tick()) == ["n2"]
    new = world.spawned()
    world.down("n2")
    leaving = [a.pid for a in world.tick() if isinstance(a, Leave)]
    assert new in leaving
    assert len(leaving) == 3
    world.go_on()
    assert world.spread() == {"n1": 4}


def test_one_that_is_replaced_and_leaves_has_its_successor() -> None:
    world = site(READS, recycle_requests=10)
    world.down("n2")
    world.go_on()
    world.up("n2")
    world.now += PROBATION
    world.tick()
    new = world.spawned()  # for one of n1
    world.down("n1")
    world.now += 1.0
    actions = world.tick()
    assert [type(a) for a in actions] == [Leave] * 4 + [Spawn]
    assert new in world.on("n2")


def test_successors_wait_for_room_if_there_is_none() -> None:
    """Whoever hangs on a second dead node while others hang on a first."""
    world = Site(READS, weights=(1.0, 1.0, 1.0))
    world.up("n1", "n2", "n3")
    world.fill()
    for name, other in [("n2", "n3"), ("n3", "n1"), ("n1", "n2")] * 3:
        world.down(name)
        world.nodes.due(world.now)
        world.nodes.probed(other, STANDBY, world.now)
        for _ in range(10):
            world.tick()
            while world.spawns:
                world.ready(world.spawned())
    assert all(place.worker for place in world.policy.places)
    assert world.policy.wake_at() > world.now
    world.now += LEAVE_TIMEOUT
    world.go_on()
    assert sum(world.spread().values()) == 4


def test_workers_of_a_node_that_is_gone_leave_it() -> None:
    world = site(READS)
    gone = world.on("n2")
    world.have({"n1"})
    leaving = [a for a in world.tick() if isinstance(a, Leave)]
    assert leaving == [Leave(pid, "n2 is gone", hard=False) for pid in gone]
    world.go_on()
    assert world.spread() == {"n1": 4}


# A node that returns


def test_it_gets_its_workers_back_one_share_at_a_time() -> None:
    world = site(READS)
    world.down("n2")
    world.go_on()
    world.now += 1.0
    world.up("n2")
    assert world.tick() == []
    assert world.policy.wake_at() == world.now + PROBATION
    world.now += PROBATION
    for _ in range(2):
        actions = world.tick()
        assert spawns(actions) == ["n2"]
        assert len(world.alive) == 4
        world.ready(world.spawned())
        (retired,) = (a for a in world.tick() if isinstance(a, Retire))
        assert retired.reason == "n2 is back"
        assert world.tick() == []
        world.die(retired.pid)
    assert world.spread() == {"n1": 2, "n2": 2}
    assert world.tick() == []


def test_the_worn_and_the_old_are_moved_first() -> None:
    world = site(READS, recycle_requests=10)
    world.down("n2")
    world.go_on()
    world.up("n2")
    world.now += PROBATION
    worn = world.on("n1")[0]
    world.is_now(worn, served=20)
    assert spawns(world.tick()) == ["n2"]
    world.ready(world.spawned())
    assert [a.pid for a in world.tick() if isinstance(a, Retire)] == [worn]


def test_a_worn_worker_has_its_successor_on_its_node() -> None:
    world = site(READS, recycle_requests=10)
    for name in ("n2", "n1"):
        worn = world.on(name)[0]
        world.is_now(worn, served=20)
        assert Retire in map(type, world.go_on())
        assert worn not in world.alive
        assert world.spread() == {"n1": 2, "n2": 2}


def test_a_new_primary_gets_its_share() -> None:
    world = site(Group("w", 4, writes=1.0))
    assert world.spread() == {"n1": 4}
    world.promote("n2")
    world.up("n2")
    done = world.go_on()
    assert world.spread() == {"n2": 4}
    reasons = {a.reason for a in done if isinstance(a, Leave)}
    assert reasons == {"n1 was left behind by a failover"}


def test_other_scripts_may_need_another_share() -> None:
    world = site(READS)
    world.policy.roster.writes("reads", 1.0)
    done = world.go_on()
    assert world.spread() == {"n1": 4}
    assert len([a for a in done if isinstance(a, Retire)]) == 2


# What a worker shows of its node


def test_a_node_is_doubted_when_a_worker_has_lost_it() -> None:
    world = site(READS)
    world.nodes.due(world.now)
    pid = world.on("n2")[0]
    world.is_now(pid, ready=False)
    assert world.nodes.state("n2").health.suspect
    assert not world.nodes.state("n1").health.suspect
    assert world.tick() == []  # a doubt is no proof


def test_but_not_when_the_worker_was_told_to_finish() -> None:
    world = site(READS, recycle_requests=10)
    pid = world.on("n2")[0]
    world.is_now(pid, served=20)
    world.tick()
    world.ready(world.spawned())
    world.tick()
    world.is_now(pid, ready=False)
    assert not world.nodes.state("n2").health.suspect


class NodesMachine(RuleBasedStateMachine):
    """Nodes come and go while workers do, and scripts change."""

    GROUPS = (
        Group("all", 5, writes=0.5),
        Group("reads", 3, nodes=("n2", "n3")),
        Group("one", 1, nodes=("n3",)),
    )
    WEIGHTS = (1.0, 1.0, 2.0)

    def __init__(self) -> None:
        super().__init__()
        self.world = Site(*self.GROUPS, weights=self.WEIGHTS, recycle_requests=50)
        self.well = {"n1", "n2", "n3"}
        self.manifests = iter(range(2, 1000))
        self.world.tick()
        self.world.loaded()

    @initialize(at_once=st.sampled_from([True, True, False]))
    def start(self, at_once: bool) -> None:
        if at_once:
            self.world.up("n1", "n2", "n3")
            self.world.go_on()

    def usable(self, group: str) -> set[str]:
        names = self.world.policy.roster.groups[group].nodes or ("n1", "n2", "n3")
        return {name for name in names if self.world.nodes.suits(name, "read")}

    @rule(seconds=st.sampled_from([0.01, 0.1, 1.0, 3.0, 10.0, 60.0]))
    def time_passes(self, seconds: float) -> None:
        """Let it; before the first worker, a zygote that never forks would be fatal."""
        if self.world.spawns and not self.world.alive:
            self.world.is_now(self.world.spawned(), ready=True)
        self.world.now += seconds

    @rule(name=st.sampled_from(["n1", "n2", "n3"]), silent=st.booleans())
    def node_fails(self, name: str, silent: bool) -> None:
        self.well.discard(name)
        self.world.down(name, silent=silent)

    @rule(name=st.sampled_from(["n1", "n2", "n3"]))
    def node_answers(self, name: str) -> None:
        self.world.up(name)
        if self.world.nodes.suits(name, "read"):
            self.well.add(name)

    @rule(names=st.sets(st.sampled_from(["n1", "n2", "n3"])))
    def nodes_come_and_go(self, names: set[str]) -> None:
        self.well &= names
        self.world.have(names)

    @precondition(lambda self: self.world.primary not in self.well and self.well)
    @rule(data=st.data())
    def failover(self, data: st.DataObject) -> None:
        self.world.promote(data.draw(st.sampled_from(sorted(self.well))))
        self.world.up(self.world.primary)

    @rule(name=st.sampled_from(["all", "reads", "one"]), share=st.floats(0.0, 1.0))
    def scripts_write(self, name: str, share: float) -> None:
        self.world.policy.roster.writes(name, share)

    @rule()
    def tick(self) -> None:
        world = self.world
        homes = {p.pid: (p.group, p.node) for p in world.policy.places if p.pid}
        for action in world.tick():
            if isinstance(action, Spawn):
                usable = self.usable(action.group)
                assert action.node in usable or not usable
                self.has_a_reason(world.policy.places[action.place].replaces)
            elif isinstance(action, Leave):
                group, node = homes[action.pid]
                assert self.usable(group) - {node}
                assert node not in self.usable(group)
            if isinstance(action, Leave | Signal) and action.hard:
                world.die(action.pid)
            elif isinstance(action, KillZygote) and action.number in world.zygotes:
                world.zygote_dies(action.number)

    def has_a_reason(self, index: int) -> None:
        """Whoever is replaced is worn or old, or its group belongs elsewhere."""
        if index < 0:
            return
        old, policy = self.world.policy.places[index], self.world.policy
        if old.worn or old.generation != policy.nursery.generation:
            return
        replacing = {p.replaces: p.node for p in policy.places if p.replaces >= 0}
        del replacing[index]
        seats = policy.places.regular(old.group)
        current = [replacing.get(p.index, p.node) for p in seats]
        group = policy.roster.groups[old.group]
        found = place(group, current, self.world.nodes, self.world.now)
        assert Counter(found.nodes)[old.node] < Counter(current)[old.node]

    @precondition(lambda self: self.world.policy.nursery.wake_at() < inf)
    @rule(refused=st.sampled_from(["", "", "bad"]))
    def zygote_boots(self, refused: str) -> None:
        if self.world.zygotes and self.world.policy.nursery.manifest:
            self.world.loaded(f"m{next(self.manifests)}", refused)

    @precondition(lambda self: self.world.zygotes)
    @rule()
    def zygote_dies(self) -> None:
        self.world.zygote_dies()

    @precondition(lambda self: self.world.spawns)
    @rule(ready=st.booleans())
    def worker_comes_up(self, ready: bool) -> None:
        self.world.is_now(self.world.spawned(), ready=ready)

    @precondition(lambda self: self.world.alive)
    @rule(data=st.data(), ready=st.booleans(), served=st.sampled_from([0, 0, 0, 60]))
    def worker_says_how_it_is(
        self, data: st.DataObject, ready: bool, served: int
    ) -> None:
        pid = data.draw(st.sampled_from(sorted(self.world.alive)))
        self.world.is_now(pid, ready=ready, served=served)

    @precondition(lambda self: self.world.alive)
    @rule(data=st.data())
    def worker_dies(self, data: st.DataObject) -> None:
        self.world.die(data.draw(st.sampled_from(sorted(self.world.alive))))

    @rule()
    def reload(self) -> None:
        self.world.policy.reload(bytes([next(self.manifests) % 256]))

    @invariant()
    def sound(self) -> None:
        policy = self.world.policy
        policy.places.check_invariants()
        self.world.nodes.check_invariants()
        assert {p.pid for p in policy.places if p.pid} == set(self.world.alive)
        assert not policy.fatal

    def teardown(self) -> None:
        """Left in peace, all are where they belong, and stay there."""
        self.peace(150)
        world = self.world
        for group in world.policy.roster.groups.values():
            here = [p.node for p in world.policy.places.regular(group.name)]
            found = place(group, here, world.nodes, world.now)
            assert (len(here), found.moved) == (group.workers, [])
        assert len(world.alive) == 9
        assert {p.node for p in world.policy.places if p.worker} == {"n1", "n2", "n3"}
        before = set(world.alive)
        self.peace(20)
        assert set(world.alive) == before

    def peace(self, turns: int) -> None:
        world = self.world
        world.have({"n1", "n2", "n3"})
        for _ in range(turns):
            world.up("n1", "n2", "n3")
            world.policy.roster.writes("all", 0.5)
            world.policy.roster.writes("reads", 0.0)
            if world.zygotes:
                world.loaded("last")
            while world.spawns:
                world.spawned()
            for pid in world.told & world.alive.keys():
                world.die(pid, served=1)
            for pid, slot in world.alive.items():
                world.alive[pid] = slot._replace(state=State.IDLE, ready=True)
            world.look()
            self.tick()
            world.now = max(world.now, min(world.policy.wake_at(), world.now + 5))


TestNodesMachine = NodesMachine.TestCase
TestNodesMachine.settings = settings(
    max_examples=20, stateful_step_count=50, deadline=None
)

from __future__ import annotations

from math import inf

from falconas.database.nodes import NodeSet
from falconas.database.topology import Node, Probe, Role
from falconas.worker.probing import (
    PATIENCE,
    YOUNG,
    Answered,
    Ask,
    Doubted,
    KillProbe,
    Nodes,
    Probing,
    StartProbe,
)

N1, N2 = Node("n1", "host=one"), Node("n2", "host=two")
PRIMARY = Probe(Role.PRIMARY, 100, 1)


class World:
    """A probe, as a test lets it be."""

    def __init__(self, *nodes: Node) -> None:
        self.nodes = NodeSet(nodes, random=lambda: 1.0)
        self.probing = Probing(self.nodes, lambda: 1.0)
        self.now = 100.0

    def tick(self) -> list[object]:
        return list(self.probing.tick(self.now))

    def passes(self, seconds: float) -> list[object]:
        self.now += seconds
        return self.tick()

    def says(self, *messages: Nodes | Answered | Doubted) -> None:
        for message in messages:
            self.probing.take(message, self.now)

    def started(self, *nodes: Node) -> list[object]:
        """Have a probe announce these nodes; return what follows from that."""
        assert self.tick() == [StartProbe()]
        self.says(Nodes(list(nodes)))
        return self.tick()


def test_a_probe_is_started_and_asked_for_what_it_announces() -> None:
    world = World()
    assert world.probing.wake_at() <= world.now
    assert world.started(N1, N2) == [Ask(["n1", "n2"])]
    assert world.tick() == []
    world.says(Answered("n1", PRIMARY), Answered("n2", None, "refused"))
    assert world.nodes.state("n1").health.up
    assert world.nodes.state("n2").health.why == "refused"
    assert not world.nodes.state("n2").health.silent
    assert world.probing.wake_at() == world.nodes.wake_at() < inf


def test_a_change_of_the_nodes_is_told() -> None:
    world = World(N1)
    world.started(N1)
    change = world.probing.take(Nodes([N1, N2]), world.now)
    assert change is not None
    assert (change.come, change.gone) == (["n2"], [])
    assert world.tick() == [Ask(["n2"])]
    assert world.probing.take(Answered("n2", PRIMARY), world.now) is None


def test_a_doubt_has_the_node_asked_again() -> None:
    world = World(N1)
    world.started(N1)
    world.says(Answered("n1", PRIMARY))
    world.says(Doubted("n1", "slow"))
    assert world.nodes.state("n1").health.suspect
    assert world.tick() == [Ask(["n1"])]


def test_a_node_that_said_nothing_is_noted_as_silent() -> None:
    world = World(N1)
    world.started(N1)
    world.says(Answered("n1", None, "no connection", silent=True))
    assert world.nodes.state("n1").health.silent


def test_one_that_dies_is_replaced_later_each_time_and_facts_stay() -> None:
    world = World(N1)
    world.started(N1)
    world.says(Answered("n1", PRIMARY))
    pauses = []
    for _ in range(3):
        world.probing.exited(world.now)
        assert world.tick() == []
        pauses.append(world.probing.wake_at() - world.now)
        world.now = world.probing.wake_at()
        assert world.tick() == [StartProbe()]
    assert pauses[0] < pauses[1] < pauses[2]
    assert world.nodes.state("n1").health.up
    world.now += YOUNG
    world.probing.exited(world.now)
    assert world.probing.wake_at() - world.now == pauses[0]


def test_what_a_dead_one_was_asked_its_successor_is_asked() -> None:
    world = World(N1, N2)
    world.started(N1, N2)
    world.says(Answered("n1", PRIMARY))
    world.probing.exited(world.now)
    assert world.passes(5.0) == [StartProbe()]
    assert world.probing.wake_at() == world.now + PATIENCE
    world.says(Nodes([N1, N2]))
    assert world.tick() == [Ask(["n2"]), Ask(["n1"])]


def test_one_that_is_silent_for_long_is_killed_once() -> None:
    world = World(N1, N2)
    world.started(N1, N2)
    world.says(Answered("n1", PRIMARY))
    world.passes(1.0)
    world.says(Answered("n1", PRIMARY))
    assert not any(isinstance(a, KillProbe) for a in world.passes(PATIENCE - 1.5))
    world.says(Answered("n1", PRIMARY))
    assert world.passes(0.5) == [KillProbe("it was silent for 10 s")]
    assert not any(isinstance(a, KillProbe) for a in world.passes(60.0))
    world.probing.exited(world.now)
    assert world.passes(1.0) == [StartProbe()]


def test_one_that_never_says_a_word_is_killed() -> None:
    world = World(N1)
    assert world.tick() == [StartProbe()]
    assert world.probing.wake_at() == world.now + PATIENCE
    assert world.passes(PATIENCE) == [KillProbe("it was silent for 10 s")]


def test_one_that_finds_no_nodes_is_left_at_it() -> None:
    world = World()
    assert world.started() == []
    assert world.probing.wake_at() == inf
    assert world.passes(10 * PATIENCE) == []
    world.says(Nodes([N1]))
    assert world.tick() == [Ask(["n1"])]


def test_a_successor_that_finds_nothing_yet_takes_no_node_away() -> None:
    world = World()
    world.started(N1)
    world.probing.exited(world.now)
    world.passes(1.0)
    world.says(Nodes([]))
    assert [node.name for node in world.nodes] == ["n1"]
    assert world.passes(2 * PATIENCE) == []


def test_nobody_is_waited_for_who_has_gone() -> None:
    world = World()
    world.started(N1, N2)
    world.says(Nodes([N1]))
    for _ in range(round(PATIENCE) + 2):
        world.says(Answered("n1", PRIMARY))
        assert not any(isinstance(a, KillProbe) for a in world.passes(1.0))


def test_an_answer_for_a_node_that_has_gone_is_late() -> None:
    world = World()
    world.started(N1, N2)
    world.says(Nodes([N1]), Answered("n2", PRIMARY), Doubted("n2", "slow"))
    assert [node.name for node in world.nodes] == ["n1"]

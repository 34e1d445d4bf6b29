from __future__ import annotations

from math import inf

import pytest

from falconas.database.nodes import NodeSet
from falconas.database.topology import MOST, Node, Probe, Role
from falconas.worker.probing import (
    DOUBT,
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
STANDBY = Probe(Role.STANDBY, 100, 1)


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


def test_a_node_that_refuses_connections_is_noted_so() -> None:
    world = World(N1)
    world.started(N1)
    world.says(Answered("n1", PRIMARY))
    world.says(Answered("n1", None, "no slots", refused=True))
    health = world.nodes.state("n1").health
    assert (health.up, health.closed) == (True, True)


def test_what_is_not_answered_for_is_in_doubt_once() -> None:
    world = World(N1, N2)
    world.started(N1, N2)
    world.says(Answered("n1", PRIMARY), Answered("n2", STANDBY))
    assert world.passes(1.0) == [Ask(["n1", "n2"])]
    world.says(Answered("n2", STANDBY))
    assert world.passes(DOUBT - 0.1) == [Ask(["n2"])]
    assert not world.nodes.state("n1").health.suspect
    world.says(Answered("n2", STANDBY))
    assert world.probing.wake_at() == pytest.approx(world.now + 0.1)
    world.passes(0.2)
    facts = {facts.name: facts for facts in world.nodes.facts(world.now)}
    assert facts["n1"].suspect
    assert facts["n1"].reason == "not probed for 4 s"
    assert not facts["n2"].suspect
    assert world.probing.wake_at() > world.now
    world.says(Answered("n1", PRIMARY))
    assert world.passes(0.1) == [Ask(["n1"])]
    world.says(Answered("n1", PRIMARY))
    assert not world.nodes.state("n1").health.suspect


@pytest.mark.parametrize(
    ("nodes", "why"),
    [
        ([N1, N2, Node("n1", "host=three")], "two nodes are named n1"),
        (
            [Node(f"n{i}") for i in range(MOST + 1)],
            f"there are {MOST + 1} nodes; {MOST} are the most",
        ),
    ],
)
def test_one_that_names_impossible_nodes_is_killed_and_not_heard_any_more(
    nodes: list[Node], why: str
) -> None:
    world = World()
    world.started(N1)
    world.says(Nodes(nodes), Nodes([N2]), Answered("n1", PRIMARY))
    assert world.tick() == [KillProbe(f"it named nodes that cannot be: {why}")]
    assert [node.name for node in world.nodes] == ["n1"]
    assert not world.nodes.state("n1").health.up
    world.probing.exited(world.now)
    assert world.passes(1.0) == [StartProbe()]
    world.says(Nodes([N1]), Answered("n1", PRIMARY))
    assert world.nodes.state("n1").health.up


def test_nothing_is_left_to_be_done_with_one_that_is_gone() -> None:
    world = World()
    assert world.tick() == [StartProbe()]
    world.says(Nodes([N1]), Nodes([N1, N1]))
    world.probing.exited(world.now)
    assert world.tick() == []

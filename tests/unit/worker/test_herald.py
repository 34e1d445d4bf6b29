from __future__ import annotations

from typing import Any

from falconas.database.nodes import NodeSet
from falconas.database.topology import Node, Probe, Role
from falconas.worker.herald import EXTEND_INTERVAL, Herald, describe, dropped, rows
from tests.unit.worker.processes import World


class Ear:
    """Notes what a control or a notifier is told."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def show(
        self, status: dict[str, Any], workers: list[bytes], nodes: list[Any]
    ) -> None:
        del workers, nodes
        if status not in self.heard[-1:]:
            self.heard.append(status)

    def __getattr__(self, name: str) -> Any:
        return lambda *args: self.heard.append((name, *args))

    def wake_at(self) -> float:
        return 1e9

    def beat(self, now: float) -> None:
        del now

    def status(self, text: str) -> None:
        del text


def told() -> tuple[Herald, Any, Any]:
    control, notifier = Ear(), Ear()
    return Herald(control, notifier), control, notifier  # type: ignore[arg-type]


def test_each_step_of_a_reload_is_told_to_both() -> None:
    herald, control, notifier = told()
    herald.serves({"scripts": {"bad": {"error": "here"}, "good": {"error": None}}})
    world = World(1)
    herald.tell(world.policy, world.now)
    assert notifier.heard == []
    (old,) = world.fill()
    herald.tell(world.policy, world.now)
    assert notifier.heard == [("ready",)]
    world.policy.reload(b"r")
    world.tick()
    herald.tell(world.policy, world.now)
    world.loaded("m2")
    world.tick()
    world.ready(world.spawned())
    world.tick()
    herald.tell(world.policy, world.now)
    world.die(old)
    world.tick()
    herald.tell(world.policy, world.now)
    reloads = [status["reload"] for status in control.heard[2:]]
    assert [(reload["state"], reload["reason"]) for reload in reloads] == [
        ("loading", ""), ("rolling", ""), ("done", "1 script does not load: bad")
    ]  # fmt: skip
    assert control.heard[-1]["manifest"] == "m2"
    assert notifier.heard == [("ready",), ("reloading",), ("ready",)]


def test_a_drain_asks_for_time_again_and_again() -> None:
    herald, control, notifier = told()
    world = World(1)
    world.fill()
    herald.tell(world.policy, world.now)
    world.policy.drain(world.now)
    herald.tell(world.policy, world.now)
    assert control.heard[-1]["draining"] is True
    assert herald.wake_at() == world.now + EXTEND_INTERVAL
    herald.tell(world.policy, herald.wake_at())
    assert [what for what, *_ in notifier.heard] == [
        "ready", "stopping", "extend", "extend"
    ]  # fmt: skip


def test_the_status_is_short() -> None:
    world = World(2)
    first, _ = world.fill()
    world.is_now(first, ready=False)
    assert describe(world.policy) == "1 of 2 workers ready"
    world.policy.reload(b"r")
    assert describe(world.policy) == "1 of 2 workers ready, reloading"
    world.policy.drain(world.now)
    assert describe(world.policy) == "stopping, 2 workers left"


def known(**answers: Probe | str) -> NodeSet:
    nodes = NodeSet(map(Node, (*answers, "unprobed")), random=lambda: 1.0)
    nodes.due(100.0)
    for name, answer in answers.items():
        if isinstance(answer, str):
            nodes.failed(name, answer, 100.0)
        else:
            nodes.probed(name, answer, 100.0)
    return nodes


def test_the_broker_is_told_of_nodes_that_have_been_probed() -> None:
    nodes = known(
        n1=Probe(Role.PRIMARY, 500, 3),
        n2=Probe(Role.STANDBY, 400, 3, 7.0),
        n3="connection refused",
        n4=Probe(Role.STANDBY, 900, 2, 0.0),
    )
    nodes.update([node for node in nodes if node.name != "unprobed"])
    astray = "it follows timeline 2, the primary n1 is on 3"
    assert [tuple(row) for row in rows(nodes, 100.0)] == [
        ("n1", "main", "primary", True, 0.0, 500, 3, ""),
        ("n2", "main", "standby", True, 7.0, 400, 3, ""),
        ("n3", "main", "unknown", False, None, 0, 0, "connection refused"),
        ("n4", "main", "standby", True, None, 900, 2, astray),
    ]


def test_a_node_that_is_none_any_more_is_down_as_long_as_workers_are_there() -> None:
    world = World(1)
    (worker,) = world.fill()
    assert dropped(world.policy) == []
    world.policy.roster.nodes.update([Node("n7")])
    why = "it is not among the nodes any more"
    assert [tuple(row) for row in dropped(world.policy)] == [
        ("n1", "main", "unknown", False, None, 0, 0, why)
    ]
    heard: list[Any] = []
    herald, control, _ = told()
    control.show = lambda _status, _workers, nodes: heard.append(nodes)
    herald.tell(world.policy, world.now)
    assert heard == [dropped(world.policy)]
    world.die(worker)
    assert dropped(world.policy) == []


def test_a_primary_that_was_left_behind_serves_nothing() -> None:
    nodes = known(n1=Probe(Role.PRIMARY, 500, 1), n2=Probe(Role.PRIMARY, 400, 2))
    first, second = rows(nodes, 100.0)
    assert (first.role, first.up) == ("primary", False)
    assert first.reason == "a primary left behind on timeline 1 of 2"
    assert (second.role, second.up) == ("unknown", True)
    assert second.reason == "a primary, but unprobed may be a newer one"
    nodes.failed("unprobed", "connection refused", 100.0)
    assert rows(nodes, 100.0)[1].role == "primary"


def test_of_two_equal_primaries_neither_takes_writes() -> None:
    nodes = known(n1=Probe(Role.PRIMARY, 500, 1), n2=Probe(Role.PRIMARY, 400, 1))
    same = "a primary on the same timeline as"
    assert [(r.role, r.up, r.reason) for r in rows(nodes, 100.0)] == [
        ("unknown", True, f"{same} n2"),
        ("unknown", True, f"{same} n1"),
    ]


def test_a_node_that_takes_no_new_connections_is_up_and_says_so() -> None:
    nodes = known(n1=Probe(Role.PRIMARY, 500, 1))
    nodes.failed("unprobed", "connection refused", 100.0)
    nodes.failed("n1", "too many connections", 101.0, refused=True)
    row = rows(nodes, 101.0)[0]
    assert (row.role, row.up) == ("primary", True)
    assert row.reason == "takes no new connections: too many connections"


def test_of_the_only_node_nothing_is_told_that_nobody_knows() -> None:
    nodes = NodeSet([Node("n1")], random=lambda: 1.0)
    nodes.failed("n1", "too many connections", 100.0, refused=True)
    assert rows(nodes, 100.0) == []

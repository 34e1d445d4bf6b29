"""Nodes that answer as a test wants, for what is built on a `NodeSet`."""

from __future__ import annotations

from falconas.database.nodes import Node, NodeSet, Probe, Role

PRIMARY = Probe(Role.PRIMARY, lsn=100, timeline=1)
STANDBY = Probe(Role.STANDBY, lsn=100, timeline=1, age=0.0, streaming=True)


def make(**weights: float) -> NodeSet:
    """Return nodes by weight, of which nothing is known."""
    return NodeSet(
        [Node(name, weight=weight) for name, weight in weights.items()],
        random=lambda: 1.0,
    )


def well(**weights: float) -> NodeSet:
    """Return nodes that are all up; the first is the primary."""
    nodes = make(**weights)
    nodes.due(0.0)
    for name in weights:
        nodes.probed(name, STANDBY if name != next(iter(weights)) else PRIMARY, 0.0)
    nodes.check_invariants()
    return nodes


def fail(nodes: NodeSet, name: str, now: float) -> None:
    """Let a node fail its probe."""
    nodes.due(now)
    nodes.failed(name, "connection refused", now)
    nodes.check_invariants()


def recover(
    nodes: NodeSet,
    name: str,
    now: float,
    *,
    probation: float = 0.0,
    probe: Probe = STANDBY,
) -> None:
    """Let a node answer again; with `probation` it began so long ago."""
    nodes.due(now)
    nodes.probed(name, probe, now - probation)
    nodes.check_invariants()

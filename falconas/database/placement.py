"""On which nodes a group's workers are: pure.

The workers of a group are spread over its nodes by weight. As many as it asks for are
on the primary, so that its writes are served. A worker leaves a node that is down at
once, and is moved back when the node has passed its probation; nobody is moved who is
where somebody has to be. A node that takes no new connections keeps who is there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from math import ceil
from typing import NamedTuple

from falconas.database.nodes import NodeSet
from falconas.database.topology import State


class Group(NamedTuple):
    """Workers that serve the same scripts.

    Attributes:
        name: By which it is shown.
        workers: How many there are.
        database: Whose nodes they use.
        nodes: Only these, if any are named.
        writes: The part of them that the primary must have: 0 for a group that only
            reads, 1 for one that only writes.
    """

    name: str
    workers: int
    database: str = "main"
    nodes: tuple[str, ...] = ()
    writes: float = 0.0


class Placement(NamedTuple):
    """Where each worker of a group is to be, and what is to be said of it.

    Attributes:
        nodes: Of each worker; empty while no node of the group is known.
        moved: The workers, by their place in the list, that are not there yet.
        notes: What an operator should know.
    """

    nodes: list[str]
    moved: list[int]
    notes: list[str]


def place(
    group: Group, current: Sequence[str | None], nodes: NodeSet, now: float
) -> Placement:
    """Return the node of each worker, with as few moves as possible.

    Args:
        group: Whose workers.
        current: The node of each worker at present; None for one that has none.
        nodes: What is known.
        now: The time.
    """
    members = [
        state
        for state in nodes.members(group.database)
        if not group.nodes or state.node.name in group.nodes
    ]
    if not members:
        return Placement([], [], [f"group {group.name} has no node"])
    here = [*current, *[None] * group.workers][: group.workers]
    usable = _usable(members, nodes, here, now)
    primary = nodes.primary(group.database)
    home = primary.name if primary else None
    stay = Counter(name for name in here if name is not None)
    weights = {state.node.name: state.node.weight for state in usable or members}
    if not usable or (home is None and group.writes >= 1):
        want = _least_moved(stay, weights, group.workers)  # till better times
    else:
        ours = home in {state.node.name for state in members}
        closed = [state.node.name for state in usable if state.health.closed]
        want = _shares(group, weights, home if ours else None, stay, closed)
    placed, moved = _assign(want, here)
    return Placement(placed, moved, _notes(group, members, home))


def _usable(
    members: list[State], nodes: NodeSet, here: Sequence[str | None], now: float
) -> list[State]:
    """Return the nodes that may have workers: no new ones while on probation."""
    up = [state for state in members if nodes.suits(state.node.name, "read")]
    steady = [
        state for state in up if state.health.settled(now) or state.node.name in here
    ]
    return steady or up


def _shares(
    group: Group,
    weights: Mapping[str, float],
    home: str | None,
    stay: Counter[str],
    closed: Sequence[str],
) -> dict[str, int]:
    """Return how many workers each node gets.

    The primary has what the writes need even on probation, or if it is `closed`: nobody
    else can serve them. The others that are closed have no more than they have.
    """
    shares = apportion(group.workers, weights, stay)
    least = min(group.workers, ceil(group.workers * group.writes - 1e-9))
    if home is not None and shares.get(home, 0) < least:
        others = {name: weight for name, weight in weights.items() if name != home}
        shares = {home: least} | apportion(group.workers - least, others, stay)
    others = {name: weight for name, weight in weights.items() if name not in closed}
    if not closed or not others:
        return shares
    kept = {
        name: min(shares[name], max(stay[name], least if name == home else 0))
        for name in closed
    }
    more = apportion(sum(shares[name] - kept[name] for name in kept), others, stay)
    return shares | kept | {name: shares[name] + more[name] for name in others}


def apportion(
    count: int, weights: Mapping[str, float], stay: Mapping[str, int]
) -> dict[str, int]:
    """Divide a number by weights; each part is within one of the exact share.

    Of equal remainders the one goes first that is there already.
    """
    total = sum(weights.values())
    if not total:
        weights = dict.fromkeys(weights, 1.0)
        total = float(len(weights))
    exact = {name: count * weight / total for name, weight in weights.items()}
    parts = {name: int(share + 1e-9) for name, share in exact.items()}
    order = sorted(
        parts,
        key=lambda name: (
            round(parts[name] - exact[name], 9),
            parts[name] - stay.get(name, 0),
        ),
    )
    for name in order[: count - sum(parts.values())]:
        parts[name] += 1
    return parts


def _least_moved(
    stay: Counter[str], weights: Mapping[str, float], count: int
) -> dict[str, int]:
    """Leave everybody where he is, and divide only those who are nowhere."""
    kept = {name: stay.get(name, 0) for name in weights}
    more = apportion(count - sum(kept.values()), weights, {})
    return {name: kept[name] + more[name] for name in weights}


def _assign(
    want: dict[str, int], here: Sequence[str | None]
) -> tuple[list[str], list[int]]:
    """Keep whom the shares let stay; give the others what is left."""
    left = dict(want)
    placed: list[str | None] = []
    for name in here:
        stays = name is not None and left.get(name, 0) > 0
        if stays and name is not None:
            left[name] -= 1
        placed.append(name if stays else None)
    spare = iter([name for name, count in left.items() for _ in range(count)])
    moved = [index for index, name in enumerate(placed) if name is None]
    return [name or next(spare) for name in placed], moved


def _notes(group: Group, members: list[State], home: str | None) -> list[str]:
    """Return what an operator should know."""
    notes = []
    names = {state.node.name for state in members}
    if group.writes and home is None:
        notes.append(f"group {group.name} writes, and there is no primary")
    elif group.writes and home not in names:
        notes.append(
            f"group {group.name} writes, and the primary {home} is not of its nodes"
        )
    if group.writes >= 1 and len(names) > 1 and home in names:
        notes.append(
            f"group {group.name} only writes: its standbys have no work for workers"
        )
    return notes

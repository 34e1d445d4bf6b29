"""Which node each worker should have: pure, `now` comes in.

A group's workers begin when each of its nodes has been probed, so that none begins on
a dead one, but nobody waits for long. What is known of the nodes is in the node set,
which is the supervisor's; here it is turned into places, into reasons to leave or to
move, and into news for the log.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import repeat
from math import inf
from typing import NamedTuple

from falconas.database.nodes import NodeSet
from falconas.database.placement import Group, place
from falconas.database.topology import Role, State
from falconas.worker.places import Place, Places

START_WAIT = 3.0


class Farewell(NamedTuple):
    """Why a worker must not stay on its node; `hard` if it cannot even finish."""

    reason: str
    hard: bool


class Note(NamedTuple):
    """A line for the log; `alarm` if somebody should do something about it."""

    text: str
    alarm: bool = True


class _Seen(NamedTuple):
    """What was noted of a node last."""

    up: bool
    role: Role
    alarm: str = ""
    closed: bool = False
    system: int = 0


class Roster:
    """The groups, and the nodes that they use.

    Args:
        groups: Which workers there should be; their names are unique.
        nodes: What is known of the nodes; somebody else keeps it up to date.
        discovers: There may be others later.
    """

    def __init__(
        self, groups: Iterable[Group], nodes: NodeSet, *, discovers: bool = False
    ) -> None:
        self.groups = {group.name: group for group in groups}
        self.nodes = nodes
        self._discovers = discovers
        self._homeless: set[str] = set()  # groups that select no node at present
        self._waits: dict[str, float] = {}  # until when a group waits for its nodes
        self._started: set[str] = set()
        self._seen: dict[str, _Seen] = {}
        self._events: dict[str, str] = {}  # what happened to a node last
        self._said: dict[str, list[str]] = {}  # what is to be said of a group
        self._notes: list[Note] = []
        self._begun = inf
        self._now = -inf

    # What happens

    def choose(self, group: str, names: Sequence[str]) -> None:
        """Note which nodes a group uses from now on; there may be none."""
        self.groups[group] = self.groups[group]._replace(nodes=tuple(names))
        self._homeless.discard(group)
        if not names:
            self._homeless.add(group)

    def writes(self, group: str, share: float) -> None:
        """Note which part of a group's workers the primary must have."""
        self.groups[group] = self.groups[group]._replace(writes=share)

    def doubt(self, node: str, why: str, now: float) -> None:
        """Note that a worker has lost its connection to a node."""
        self.nodes.lost(node, why, now)

    def look(self, now: float) -> None:
        """Note what has become of the nodes since the last time."""
        self._now, self._begun = now, min(now, self._begun)
        for node in self.nodes:
            self._compare(self.nodes.state(node.name))
        gone = self._seen.keys() - {node.name for node in self.nodes}
        for name in sorted(gone):
            del self._seen[name]
            self._notes.append(Note(f"node {name} is gone", alarm=False))

    def take_notes(self) -> list[Note]:
        """Return what an operator should know and was not told yet."""
        notes, self._notes = self._notes, []
        return notes

    # Who is to be where

    @property
    def guests(self) -> int:
        """How many workers may have to leave their nodes at once, at most."""
        return sum(
            group.workers
            for group in self.groups.values()
            if self._discovers or len(self._members(group.name)) > 1
        )

    def assign(self, places: Places, now: float) -> dict[str, list[str]]:
        """Give each worker who is there to stay the node that it should have.

        Returns:
            The nodes for those who are missing, by group; without the groups that have
            to wait.
        """
        substitutes = {p.replaces: p for p in places if p.replaces >= 0}
        vacant = {}
        for group in self.groups:
            # Who is listed last is moved first.
            staying = sorted(
                places.regular(group),
                key=lambda p: (p.index not in substitutes, p.worn, -p.generation),
            )
            current = [substitutes.get(p.index, p).node for p in staying]
            nodes = self._place(group, current, now)
            for worker, node in zip(staying, nodes or repeat(""), strict=False):
                worker.target = node
            if nodes is not None:
                vacant[group] = nodes[len(staying) :]
        self._forget({p.target for p in places if p.target != p.node}, now)
        return vacant

    def farewells(self, places: Places) -> list[tuple[Place, Farewell]]:
        """Return who is to leave at once."""
        homes = dict.fromkeys((p.group, p.node) for p in places if p.pid)
        reasons = {home: self.farewell(*home) for home in homes}
        return [
            (place, reason)
            for place in places
            if place.pid and (reason := reasons[place.group, place.node])
        ]

    def farewell(self, group: str, name: str) -> Farewell | None:
        """Return why a worker is to leave its node at once; None: it is to stay.

        Nobody leaves while there is nowhere else to go.
        """
        members = self._members(group)
        if not any(self.nodes.suits(m.node.name, "read") for m in members):
            return None
        state = self._state(name)
        if state is None:
            return Farewell(f"{name} is gone", hard=False)
        if not any(member is state for member in members):
            why = f"{name} is not a node of group {group} any more"
            return Farewell(why, hard=False)
        if state.health.known and not state.health.up:
            why = f"{name} is down: {state.health.why}"
            return Farewell(why, state.health.silent)
        if state.role is not Role.UNKNOWN and not self.nodes.suits(name, "read"):
            return Farewell(f"{name} was left behind by a failover", hard=False)
        return None

    def reason(self, node: str) -> str:
        """Say why a worker is moved to a node."""
        return self._events.get(node, f"it belongs to {node}")

    def wake_at(self) -> float:
        """Return when somebody's place may change, if nothing happens before."""
        times = [until for until in self._waits.values() if until > self._now]
        for node in self.nodes:
            health = self.nodes.state(node.name).health
            if health.up and health.probation_ends > self._now:
                times.append(health.probation_ends)
        return min(times, default=inf)

    # Details

    def _state(self, name: str) -> State | None:
        known = any(node.name == name for node in self.nodes)
        return self.nodes.state(name) if known else None

    def _members(self, name: str) -> list[State]:
        """Return what is known of the nodes of a group."""
        if name in self._homeless:
            return []
        group = self.groups[name]
        members = self.nodes.members(group.database)
        return [m for m in members if not group.nodes or m.node.name in group.nodes]

    def _place(
        self, group: str, current: Sequence[str], now: float
    ) -> list[str] | None:
        """Return the node of each worker of a group; None: they are to wait."""
        members = self._members(group)
        if members and self._may_start(group, members, now):
            found = place(self.groups[group], current, self.nodes, now)
            if all(member.health.known for member in members):
                self._say(group, found.notes)
            return found.nodes
        if not members and now >= self._begun + START_WAIT:
            self._say(group, [f"group {group} has no node"])
        return None

    def _may_start(self, group: str, members: list[State], now: float) -> bool:
        """Tell whether a group need not wait for its nodes, or has waited for them."""
        if group in self._started:
            return True
        until = self._waits.setdefault(group, now + START_WAIT)
        alone = len(members) == 1
        if not alone and now < until and not all(m.health.known for m in members):
            return False
        self._started.add(group)
        del self._waits[group]
        return True

    def _forget(self, wanted: set[str], now: float) -> None:
        """Forget what happened to nodes that have who belongs to them."""
        for name in list(self._events):
            state = self._state(name)
            if name not in wanted and (state is None or state.health.settled(now)):
                del self._events[name]

    def _say(self, group: str, notes: list[str]) -> None:
        said = self._said.get(group, [])
        self._notes.extend(Note(note) for note in notes if note not in said)
        self._said[group] = notes

    def _compare(self, state: State) -> None:
        """Note what is new of a node."""
        name, health, role = state.node.name, state.health, state.role
        if not (health.known or health.closed):
            return
        before = self._seen.get(name)
        if role is Role.UNKNOWN and before is not None:
            role = before.role
        alarm = self.nodes.alarm(name)
        after = _Seen(health.up, role, alarm, health.closed, state.system)
        self._seen[name] = after
        if before == after:
            return
        self._warn(name, before, after, health.why)
        if self.nodes.suits(name, "read"):
            self._welcome(name, before, after)

    def _warn(self, name: str, before: _Seen | None, after: _Seen, why: str) -> None:
        """Note what somebody should look at."""
        before = before or _Seen(False, after.role)
        if after.alarm and not before.alarm:
            self._notes.append(Note(after.alarm))
        if before.system not in (0, after.system) and not after.alarm:
            self._notes.append(Note(f"node {name} has another cluster's data now"))
        if after.closed and not before.closed:
            self._notes.append(Note(f"node {name} {why}"))
        elif not (after.up or after.closed):
            self._notes.append(Note(f"node {name} is down: {why}"))

    def _welcome(self, name: str, before: _Seen | None, after: _Seen) -> None:
        """Note what is well with a node that was not so before, or is its new role."""
        role = after.role
        if before is None or not before.up:
            self._notes.append(Note(f"node {name} is up ({role})", alarm=False))
            self._events[name] = f"{name} is {'up' if before is None else 'back'}"
        elif role is before.role:
            if role is Role.STANDBY and before.alarm and not after.alarm:
                note = f"node {name} follows its primary again"
                self._notes.append(Note(note, alarm=False))
        elif role is Role.PRIMARY:
            self._notes.append(Note(f"node {name} is the primary now", alarm=False))
            self._events[name] = f"{name} is the primary now"
        else:
            self._notes.append(Note(f"node {name} is a standby now", alarm=False))

"""The nodes of the databases, and which of them suits: pure, `now` comes in.

Roles are probed, not believed; what each node may do by that is in `standing`. One
policy serves both models: the process model places its workers by it, and the threaded
one lends its connections by it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from math import inf, isfinite
from typing import NamedTuple

from falconas.database.health import Health
from falconas.database.standing import Database
from falconas.database.topology import (
    Change,
    Facts,
    NoAnswer,
    Node,
    Probe,
    Role,
    State,
    objection,
)

__all__ = ["Change", "Facts", "NoAnswer", "Node", "NodeSet", "Probe", "Refusal", "Role"]

INTERVAL = 1.0
HURRY = 0.2  # while a database waits for its next primary
PATIENCE = 60.0  # so long does it
CLAIM = 50  # turns


class Refusal(NamedTuple):
    """No node suits; the reason names each node and what is against it."""

    reason: str


class NodeSet:
    """All nodes, what is known of each, and which one suits.

    Args:
        nodes: The nodes; their names are unique.
        random: A number from 0 to 1, for jitter.
        interval: Seconds between the probes of a node that is up.
    """

    def __init__(
        self,
        nodes: Iterable[Node],
        *,
        random: Callable[[], float],
        interval: float = INTERVAL,
    ) -> None:
        self._random, self._interval = random, interval
        self._states: dict[str, State] = {}
        self._databases: dict[str, Database] = {}  # also those whose nodes have gone
        self.update(nodes)

    # What happens; of a node that has gone meanwhile, nothing

    def update(self, nodes: Iterable[Node]) -> Change:
        """Have these nodes from now on; what is known of those that stay is kept.

        One that is another server than before, by its DSN, is a new node.

        Raises:
            ValueError: Two have the same name, or there are too many. Then nothing has
                changed.
        """
        found = list(nodes)
        if why := objection(found):
            raise ValueError(why)
        fresh = {node.name: node for node in found}
        before, self._states = self._states, {}
        for database in self._databases.values():
            database.members = []
        kept = set()
        for name, node in fresh.items():
            state = before.get(name)
            if state is not None and node.is_same_server(state.node):
                state.node = node
                kept.add(name)
            else:
                state = State(node, Health(self._interval, self._random))
            self._states[name] = state
            database = self._databases.setdefault(node.database, Database())
            database.members.append(state)
        return Change(
            [name for name in fresh if name not in kept],
            [name for name in before if name not in kept],
        )

    def due(self, now: float) -> list[str]:
        """Return the nodes to be probed now; each is to be answered for, once."""
        names = []
        for state in self._states.values():
            if state.health.probe_at <= now:
                state.health.asked(now)
                names.append(state.node.name)
        return names

    def probed(self, name: str, probe: Probe, now: float) -> None:
        """Note what a node answered."""
        state = self._states.get(name)
        if state is not None:
            self._of(state).probed(state, probe, now)
            self._hurry(state.node.database, now)

    def failed(
        self,
        name: str,
        why: str,
        now: float,
        *,
        silent: bool = False,
        refused: bool = False,
    ) -> None:
        """Note that a node could not be probed: it is down, if it has not `refused`."""
        state = self._states.get(name)
        if state is not None:
            self._of(state).failed(state, why, now, silent=silent, refused=refused)
            self._hurry(state.node.database, now)

    def lost(self, name: str, why: str, now: float) -> bool:
        """Note that a connection to a node was lost, or could not be had.

        A probe is due at once; until it has answered, other nodes are preferred. True
        if it is news.
        """
        state = self._states.get(name)
        return state is not None and state.health.suspected(why, now)

    def refused_write(self, name: str, now: float) -> bool:
        """Note that a node refused a write as read-only; True if it is news."""
        state = self._states.get(name)
        if state is None:
            return False
        if state.role is Role.PRIMARY:
            state.role = Role.UNKNOWN
        self._hurry(state.node.database, now)
        return state.health.suspected("it refused a write as read-only", now)

    def _hurry(self, name: str, now: float) -> None:
        """Have all nodes of a database probed soon if it has just lost its primary."""
        database = self._databases[name]
        if now - database.seen < PATIENCE and database.primary() is None:
            for state in database.members:
                state.health.hurry(now + HURRY)

    # What is known

    def __iter__(self) -> Iterator[Node]:
        return (state.node for state in self._states.values())

    def is_up(self, node: Node) -> bool:
        """Tell whether this very server is one of the nodes, and up."""
        state = self._states.get(node.name)
        return state is not None and state.node.is_same_server(node) and state.health.up

    def wake_at(self) -> float:
        """Return when the next probe is due; infinite if all are under way."""
        return min(
            (state.health.probe_at for state in self._states.values()), default=inf
        )

    def state(self, name: str) -> State:
        """Return what is known of a node."""
        return self._states[name]

    def members(self, database: str = "main") -> list[State]:
        """Return what is known of the nodes of a database."""
        found = self._databases.get(database)
        return found.members if found else []

    def primary(self, database: str = "main") -> Node | None:
        """Return the node that takes a database's writes."""
        found = self._databases.get(database)
        state = found.primary() if found else None
        return state.node if state else None

    def facts(self, now: float) -> list[Facts]:
        """Return what is known of every node."""
        return [self._of(state).facts(state, now) for state in self._states.values()]

    def alarm(self, name: str) -> str:
        """Return what an operator should do about a node; empty: nothing."""
        state = self._states.get(name)
        return "" if state is None else self._of(state).alarm(state)

    def suits(self, name: str, access: str) -> bool:
        """Tell whether a node may do such work, however far it is behind."""
        state = self._states.get(name)
        if state is None:
            return False
        if access == "write":
            return not self._of(state).against_write(state)
        return not self._of(state).against_any(state)

    # The choice

    def choose(
        self,
        access: str,
        *,
        now: float,
        in_use: Mapping[str, int],
        max_lag: float | None = None,
        min_lsn: int | None = None,
        among: Collection[str] | None = None,
        full: Collection[str] = (),
        database: str = "main",
    ) -> Node | Refusal:
        """Return the node that the next piece of work goes to.

        Writes go to the primary. Reads go to any node that suits: to those that have
        less than their share of the work at hand, in turns by weight.

        Args:
            access: "read" or "write".
            now: The time.
            in_use: How much work each node has at hand.
            max_lag: Seconds that a standby may be behind.
            min_lsn: Position that a standby must have replayed.
            among: Only these nodes.
            full: Nodes that can take no more at present.
            database: Of which database.
        """
        suited = self._suited(access, now, max_lag, min_lsn, among, database)
        if isinstance(suited, Refusal):
            return suited
        free = [state for state in suited if state.node.name not in full]
        if not free:
            names = ", ".join(state.node.name for state in suited)
            return Refusal(f"all that suit are busy: {names}")
        return self._next(free, in_use, now).node

    def refusal(
        self,
        access: str,
        *,
        now: float,
        max_lag: float | None = None,
        min_lsn: int | None = None,
        among: Collection[str] | None = None,
        database: str = "main",
    ) -> Refusal | None:
        """Return why no node suits such work, busy or not; None if one does."""
        suited = self._suited(access, now, max_lag, min_lsn, among, database)
        return suited if isinstance(suited, Refusal) else None

    def _suited(
        self,
        access: str,
        now: float,
        max_lag: float | None,
        min_lsn: int | None,
        among: Collection[str] | None,
        database: str,
    ) -> list[State] | Refusal:
        """Return the nodes that suit, without the suspect ones if there are others."""
        suited, against = [], []
        for state in self.members(database):
            if among is not None and state.node.name not in among:
                continue
            if access == "write":
                why = self._of(state).against_write(state)
            else:
                why = self._of(state).against_read(state, max_lag, min_lsn, now)
            if why:
                against.append(f"{state.node.name}: {why}")
            else:
                suited.append(state)
        if not suited:
            return Refusal("; ".join(against) or "no node is known")
        return [state for state in suited if not state.health.suspect] or suited

    def _next(
        self, suited: list[State], in_use: Mapping[str, int], now: float
    ) -> State:
        """Choose among nodes that suit: the least busy ones, in turn by weight."""
        weights = [state.weight_at(now) for state in suited]
        if not any(weights):
            weights = [1.0] * len(suited)
        busy = 1 + sum(in_use.get(state.node.name, 0) for state in suited)
        fair = (1 - 1e-9) * busy / sum(weights)
        chosen, step = min(
            (
                (state, 1 / weight)
                for state, weight in zip(suited, weights, strict=True)
                if weight and in_use.get(state.node.name, 0) < weight * fair
            ),
            key=lambda pair: pair[0].turn,
        )
        database = self._of(chosen)
        database.turn = max(database.turn, chosen.turn)
        # Who had to stand back keeps a claim to some turns, not to all that he missed.
        chosen.turn = max(chosen.turn, database.turn - CLAIM * step) + step
        return chosen

    def _of(self, state: State) -> Database:
        return self._databases[state.node.database]

    def check_invariants(self) -> None:
        """Raise AssertionError if the state contradicts itself."""
        for state in self._states.values():
            health, name = state.health, state.node.name
            assert (health.asked_at is not None) == (health.probe_at == inf), name
            assert health.up == (health.failures == 0 and state.probed_at > -inf), name
            assert health.up or not health.suspect, name
            assert not health.up or health.suspect or not health.why, name
            assert isfinite(state.turn), name
        for database in self._databases.values():
            database.check_invariants()

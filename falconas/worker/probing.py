"""Keeps a probe process at work and the nodes known: pure, actions come out.

The probe is a process of its own, for a connection that hangs, or a name that does not
resolve, must not hold up the supervisor. It tells which nodes there are, and answers
for those that it is asked for; when is the nodes' own affair. One that dies, or is
silent for long, is replaced; until then what was known last stays, and ages.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import NamedTuple

import msgspec

from falconas.database.nodes import Change, NodeSet
from falconas.database.topology import Node, Probe
from falconas.settings import Settings
from falconas.worker.backoff import Backoff

DOUBT = 4.0  # a node that is a black hole is answered for by then
PATIENCE = 10.0
YOUNG = 10.0


class ProbeBoot(msgspec.Struct, tag=True, frozen=True):
    """Supervisor to probe, first: what to be."""

    settings: Settings
    pid: int


class Ask(msgspec.Struct, tag=True, frozen=True):
    """Supervisor to probe: answer for each of these nodes, once."""

    names: list[str]


class Nodes(msgspec.Struct, tag=True, frozen=True):
    """Probe to supervisor, first and on each change: which nodes there are.

    None at all: it is there, but has not found any yet.
    """

    nodes: list[Node]


class Answered(msgspec.Struct, tag=True, frozen=True):
    """Probe to supervisor: what a node answered, or (None) why it did not.

    Attributes:
        name: Which node.
        probe: Its answer.
        why: What went wrong.
        silent: It said nothing at all.
        refused: It is there, but takes no new connections.
    """

    name: str
    probe: Probe | None
    why: str = ""
    silent: bool = False
    refused: bool = False


class Doubted(msgspec.Struct, tag=True, frozen=True):
    """Probe to supervisor: an answer takes long, or a connection broke."""

    name: str
    why: str


Message = ProbeBoot | Ask | Nodes | Answered | Doubted


class StartProbe(NamedTuple):
    """Start a fresh probe process."""


class KillProbe(NamedTuple):
    """End the probe process, for that reason."""

    reason: str


Action = StartProbe | KillProbe | Ask


class Probing:
    """What the probe was asked, and when to start another.

    Args:
        nodes: What is known; it is kept up to date.
        random: A number from 0 to 1, for jitter.
    """

    def __init__(self, nodes: NodeSet, random: Callable[[], float]) -> None:
        self.nodes = nodes
        self._backoff = Backoff(0.1, 30.0, random)
        self._start_at = -inf
        self._since = inf
        self._alive = self._greeted = self._listens = self._killed = False
        self._asked: dict[str, float] = {}
        self._trusted: dict[str, float] = {}  # those of them that are not in doubt yet
        self._actions: list[Action] = []

    def take(self, message: Message, now: float) -> Change | None:
        """Take in what the probe says; return how the set of nodes changed by it.

        One that says what cannot be is killed, and not heard any more.
        """
        if self._killed:
            return None
        if isinstance(message, Nodes):
            self._greeted = True
            return self._announced(message.nodes, now) if message.nodes else None
        if isinstance(message, Answered):
            self._answered(message, now)
        elif isinstance(message, Doubted):
            self.nodes.lost(message.name, message.why, now)
        return None

    def exited(self, now: float) -> None:
        """Note that the probe process is gone."""
        self._alive = self._greeted = self._listens = self._killed = False
        self._actions.clear()  # they were for that one
        if now - self._since >= YOUNG:
            self._backoff.reset()
        self._start_at = now + self._backoff.next()

    def tick(self, now: float) -> list[Action]:
        """Return what is to be done now."""
        if not self._alive and now >= self._start_at:
            self._alive, self._since = True, now
            self._actions.append(StartProbe())
        if self._listens:
            self._ask(self.nodes.due(now), now)
        self._doubt(now)
        if now >= self._late_at():
            self._kill(f"it was silent for {PATIENCE:g} s")
        actions, self._actions = self._actions, []
        return actions

    def wake_at(self) -> float:
        """Return when `tick` has work next, if nothing happens before."""
        if not self._alive:
            return self._start_at
        due = self.nodes.wake_at() if self._listens else inf
        doubt = min(self._trusted.values(), default=inf) + DOUBT
        return min(due, doubt, self._late_at())

    def _announced(self, nodes: list[Node], now: float) -> Change | None:
        try:
            change = self.nodes.update(nodes)
        except ValueError as error:
            self._kill(f"it named nodes that cannot be: {error}")
            return None
        for name in change.gone:  # the probe has given up on it
            self._forget(name)
        if not self._listens:  # it knows nothing of what its predecessor was asked
            self._listens = True
            self._ask(list(self._asked), now)
        return change

    def _answered(self, answer: Answered, now: float) -> None:
        self._forget(answer.name)
        if answer.probe is not None:
            self.nodes.probed(answer.name, answer.probe, now)
        else:
            self.nodes.failed(
                answer.name,
                answer.why,
                now,
                silent=answer.silent,
                refused=answer.refused,
            )

    def _ask(self, names: list[str], now: float) -> None:
        if names:
            self._asked.update(dict.fromkeys(names, now))
            self._trusted.update(dict.fromkeys(names, now))
            self._actions.append(Ask(names))

    def _forget(self, name: str) -> None:
        self._asked.pop(name, None)
        self._trusted.pop(name, None)

    def _doubt(self, now: float) -> None:
        """Doubt what is known of nodes that the probe does not answer for."""
        for name, asked_at in list(self._trusted.items()):
            if now >= asked_at + DOUBT:
                del self._trusted[name]
                self.nodes.lost(name, f"not probed for {DOUBT:g} s", now)

    def _kill(self, reason: str) -> None:
        self._killed = True
        self._actions.append(KillProbe(reason))

    def _late_at(self) -> float:
        """Return when the probe has been silent for too long."""
        if not self._alive or self._killed:
            return inf
        if not self._greeted:
            return self._since + PATIENCE
        if not self._listens:
            return inf
        return min(self._asked.values(), default=inf) + PATIENCE

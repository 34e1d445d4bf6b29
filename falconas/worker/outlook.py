"""A supervisor's outlook on the nodes: its probe process, and what that has seen."""

from __future__ import annotations

import logging
import os
import random
from typing import TYPE_CHECKING

from falconas.database.inventory import only_node
from falconas.database.nodes import NodeSet
from falconas.worker.children import ProbeChild
from falconas.worker.death import describe
from falconas.worker.probing import KillProbe, ProbeBoot, Probing, StartProbe

if TYPE_CHECKING:
    from falconas.config import Settings
    from falconas.database.nodes import Change
    from falconas.worker.dealer import Dealer
    from falconas.worker.probing import Action

log = logging.getLogger(__name__)


class Outlook:
    """Has a probe process ask the nodes what they are.

    Args:
        settings: What there is to look for.
        dealer: Wakes the supervisor when the probe has something to say.

    Attributes:
        nodes: What is known.
    """

    def __init__(self, settings: Settings, dealer: Dealer) -> None:
        only = only_node(settings)
        known = [only] if only is not None else []
        self.nodes = NodeSet(known, random=random.random)
        self._probing = Probing(self.nodes, random.random)
        self._boot = ProbeBoot(settings, os.getpid())
        self._dealer = dealer
        self._child: ProbeChild | None = None

    def hear(self, now: float) -> list[Change]:
        """Take in what the probe says; return how the set of nodes changed by it."""
        if self._child is None or self._child.fileno() < 0:
            return []
        messages, more = self._child.hear()
        if not more:  # it is about to be reaped
            self._dealer.unwatch(self._child.fileno())
        changes = [self._probing.take(message, now) for message in messages]
        return [change for change in changes if change is not None]

    def reaped(self, pid: int, code: int, now: float) -> bool:
        """Note that a child is dead; False if it was not the probe."""
        child = self._child
        if child is None or child.pid != pid:
            return False
        self._dealer.unwatch(child.fileno())
        child.reaped(code)  # what it said last, its successor says anew
        self._child = None
        self._probing.exited(now)
        log.warning("the probe is replaced: %s", child.failure or describe(code))
        return True

    def tend(self, now: float) -> None:
        """Start, ask or end the probe, as is due."""
        for action in self._probing.tick(now):
            self._perform(action, now)

    def on(self, name: str) -> str:
        """Say how a node was that a worker was on, in case that is to blame."""
        if all(node.name != name for node in self.nodes):
            return f"its node {name} is gone"
        health = self.nodes.state(name).health
        if health.known and not health.up:
            return f"its node {name} is down: {health.why}"
        if health.suspect:
            return f"its node {name} is in doubt: {health.why}"
        return f"it was on node {name}"

    def wake_at(self) -> float:
        """Return when to `tend` next, if nothing happens before."""
        return self._probing.wake_at()

    def close(self) -> None:
        """Leave nobody behind."""
        if self._child is not None:
            self._child.close()

    def _perform(self, action: Action, now: float) -> None:
        if isinstance(action, StartProbe):
            self._start(now)
            return
        assert self._child is not None
        if isinstance(action, KillProbe):
            self._child.kill(action.reason)
            return
        try:
            self._child.ask(action)
        except OSError as error:
            # It is dead, or killed when it has been silent for long.
            log.debug("the probe cannot be asked: %s", error)

    def _start(self, now: float) -> None:
        try:
            self._child = ProbeChild(self._boot)
        except OSError as error:
            log.warning("the probe does not start: %s", error)
            self._probing.exited(now)
        else:
            self._dealer.watch(self._child.fileno())

"""Tells the broker and the service manager how a supervisor and its workers are."""

from __future__ import annotations

import logging
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple

from falconas.database.topology import Role
from falconas.worker.reload import DONE, FAILED, unloaded

if TYPE_CHECKING:
    from falconas.database.nodes import NodeSet
    from falconas.database.topology import Facts
    from falconas.systemd import Notifier
    from falconas.worker.control import Control
    from falconas.worker.policy import Policy
    from falconas.worker.reload import Manifest

EXTENSION = 10.0
EXTEND_INTERVAL = 5.0

log = logging.getLogger(__name__)


class NodeRow(NamedTuple):
    """What HEARTBEAT says of a node.

    Attributes:
        name: By which READY names it.
        database: Whose node it is.
        role: "primary" if it takes writes, "standby", or "unknown".
        up: It can serve.
        lag: Seconds that it is behind at most; None where nobody can tell.
        lsn: Its position in the log.
        timeline: A primary's; of a standby the one that it surely follows, 0 if nobody
            can tell.
        reason: What speaks against it, or against writes on a primary.
    """

    name: str
    database: str
    role: str
    up: bool
    lag: float | None
    lsn: int
    timeline: int
    reason: str


class Herald:
    """What was told last, and what is to be told now.

    Args:
        control: The dialogue with the broker.
        notifier: The dialogue with the service manager.
    """

    def __init__(self, control: Control, notifier: Notifier) -> None:
        self._control = control
        self._notifier = notifier
        self._reload: dict[str, Any] | None = None
        self._unloaded = ""
        self._started = False
        self._reloading = False
        self._extend_at = inf

    def serves(self, manifest: Manifest) -> None:
        """Note the scripts that new workers get."""
        self._unloaded = unloaded(manifest)

    def tell(self, policy: Policy, now: float) -> None:
        """Tell what has changed, and from time to time that all is well."""
        workers = policy.workers()
        nodes = [*rows(policy.roster.nodes, now), *dropped(policy)]
        for news in policy.reloads.take_news():
            if news["state"] == FAILED:
                log.error("reload failed: %s", news["reason"])
            elif news["state"] == DONE:
                news["reason"] = self._unloaded
                level = logging.WARNING if self._unloaded else logging.INFO
                log.log(
                    level, "reload done%s", self._unloaded and f": {self._unloaded}"
                )
            self._reload = news
            self._control.show(self._status(policy), workers, nodes)
        self._control.show(self._status(policy), workers, nodes)
        self._notify(policy, now)

    def wake_at(self) -> float:
        """Return when to `tell` again at the latest."""
        return min(self._extend_at, self._notifier.wake_at())

    def _status(self, policy: Policy) -> dict[str, Any]:
        status = {"manifest": policy.nursery.manifest, "draining": policy.draining}
        return status if self._reload is None else {**status, "reload": self._reload}

    def _notify(self, policy: Policy, now: float) -> None:
        self._notifier.beat(now)
        if policy.draining:
            if self._extend_at == inf:
                self._notifier.stopping()
                self._extend_at = now
            if now >= self._extend_at:
                self._extend_at = now + EXTEND_INTERVAL
                self._notifier.extend(EXTENSION)
        elif not self._started:
            if not policy.places.started():
                return
            self._started = True
            self._notifier.ready()
        elif policy.reloads.active != self._reloading:
            self._reloading = policy.reloads.active
            if self._reloading:
                self._notifier.reloading()
            else:
                self._notifier.ready()
        self._notifier.status(describe(policy))


def rows(nodes: NodeSet, now: float) -> list[NodeRow]:
    """Return what the broker is to know of the nodes that have been probed.

    A primary that another has outrun is down for it, and one that takes no writes, such
    as one of two that are equals, is none.
    """
    return [
        NodeRow(
            facts.name,
            facts.database,
            _role(facts, nodes),
            nodes.suits(facts.name, "read"),
            facts.lag,
            facts.lsn,
            facts.timeline,
            facts.reason,
        )
        for facts in nodes.facts(now)
        if nodes.state(facts.name).health.known
    ]


def dropped(policy: Policy) -> list[NodeRow]:
    """Return what has workers but is no node any more: nobody looks how it is."""
    known = {node.name for node in policy.roster.nodes}
    groups = policy.roster.groups
    homes = {p.node: groups[p.group].database for p in policy.places if p.worker}
    role, why = Role.UNKNOWN.value, "it is not among the nodes any more"
    return [
        NodeRow(name, database, role, False, None, 0, 0, why)
        for name, database in sorted(homes.items())
        if name not in known
    ]


def _role(facts: Facts, nodes: NodeSet) -> str:
    primary, up = facts.role is Role.PRIMARY, nodes.suits(facts.name, "read")
    if primary and up and not nodes.suits(facts.name, "write"):
        return Role.UNKNOWN.value
    return facts.role.value


def describe(policy: Policy) -> str:
    """Say in a few words how the workers are."""
    alive = [place for place in policy.places if place.pid]
    ready = sum(place.ready for place in alive)
    text = f"{ready} of {policy.places.count} workers ready"
    if policy.draining:
        return f"stopping, {len(alive)} workers left"
    return f"{text}, reloading" if policy.reloads.active else text

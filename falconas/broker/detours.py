"""What nodes change about the way of a request: news of them, and what they send back.

A request goes to any worker whose node suits. Where that worker knows better (its node
has not replayed what the request wants to see, or refuses writes), or a standby cancels
what it had begun, the request goes on with a demand, which only known facts fulfil.
What a node breaks off by ending the connection goes to any other worker.
"""

from __future__ import annotations

from typing import Any

from falconas.broker.flow import ATTEMPTS, Flow
from falconas.broker.records import Demand, Pending

REFUSED = "it refused a write as read-only"
BEHIND = "it has not replayed what it was said to have"


def report(flow: Flow, supervisor: bytes, said: Any, now: float) -> None:
    """Take in what a supervisor says of nodes."""
    if flow.pool.nodes.hear(supervisor, said):
        _refile(flow, now)


def forget(flow: Flow, supervisor: bytes, now: float) -> None:
    """Drop what a supervisor said of nodes: it is gone."""
    if flow.pool.nodes.forget(supervisor):
        _refile(flow, now)


def sweep(flow: Flow, now: float) -> None:
    """Drop doubts about nodes that nobody resolved."""
    if flow.pool.nodes.sweep(now):
        _refile(flow, now)


def returned(
    flow: Flow, pending: Pending, node: str, extras: dict[str, Any], now: float
) -> None:
    """Note what `node` lacks for a request that its worker gives back.

    A node that was believed to have it is in doubt, so the request cannot come and go.
    """
    refused = extras.get("refused") is True
    behind = extras.get("behind") is True and "min_lsn" in pending.extras
    if not refused and not behind:
        return
    flow.counters["refused_by_node" if refused else "behind"] += 1
    if pending.astray_at is None:
        pending.astray_at = now
    if not refused:
        pending.demand = max(pending.demand, Demand.REPLAYED)
        if flow.pool.lacks(node, pending):
            return
    flow.pool.nodes.doubt(node, REFUSED if refused else BEHIND, now)
    _refile(flow, now)


def repeats(flow: Flow, pending: Pending, extras: dict[str, Any], now: float) -> bool:
    """Try once more what a node broke off: what recovery cancelled, on the primary."""
    conflict = extras.pop("conflict", None) is True
    lost = extras.pop("lost", None) is True
    if not conflict and not lost:
        return False
    wanted = not pending.answered and not pending.cancelled and now < pending.deadline
    idempotent = pending.info is not None and pending.info.idempotent
    if not wanted or not idempotent or pending.attempt >= ATTEMPTS:
        return False
    before = pending.demand
    pending.demand = Demand.PRIMARY if conflict else before
    if not flow.pool.is_served(flow.pool.key_of(pending)):
        pending.demand = before
        return False
    pending.attempt += 1
    flow.counters["attempts_repeated"] += 1
    flow.again(pending, now)
    return True


def _refile(flow: Flow, now: float) -> None:
    """File anew what the facts of nodes decide on otherwise now.

    Facts change each second, routes hardly ever: then only what waits for a node to
    have replayed something has to be looked at.
    """
    if flow.pool.regrade():
        flow.refile(now)
    elif strays := flow.backlog.astray(flow.pool.key_of):
        flow.move(strays, now)

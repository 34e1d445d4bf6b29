"""Ends that no answer brings: time is up, or nobody wants a request any more."""

from __future__ import annotations

from math import inf

from falconas.broker import verdicts
from falconas.broker.flow import RECOUNT, VERDICT_GRACE, Flow
from falconas.broker.records import Peer, Pending, Send, Socket
from falconas.protocol import Cancel


def tick(flow: Flow, now: float) -> None:
    """Take back what has lost its lease, and end what has no time left."""
    while due := flow.expiry.take(now):
        _due(flow, due, now)
    for pending in flow.patience.over(now):
        _give_up(flow, pending, now)


def cancel(flow: Flow, pending: Pending, now: float) -> None:
    """End a request that waits; let one that is in hand be dropped or interrupted.

    A worker that runs a script does not read: its supervisor interrupts it. The
    deadline of the request is now.
    """
    if pending.cancelled:
        return
    pending.cancelled = True
    worker = pending.worker
    if worker is None:
        flow.end(pending, verdicts.cancelled(pending), now)
        return
    pending.deadline = min(pending.deadline, now)
    pending.start_by = inf
    flow.expiry.set(pending, pending.deadline + VERDICT_GRACE)
    if worker.dead:
        return  # and its answer perhaps on its way
    message = Cancel(pending.dispatch, {})
    flow.sends.append(Send(Socket.BACKEND, worker.identity, (), message, b""))
    supervisor = flow.hosts.supervisors.get(worker.supervisor)
    if supervisor is not None:
        message = Cancel(pending.dispatch, {"worker": worker.uuid})
        to = supervisor.identity
        flow.sends.append(Send(Socket.CONTROL, to, (), message, b""))


def abandon(flow: Flow, now: float) -> None:
    """End every request: the broker stops."""
    in_hand = [p for w in flow.pool.by_uuid.values() for p in w.hands.values()]
    for pending in [*flow.backlog, *in_hand]:
        if not pending.answered:
            flow.end(pending, verdicts.abandoned(pending), now)


def _due(flow: Flow, due: list[Pending], now: float) -> None:
    """Take back what has lost its lease, and end what has no time left.

    The first in hand may run: what was ahead of it has been answered. A worker
    that is silent for so long is as good as lost for what is behind that: should
    answers be on their way, something of it may have been started.
    """
    leases = [p for p in due if p.worker is not None and p.start_by < inf]
    over = [p for p in due if p.worker is None or p.start_by == inf]
    lapsed = [pending for pending in leases if not _is_first(pending)]
    for pending in leases:
        pending.start_by = inf
        if pending not in lapsed:
            flow.expiry.set(pending, pending.deadline + VERDICT_GRACE)
    flow.revoke(lapsed)
    flow.counters["revoked"] += len(lapsed)
    for pending in lapsed:
        pending.attempt += 1
        flow.again(pending, now)
    for pending in over:
        end = pending.due if pending.queue is None else flow.patience.end(pending)
        if end > pending.due:  # a worker has come since
            flow.expiry.set(pending, end)
        else:
            _give_up(flow, pending, now)


def _give_up(flow: Flow, pending: Pending, now: float) -> None:
    """End a request whose time is up."""
    if pending.worker is not None:
        cancelled = pending.cancelled
        error = (verdicts.cancelled if cancelled else verdicts.silent)(pending)
        # It may have dropped the request, and would count as busy for ever.
        peer = Peer(Socket.BACKEND, pending.worker.identity)
        flow.welcome(peer, RECOUNT, now)
    elif flow.patience.end(pending) >= pending.deadline:
        error = verdicts.expired(pending)
    else:
        script = pending.script
        info = flow.pool.info(script) if flow.hosts.offers(script) else None
        nodes, wait = flow.pool.objections(pending), flow.settings.worker_wait
        error = verdicts.unserved(pending, info, nodes, wait)
    flow.end(pending, error, now)


def _is_first(pending: Pending) -> bool:
    assert pending.worker is not None
    return next(iter(pending.worker.hands)) == pending.dispatch

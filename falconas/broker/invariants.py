"""What must hold of a broker's state after each stimulus; for tests and debugging.

It looks at everything, so it is not for the loop of a production broker.
"""

from __future__ import annotations

from math import inf, isclose

from falconas.broker.backlog import DEMANDING
from falconas.broker.core import BrokerCore
from falconas.broker.flow import VERDICT_GRACE
from falconas.broker.prefetch import DEPTH, MARGIN
from falconas.broker.records import Lane, Worker


def check_invariants(core: BrokerCore) -> None:
    """Raise AssertionError where the state contradicts itself."""
    flow = core.flow
    waiting = list(flow.backlog)
    in_hand = [p for w in flow.pool.by_uuid.values() for p in w.hands.values()]
    places = [*waiting, *in_hand]
    assert len({p.number for p in places}) == len(places), "in two places"

    unanswered = {p.number for p in places if not p.answered}
    owed = [p for c in flow.clients.everyone() for p in c.pending.values()]
    assert {p.number for p in owed} <= unanswered, "owed but nowhere: lost"
    for pending in places:
        client = pending.client
        if not pending.answered:
            assert client.pending.get(pending.origin) is pending, (
                "verdict would be lost"
            )
            assert pending in flow.expiry, "no timer: could hang"
    assert flow.open == len(unanswered), "timer of an ended request"
    for client in flow.clients.everyone():
        assert client.session or client.pending, "a bare client is kept for nothing"

    _check_backlog(core)
    _check_pool(core)


def _check_backlog(core: BrokerCore) -> None:
    flow = core.flow
    backlog, pool = flow.backlog, flow.pool
    waiting = list(backlog)
    assert backlog.count == len(waiting), "backlog miscounted"
    assert backlog.bytes == sum(p.size for p in waiting), "bytes miscounted"
    for key, queue in backlog.queues.items():
        assert len(queue) > 0, "an empty queue was kept"
        assert queue.key == key, "a queue under another's key"
        served = pool.is_served(key)
        assert served == (queue.alone_at is None), "believed to be served, or not"
        timer = flow.patience.timer(queue)
        demanding = {p.number for p in queue if p.demanding}
        assert queue.kinds.get(DEMANDING, {}).keys() == demanding, "would miss the news"
        held_back = any(pool.is_quarantined(p.script) for p in queue)
        assert key or not held_back, "waits though it is quarantined"
        for pending in queue:
            assert pending.queue is queue, "lies elsewhere than it believes"
            assert pending.worker is None, "waits and is in hand"
            assert not pending.answered, "ended but waits"
            assert pool.key_of(pending) == key, "in the wrong queue"
            end = flow.patience.end(pending)
            assert min(pending.due, timer) <= end, "given up too late"
            alike = queue.kinds.get(pending.kind, {})
            assert alike.get(pending.number) is pending, "of another kind"
        for lane in key:
            assert not pool.lanes[lane].idle, "a request waits beside an idle worker"


def _check_pool(core: BrokerCore) -> None:
    pool = core.flow.pool
    workers = set(pool.by_uuid.values())
    assert set(pool.by_identity.values()) == workers, "worker known by halves"
    housed = {worker for lane in pool.lanes.values() for worker in lane.workers}
    assert housed == workers, "a worker without a lane"
    for script, route in list(pool.routes.items()):
        del pool.routes[script]
        assert pool.route(script) == route, "a route of before"
    for key, lane in pool.lanes.items():
        assert lane.workers, "an empty lane was kept"
        assert lane.ready == sum(w.ready for w in lane.workers), "ready miscounted"
        idle = {w for w in lane.workers if w.ready and not w.hands}
        assert set(lane.idle) == idle, "idle workers are not those that could work"
        assert list(lane.idle.values()) == sorted(lane.idle.values()), "not LRU"
        for worker in lane.workers:
            assert worker.lane == key, "in another's lane"
            assert pool.by_uuid[worker.uuid] is worker, "under another's uuid"
            link = worker.identity
            assert pool.by_identity[link] is worker, "under another's connection"
            assert not (worker.dead and worker.ready), "the dead cannot serve"
            for dispatch, pending in worker.hands.items():
                assert pending.worker is worker, "in hand, but whose?"
                assert pending.dispatch == dispatch, "under another's dispatch id"
                assert pending.queue is None, "in hand and waits"
                due = pending.deadline + VERDICT_GRACE
                if pending.start_by < inf:
                    due = min(due, pending.start_by + MARGIN)
                assert pending.answered or pending.due == due, (
                    "a wrong time for the broker's own verdict"
                )
            _check_hands(lane, worker)


def _check_hands(lane: Lane, worker: Worker) -> None:
    hands = list(worker.hands.values())
    assert sorted(worker.hands) == [*worker.hands], "not in the order of dispatch"
    load = sum(pending.expected for pending in hands)
    assert load == worker.load or isclose(load, worker.load, abs_tol=1e-9), (
        "load miscounted"
    )
    if len(hands) > 1:
        assert len(hands) <= DEPTH, "too many in hand"
        assert load <= lane.horizon + 1e-9, "too much in hand"
        behind = [pending.info for pending in hands]
        assert all(i and i.idempotent for i in behind), "more than one in hand"
        assert all(p.attempt == 1 for p in hands[1:]), "a suspect behind others"
    if worker in lane.spare:
        assert worker.ready, "spare, but not ready"
        assert 0 < len(hands) < DEPTH, "spare, but idle or full"
        assert load < lane.horizon + 1e-9, "spare, but laden"

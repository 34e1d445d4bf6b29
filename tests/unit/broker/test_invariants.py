"""Does the check see a contradiction? Each is planted into a sound state."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

import pytest

from falconas.broker.invariants import check_invariants
from falconas.broker.quarantine import Suspect
from falconas.broker.records import Demand, Pending, Worker
from tests.unit.broker.desk import Desk, serving


@pytest.fixture
def desk() -> Desk:
    """One request in hand at w1, one that waits; w2 not ready, w3 and w4 idle."""
    desk = serving("w1")
    desk.worker("w2", ready=False)
    desk.register("n", {"only_n": {}}, uuid=b"T" * 16)
    desk.worker("w3", manifest="n")
    desk.worker("w4", manifest="n")
    desk.ask(body=b"1")
    desk.ask(body=b"2")
    desk.take()
    return desk


def waiting(desk: Desk) -> Pending:
    return next(iter(desk.flow.backlog))


def in_hand(desk: Desk) -> Pending:
    return next(iter(desk.known("w1").hands.values()))


def two_places(desk: Desk) -> None:
    desk.known("w3").hands[b"x"] = in_hand(desk)


def lost(desk: Desk) -> None:
    del desk.known("w1").hands[in_hand(desk).dispatch]


def not_owed(desk: Desk) -> None:
    request = in_hand(desk)
    del request.client.pending[request.origin]


def no_timer(desk: Desk) -> None:
    desk.flow.expiry.clear(waiting(desk))


def timer_too_many(desk: Desk) -> None:
    request = in_hand(desk)
    request.answered = True
    del request.client.pending[request.origin]


def idle_client(desk: Desk) -> None:
    desk.flow.clients.of(b"nobody", desk.now)


def backlog_count(desk: Desk) -> None:
    desk.flow.backlog.count += 1


def backlog_bytes(desk: Desk) -> None:
    desk.flow.backlog.bytes -= 1


def empty_queue(desk: Desk) -> None:
    queue = waiting(desk).queue
    key = frozenset({desk.known("w3").lane})
    desk.flow.backlog.queues[key] = type(queue)(key)


def wrong_key(desk: Desk) -> None:
    waiting(desk).queue.key = frozenset()


def wrong_queue(desk: Desk) -> None:
    waiting(desk).script = "only_n"


def elsewhere(desk: Desk) -> None:
    waiting(desk).queue = None


def waits_in_hand(desk: Desk) -> None:
    waiting(desk).worker = desk.known("w3")


def ended_waits(desk: Desk) -> None:
    request = waiting(desk)
    request.answered = True
    del request.client.pending[request.origin]
    desk.flow.expiry.clear(request)


def news_missed(desk: Desk) -> None:
    desk.pool.set_ready(desk.known("w1"), False)


def too_late(desk: Desk) -> None:
    desk.flow.expiry.set(waiting(desk), 1e6)


def wrong_kind(desk: Desk) -> None:
    kinds = waiting(desk).queue.kinds
    kinds["other",] = kinds.pop(("read",))


def idle_beside_queue(desk: Desk) -> None:
    desk.pool.set_ready(desk.known("w2"), True)
    desk.pool.set_idle(desk.known("w2"), desk.now)


def by_halves(desk: Desk) -> None:
    del desk.pool.by_identity[b"w3"]


def homeless(desk: Desk) -> None:
    worker = desk.known("w3")
    desk.pool.lanes[worker.lane].workers.remove(worker)


def empty_lane(desk: Desk) -> None:
    lane = desk.pool.lanes[desk.known("w3").lane]
    key = lane.key._replace(group="none")
    desk.pool.lanes[key] = type(lane)(key, {})


def ready_count(desk: Desk) -> None:
    desk.pool.lanes[desk.known("w3").lane].ready -= 1


def forgotten_idle(desk: Desk) -> None:
    desk.pool.lanes[desk.known("w3").lane].idle.clear()


def idle_order(desk: Desk) -> None:
    idle = desk.pool.lanes[desk.known("w3").lane].idle
    idle[desk.known("w4")] = 1.0


def wrong_lane(desk: Desk) -> None:
    desk.known("w3").lane = desk.known("w1").lane


def wrong_uuid(desk: Desk) -> None:
    uuids = desk.pool.by_uuid
    one, other = desk.known("w3"), desk.known("w4")
    uuids[one.uuid], uuids[other.uuid] = other, one


def wrong_identity(desk: Desk) -> None:
    links = desk.pool.by_identity
    links[b"w3"], links[b"w4"] = links[b"w4"], links[b"w3"]


def two_in_hand(desk: Desk) -> None:
    request = waiting(desk)
    desk.flow.backlog.remove(request)
    request.worker, request.dispatch = desk.known("w1"), b"x"
    request.start_by = request.expected = inf
    desk.known("w1").hands[b"x"] = request
    desk.flow.expiry.set(request, request.deadline + 0.7)


def whose(desk: Desk) -> None:
    in_hand(desk).worker = None


def wrong_dispatch(desk: Desk) -> None:
    in_hand(desk).dispatch = b"x"


def hand_in_queue(desk: Desk) -> None:
    in_hand(desk).queue = waiting(desk).queue


def wrong_grace(desk: Desk) -> None:
    request = in_hand(desk)
    desk.flow.expiry.set(request, request.deadline)


def held_back(desk: Desk) -> None:
    request = waiting(desk)
    request.queue.key = frozenset()
    desk.flow.backlog.queues = {frozenset(): request.queue}
    suspect = Suspect("m", request.script)
    desk.pool.quarantine.since[suspect] = desk.now
    desk.flow.patience.look(request.queue, desk.now)
    desk.pool.routes.clear()


def dead_at_work(desk: Desk) -> None:
    desk.known("w3").dead = True


def not_demanding(desk: Desk) -> None:
    waiting(desk).demand = Demand.PRIMARY


def stale_route(desk: Desk) -> None:
    desk.pool.routes["only_n"] = frozenset()


PLANTED: dict[Callable[[Desk], None], str] = {
    two_places: "in two places",
    lost: "owed but nowhere",
    not_owed: "verdict would be lost",
    no_timer: "no timer",
    timer_too_many: "timer of an ended request",
    idle_client: "kept for nothing",
    backlog_count: "backlog miscounted",
    backlog_bytes: "bytes miscounted",
    empty_queue: "an empty queue was kept",
    wrong_key: "a queue under another's key",
    wrong_queue: "in the wrong queue",
    elsewhere: "lies elsewhere",
    waits_in_hand: "waits and is in hand",
    ended_waits: "ended but waits",
    not_demanding: "would miss the news",
    stale_route: "a route of before",
    news_missed: "believed to be served",
    wrong_kind: "of another kind",
    too_late: "given up too late",
    idle_beside_queue: "beside an idle worker",
    by_halves: "known by halves",
    homeless: "a worker without a lane",
    empty_lane: "an empty lane was kept",
    ready_count: "ready miscounted",
    forgotten_idle: "idle workers are not",
    idle_order: "not LRU",
    wrong_lane: "in another's lane",
    wrong_uuid: "under another's uuid",
    wrong_identity: "under another's connection",
    held_back: "waits though it is quarantined",
    two_in_hand: "too much in hand",
    dead_at_work: "the dead cannot serve",
    whose: "in hand, but whose",
    wrong_dispatch: "under another's dispatch id",
    hand_in_queue: "in hand and waits",
    wrong_grace: "a wrong time for the broker's own verdict",
}


def test_a_sound_state_passes(desk: Desk) -> None:
    check_invariants(desk.core)
    worker = desk.known("w1")
    desk.tick(100.0)  # given up, but still in the worker's hands
    assert isinstance(worker, Worker)
    check_invariants(desk.core)


def test_a_given_up_request_stays_in_hand(desk: Desk) -> None:
    desk.worker("w1", supervisor=b"U" * 16, holding=[*desk.known("w1").hands])
    desk.tick(100.0)

    assert in_hand(desk).answered
    check_invariants(desk.core)


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: str(plant.__name__))
def test_a_contradiction_is_seen(desk: Desk, plant: Callable[[Desk], None]) -> None:
    plant(desk)

    with pytest.raises(AssertionError, match=PLANTED[plant]):
        check_invariants(desk.core)

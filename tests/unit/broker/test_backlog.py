from __future__ import annotations

from falconas.broker.backlog import BOOST, TAKEN_BACK, Backlog, Queue, QueueKey
from falconas.broker.records import Client, Demand, LaneKey, Pending
from tests.unit.broker.desk import pending

A, B = LaneKey("a", "default", ""), LaneKey("b", "default", "")
ONE, OTHER = Client(b"1", b"1", session=False), Client(b"2", b"2", session=False)


def pop(backlog: Backlog, lane: LaneKey) -> Pending | None:
    queue = backlog.queue_of(lane)
    return None if queue is None else backlog.pop(queue)


def order(queue: Queue) -> list[int]:
    return [queue.pop().number for _ in range(len(queue))]


def test_one_client_is_served_in_its_order() -> None:
    queue = Queue(frozenset({A}))
    for number in (1, 2, 3):
        queue.push(pending(number, client=ONE))

    assert order(queue) == [1, 2, 3]


def test_a_client_with_many_requests_delays_another_by_one_place() -> None:
    queue = Queue(frozenset({A}))
    for number in range(1, 6):
        queue.push(pending(number, client=ONE))
    queue.push(pending(6, client=OTHER))

    assert order(queue) == [1, 6, 2, 3, 4, 5]


def test_clients_take_turns() -> None:
    queue = Queue(frozenset({A}))
    for number in range(1, 4):
        queue.push(pending(number, client=ONE))
    assert queue.pop().number == 1
    for number in range(4, 7):
        queue.push(pending(number, client=OTHER))

    assert order(queue) == [2, 4, 3, 5, 6]


def test_what_was_handed_out_before_is_first_whatever_its_client_has() -> None:
    queue = Queue(frozenset({A}))
    queue.push(pending(2, client=ONE))
    queue.push(pending(3, client=OTHER, priority=3))
    queue.push(pending(1, client=ONE), TAKEN_BACK)

    assert order(queue) == [1, 3, 2]


def test_a_higher_priority_is_first() -> None:
    queue = Queue(frozenset({A}))
    queue.push(pending(1, client=ONE))
    queue.push(pending(2, client=OTHER, priority=1))

    assert order(queue) == [2, 1]


def test_a_low_priority_ages() -> None:
    queue = Queue(frozenset({A}))
    queue.push(pending(1, client=ONE, priority=-1))
    served = 0
    for number in range(2, 2 * BOOST + 100):
        queue.push(pending(number, client=Client(b"", b"", session=False)))
        if queue.pop().number == 1:
            break
        served += 1

    assert BOOST - 2 <= served <= BOOST + 2


def test_removed_requests_are_skipped_and_swept() -> None:
    queue = Queue(frozenset({A}))
    requests = [pending(number, client=ONE) for number in range(1, 201)]
    for request in requests:
        queue.push(request)
    queue.remove(requests[0])
    assert queue.head() == (1, 2.0, 2)
    queue.remove(requests[1])
    assert queue.pop() is requests[2]
    for request in requests[3:-1]:
        queue.remove(request)

    assert len(queue._heap) < 100
    assert [*queue] == [requests[-1]]
    assert order(queue) == [200]
    assert not queue._turns


def test_pop_steps_over_what_was_removed() -> None:
    queue = Queue(frozenset({A}))
    first, second = pending(1, client=ONE), pending(2, client=ONE)
    queue.push(first)
    queue.push(second)
    queue.remove(first)

    assert queue.pop() is second


def test_bounds_of_count_and_bytes() -> None:
    backlog = Backlog(2, 10)
    assert backlog.has_room(10)
    assert not backlog.has_room(11)
    backlog.push(pending(1, client=ONE, size=4), frozenset({A}))
    assert backlog.has_room(6)
    assert not backlog.has_room(7)
    backlog.push(pending(2, client=ONE, size=4), frozenset({A}))
    assert not backlog.has_room(0)
    assert (backlog.count, backlog.bytes) == (2, 8)


def test_a_lane_gets_what_it_can_serve_the_oldest_first() -> None:
    backlog = Backlog(9, 999)
    only_b = pending(1, client=ONE, size=1)
    both = pending(2, client=ONE, size=2)
    only_a = pending(3, client=ONE, size=3)
    backlog.push(only_b, frozenset({B}))
    backlog.push(only_a, frozenset({A}))
    backlog.push(both, frozenset({A, B}))

    assert pop(backlog, A) is both
    assert pop(backlog, A) is only_a
    assert pop(backlog, A) is None
    assert (backlog.count, backlog.bytes, both.queue) == (1, 1, None)
    assert pop(backlog, B) is only_b
    assert not backlog.queues


def test_the_oldest_of_two_queues_is_first_in_either_order() -> None:
    backlog = Backlog(9, 999)
    backlog.push(pending(1, client=ONE), frozenset({A}))
    backlog.push(pending(2, client=ONE), frozenset({A, B}))

    served = [pop(backlog, A), pop(backlog, A)]

    assert [request.number for request in served if request] == [1, 2]


def test_a_request_can_be_removed() -> None:
    backlog = Backlog(9, 999)
    request, other = pending(1, client=ONE, size=1), pending(2, client=ONE, size=2)
    backlog.push(request, frozenset({A}))
    backlog.push(other, frozenset({A}))

    backlog.remove(request)

    assert [*backlog] == [other]
    assert (backlog.count, backlog.bytes, request.queue) == (1, 2, None)


def test_of_what_was_handed_out_before_the_oldest_is_first() -> None:
    queue = Queue(frozenset({A}))
    for number in (3, 4, 5):
        queue.push(pending(number, client=ONE))
    queue.push(pending(2, client=OTHER), TAKEN_BACK)
    queue.push(pending(1, client=ONE), TAKEN_BACK)

    assert order(queue) == [1, 2, 3, 4, 5]


LANES = frozenset({A}), frozenset({B})


def test_what_has_another_way_goes_there_in_its_order() -> None:
    backlog = Backlog(9, 999)
    for number in (3, 1, 2, 4):
        script = "write" if number == 4 else "read"
        request = pending(number, client=ONE, script=script, size=number)
        backlog.push(request, LANES[0])
    asked: list[str] = []

    def key_of(request: Pending) -> QueueKey:
        asked.append(request.script)
        return LANES[request.script == "read"]

    strays = backlog.strays(key_of)
    assert sorted(asked) == ["read", "write"]  # nobody looks at each request
    backlog.move(strays, key_of)

    assert {key: len(queue) for key, queue in backlog.queues.items()} == {
        LANES[0]: 1,
        LANES[1]: 3,
    }
    assert (backlog.count, backlog.bytes) == (4, 10)
    popped = [pop(backlog, B) for _ in range(3)]
    assert [request.number for request in popped if request] == [1, 2, 3]
    assert backlog.strays(key_of) == []


def test_what_demands_something_is_looked_at_by_itself_and_stays_ahead() -> None:
    backlog = Backlog(9, 999)
    demanding = [pending(n, client=OTHER, demand=Demand.REPLAYED) for n in (3, 4)]
    for request in (pending(2, client=ONE), *demanding):
        backlog.push(request, LANES[0])

    def key_of(request: Pending) -> QueueKey:
        return LANES[request.number != 4]

    assert backlog.astray(key_of) == [demanding[0]]
    backlog.move(backlog.strays(key_of), key_of)

    assert [request.number for request in backlog.queues[LANES[0]]] == [4]
    first, second = pop(backlog, B), pop(backlog, B)
    assert first is demanding[0]
    assert second
    assert second.number == 2


def test_positions_make_another_kind_of_request() -> None:
    backlog = Backlog(9, 999)
    lsns = [None, {"main": 0}, {"main": 7}, {"main": 8}]
    for number, lsn in enumerate(lsns):
        extras = {"min_lsn": lsn}
        request = pending(number, client=ONE, extras=extras, demand=Demand.COMPARABLE)
        backlog.push(request, LANES[0])

    strays = backlog.strays(lambda request: LANES[request.number > 1])

    assert [request.number for request in strays] == [2, 3]


def test_requests_that_news_of_nodes_may_release_are_at_hand() -> None:
    backlog = Backlog(10, 100)
    lane = frozenset({A})
    for number in range(1, 5):
        request = pending(number, client=Client(b"c", b"c", session=False))
        request.demand = Demand.REPLAYED if number > 1 else Demand.NOTHING
        backlog.push(request, lane)
    assert [request.number for request in backlog.demanding] == [2, 3, 4]

    backlog.remove(backlog.demanding[1])
    first, second = pop(backlog, A), pop(backlog, A)

    assert first
    assert second
    assert (first.number, second.number) == (1, 2)
    assert [request.number for request in backlog.demanding] == [4]
    last = pop(backlog, A)
    assert last
    assert last.number == 4
    assert backlog.demanding == []


def test_what_goes_elsewhere_as_a_whole_is_not_touched() -> None:
    backlog = Backlog(9, 999)
    for number in (1, 2, 3):
        script = "read" if number < 3 else "write"
        backlog.push(pending(number, client=ONE, script=script), LANES[0])
    backlog.push(pending(4, client=ONE, demand=Demand.REPLAYED), LANES[0])
    (queue,) = backlog.queues.values()
    asked: list[int] = []

    def key_of(request: Pending) -> QueueKey:
        asked.append(request.number)
        return LANES[1]

    assert backlog.rename(key_of)

    assert sorted(asked) == [1, 3, 4]
    assert backlog.queues == {LANES[1]: queue}
    assert queue.key == LANES[1]
    assert not backlog.strays(key_of)
    assert not backlog.rename(key_of)


def test_a_queue_follows_nobody_where_not_all_goes_or_another_is() -> None:
    backlog = Backlog(9, 999)
    for number, script in ((1, "read"), (2, "write")):
        backlog.push(pending(number, client=ONE, script=script), LANES[0])
    assert not backlog.rename(lambda request: LANES[request.script == "read"])
    backlog.push(pending(3, client=ONE), LANES[1])

    assert not backlog.rename(lambda _: LANES[1])

    assert [len(backlog.queues[key]) for key in LANES] == [2, 1]


def test_what_is_waited_for() -> None:
    backlog = Backlog(9, 999)
    for number, script in ((1, "read"), (2, "read"), (3, "write")):
        backlog.push(pending(number, client=ONE, script=script), LANES[0])
    special = pending(4, client=ONE, script="other", demand=Demand.PRIMARY)
    backlog.push(special, LANES[1])
    assert backlog.scripts == {"read", "write", "other"}

    backlog.remove(special)
    for _ in range(2):
        pop(backlog, A)

    assert backlog.scripts == {"write"}

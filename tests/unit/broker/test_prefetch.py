"""What a worker gets ahead of its turn, and what becomes of it."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falconas.broker import prefetch
from falconas.broker.prefetch import (
    DEPTH,
    LEASE,
    MARGIN,
    OUTLIER,
    OVERHEAD,
    REST,
    SHARE,
    SILENCE,
)
from falconas.broker.records import (
    Demand,
    Lane,
    LaneKey,
    Peer,
    ScriptInfo,
    Send,
    Socket,
    Worker,
)
from falconas.errors import Code
from falconas.protocol import Cancel, Reply, Request
from tests.unit.broker.desk import Desk, pending, serving

SHORT = 100
HORIZON = 0.002
FEW = int(HORIZON / (SHORT * 1e-6 + OVERHEAD))  # that fit in


def trained(*names: str, run_us: int = SHORT, **settings: float) -> Desk:
    """Return a desk whose workers have answered `read` in so short a time."""
    limits = {"queue_requests": 99, "client_requests": 99, "ahead": HORIZON} | settings
    desk = serving(**limits)
    for name in names:
        desk.worker(name)
    desk.ask("read")
    desk.reply(desk.handed(), run_us=run_us)
    desk.take()
    return desk


def ask(desk: Desk, count: int, script: str = "read") -> list[Send]:
    """Ask so often; return what the workers are sent."""
    for _ in range(count):
        desk.ask(script)
    return requests(desk)


def requests(desk: Desk) -> list[Send]:
    return [s for s in desk.take() if isinstance(s.message, Request)]


def request(send: Send) -> Request:
    assert isinstance(send.message, Request)
    return send.message


def origin(send: Send) -> object:
    return request(send).extras["origin"]


def ahead(sends: list[Send]) -> list[int]:
    return [request(send).extras.get("ahead", 0) for send in sends]


def lane(*, idempotent: bool = True) -> Lane:
    return Lane(
        LaneKey("m", "g", "n"),
        {"read": ScriptInfo("read", idempotent)},
        horizon=HORIZON,
    )


def test_a_busy_worker_gets_short_work_ahead_of_its_turn_under_a_lease() -> None:
    desk = trained("w1")
    first, second, third = ask(desk, 3)

    assert ahead([first, second, third]) == [0, 1, 2]
    assert "start_by" not in request(first).extras
    assert request(first).extras["ahead"] == 0, "others may follow"
    assert request(second).extras["start_by"] == desk.now + LEASE
    assert desk.flow.counters["ahead"] == 2


def test_not_while_somebody_is_idle() -> None:
    desk = trained("w1", "w2", "w3")

    sends = ask(desk, 5)

    assert ahead(sends) == [0, 0, 0, 1, 1]
    assert len({send.identity for send in sends[:3]}) == 3
    assert sends[3].identity != sends[4].identity, "not in turn"


def test_no_more_than_is_done_in_a_moment() -> None:
    desk = trained("w1")

    sends = ask(desk, FEW + 5)

    assert len(sends) == FEW
    assert desk.flow.backlog.count == 5
    desk.reply(sends[0], run_us=SHORT)
    assert ahead(requests(desk)) == [FEW - 1]


def test_no_more_than_so_many() -> None:
    desk = trained("w1", run_us=0)
    assert len(ask(desk, DEPTH + 5)) == DEPTH


@pytest.mark.parametrize("script", ["write", "brief"])
def test_what_is_not_idempotent_or_not_known_waits_its_turn(script: str) -> None:
    desk = trained("w1")
    (first,) = ask(desk, 1)

    assert ask(desk, 1, script) == []
    assert ask(desk, 1) == [], "past what waits already"

    desk.reply(first, run_us=SHORT)
    (send,) = requests(desk)
    assert request(send).script == script
    assert "start_by" not in request(send).extras
    desk.reply(send, run_us=SHORT)
    assert [request(s).script for s in requests(desk)] == ["read"]


def test_nothing_goes_past_what_waits_for_some_of_its_workers() -> None:
    desk = trained("w1")
    desk.register("n", {"read": {"idempotent": True}}, uuid=b"T" * 16)
    desk.worker("w2", manifest="n", supervisor=b"T" * 16)
    assert ask(desk, 2)
    assert ask(desk, 1, "write") == [], "only w1 can run it, and is at something"

    assert ask(desk, 1) == []


def test_nothing_goes_behind_a_write() -> None:
    desk = trained("w1")
    (write,) = ask(desk, 1, "write")
    assert "ahead" not in request(write).extras
    assert ask(desk, 2) == []


def test_what_takes_long_is_not_handed_out_ahead() -> None:
    desk = trained("w1", run_us=int(HORIZON * 1e6))
    assert len(ask(desk, 3)) == 1


def test_what_demands_something_of_nodes_waits_its_turn() -> None:
    desk = trained("w1")
    assert len(ask(desk, 1)) == 1
    desk.ask("read", min_lsn={"main": 5})
    assert requests(desk) == []


def test_what_is_given_back_goes_elsewhere_and_its_worker_gets_no_more() -> None:
    desk = trained("w1")
    first, second = ask(desk, 2)
    desk.worker("w2")

    desk.give_back(second)

    (again,) = requests(desk)
    assert again.identity != second.identity
    assert request(again).extras["attempt"] == 1
    assert "start_by" not in request(again).extras
    assert ahead(ask(desk, 1)) == [1], "not to the one that is slow"
    desk.reply(again, run_us=SHORT)
    desk.reply(first, run_us=SHORT)
    assert ahead(ask(desk, 3)) == [0, 1, 1]


def test_a_worker_that_is_silent_for_long_gets_no_more_until_it_answers() -> None:
    desk = trained("w1")
    (first,) = ask(desk, 1)
    desk.tick(SILENCE + 0.001)
    assert ask(desk, 1) == []
    desk.reply(first, run_us=SHORT)
    assert ahead(requests(desk)) == [0]
    assert ahead(ask(desk, 1)) == [1]


def test_who_is_silent_does_not_stand_before_the_others() -> None:
    desk = trained("w1", "w2")
    one, other = ask(desk, 2)
    desk.tick(SILENCE + 0.001)
    assert ask(desk, 1) == []
    desk.reply(other, run_us=SHORT)
    assert len(requests(desk)) == 1
    assert [send.identity for send in ask(desk, 2)] == [other.identity] * 2
    assert one.identity != other.identity


def test_what_another_broker_had_handed_out_says_nothing_of_ours() -> None:
    desk = trained("w1")
    ask(desk, 2)
    desk.worker("w2")
    desk.lost("w1", b"zzzzzzzz" + bytes(8))
    assert desk.flow.counters["attempts_repeated"] == 0
    assert {request(s).extras["attempt"] for s in requests(desk)} == {1}


def test_a_worker_that_is_silent_loses_what_it_cannot_have_started() -> None:
    desk = trained("w1")
    first, second, third = ask(desk, 3)
    desk.worker("w2")

    desk.tick(LEASE + MARGIN + 0.011)

    again = requests(desk)
    assert [origin(s) for s in again] == [origin(s) for s in (second, third)][:1]
    assert again[0].identity != second.identity
    assert request(again[0]).extras["attempt"] == 2
    assert desk.flow.counters["revoked"] == 2
    assert first.message.id in desk.known("w1").hands
    desk.reply(second, run_us=SHORT)  # it had begun after all: too late
    assert desk.flow.counters["stale_replies"] == 1


def test_what_may_run_is_left_to_its_worker() -> None:
    desk = trained("w1")
    first, second = ask(desk, 2)
    desk.reply(first, run_us=SHORT)

    desk.tick(LEASE + MARGIN + 0.011)

    assert requests(desk) == []
    assert desk.flow.counters["revoked"] == 0
    desk.reply(second, run_us=300_000)
    assert desk.verdict()[1] is Code.OK


def test_a_deadline_ends_what_waits_behind_a_long_one() -> None:
    desk = trained("w1")
    ask(desk, 1)
    desk.ask("read", budget=0.2)
    assert len(requests(desk)) == 1
    desk.tick(LEASE + MARGIN + 0.011)
    _, code, body = desk.verdict()
    assert code is Code.DEADLINE_EXCEEDED
    assert body["started"] == "unknown"


def test_a_lost_worker_had_started_what_came_before_and_nothing_behind() -> None:
    desk = trained("w1")
    first, second, third = ask(desk, 3)
    desk.worker("w2")

    desk.lost("w1", second.message.id)

    again = {origin(s): request(s).extras for s in requests(desk)}
    while len(again) < 3:  # they wait their turn
        (send,) = [*desk.known("w2").hands.values()]
        desk.reply(Send(Socket.BACKEND, b"w2", (), _request(send.dispatch), b""))
        again |= {origin(s): request(s).extras for s in requests(desk)}
    attempts = [again[origin(s)]["attempt"] for s in (first, second)]
    assert attempts == [2, 2]
    assert again[origin(third)]["attempt"] == 1


def _request(dispatch: bytes) -> Request:
    return Request(dispatch, "read", None, {})


def test_a_worker_that_comes_back_keeps_what_it_holds() -> None:
    desk = trained("w1")
    first, second, third = ask(desk, 3)

    desk.worker("w1", link="new", holding=[first.message.id])

    assert desk.known("w1").hands.keys() == {first.message.id}
    assert desk.flow.backlog.count == 2
    desk.reply(first, "new", run_us=SHORT)
    sends = requests(desk)
    assert [origin(s) for s in sends] == [origin(s) for s in (second, third)]


def test_a_cancel_of_what_waits_there_is_passed_on_and_not_revoked() -> None:
    desk = trained("w1")
    _, second = ask(desk, 2)
    id_ = request(second).extras["origin"]
    assert isinstance(id_, bytes)
    desk.core.cancel(Peer(Socket.FRONTEND, b"c1"), Cancel(id_, {}), desk.now)
    desk.take()
    desk.tick(LEASE + MARGIN + 0.011)
    assert desk.flow.counters["revoked"] == 0
    reply = Reply(second.message.id, 2, Code.CANCELLED, {})
    desk.core.reply(desk.backend("w1"), reply, b"\x80", desk.now)
    assert desk.verdict()[1] is Code.CANCELLED


@pytest.mark.parametrize("run_us", [None, -1, 1.5, True, "7"])
def test_what_is_no_time_teaches_nothing(run_us: object) -> None:
    one = lane()
    prefetch.learn(one, "read", run_us)
    assert one.paces == {}


@pytest.mark.parametrize(
    ("times", "remembered", "forgotten"), [(1, 5, 60), (3, 300, 900), (10, 1000, 1500)]
)
def test_an_outlier_counts_at_once_and_is_forgotten_slowly(
    times: int, remembered: int, forgotten: int
) -> None:
    one = lane()
    learn(one, SHORT, 20)
    usual = one.paces["read"]
    learn(one, times * int(OUTLIER * 1e6))
    assert one.paces["read"] > times * OUTLIER
    learn(one, SHORT, remembered)
    assert one.paces["read"] > HORIZON
    learn(one, SHORT, forgotten - remembered)
    assert one.paces["read"] == pytest.approx(usual, rel=0.1)


def test_a_longer_one_counts_more_and_a_shorter_one_no_less() -> None:
    one = lane()
    learn(one, 100_000)
    learn(one, 20_000)
    assert one.paces["read"] > 0.09
    learn(one, 200_000)
    assert one.paces["read"] > 0.2


def test_a_cold_worker_that_takes_long_is_no_outlier() -> None:
    one = lane()
    learn(one, SHORT, 9)
    usual = one.paces["read"]
    prefetch.learn(one, "read", 50_000, cold=True)
    assert one.paces["read"] == usual
    prefetch.learn(one, "read", 5_000, cold=True)
    assert one.paces["read"] > usual, "that long it may take at any time"
    other = lane()
    prefetch.learn(other, "read", 50_000, cold=True)
    assert other.paces["read"] > 0.05, "it is all that is known"


def test_the_first_answer_of_a_worker_is_that_of_a_cold_one() -> None:
    desk = trained("w1")
    desk.worker("w2")
    sends = ask(desk, 2)
    for send in sends:
        desk.reply(send, run_us=50_000 if send.identity == b"w2" else SHORT)
    desk.take()
    assert ahead(ask(desk, 3)) == [0, 0, 1]
    (late,) = [*desk.known("w2").hands.values()]
    slow = Send(Socket.BACKEND, b"w2", (), Reply(late.dispatch, 0, 0, {}), b"")
    desk.reply(slow, run_us=50_000)
    desk.take()
    assert ahead(ask(desk, 3)) == [0], "nothing goes ahead any more"


def learn(one: Lane, run_us: int, times: int = 1) -> None:
    for _ in range(times):
        prefetch.learn(one, "read", run_us)


def test_the_broker_rests_while_all_have_enough_to_do() -> None:
    desk = trained("w1", "w2")
    assert desk.flow.take_rest() == 0.0, "somebody is idle"
    sends = ask(desk, 2 * FEW)
    assert desk.flow.take_rest() == 0.0, "they were idle"

    desk.reply(sends[0], run_us=SHORT)
    first = desk.flow.take_rest()
    assert 0 < first <= HORIZON * SHARE
    assert desk.flow.take_rest() == 0.0, "nobody has answered"
    desk.worker("w3")
    desk.reply(sends[1], run_us=SHORT)
    assert desk.flow.take_rest() == 0.0, "one is idle"
    ask(desk, 1)
    desk.flow.take_rest()

    for send in sends[2 : 2 * FEW - 2 : 2]:  # of the same worker, until it has one left
        desk.reply(send, run_us=SHORT)
    desk.reply(sends[3], run_us=SHORT)
    assert desk.flow.take_rest() == 0.0, "one of them has just one"


def test_the_rest_is_as_long_as_the_least_of_what_they_have() -> None:
    desk = trained("w1", "w2")
    sends = ask(desk, 2 * FEW)
    desk.flow.take_rest()
    for send in sends[0:8:2]:
        desk.reply(send, run_us=SHORT)
    least = desk.flow.take_rest()
    desk.reply(sends[1], run_us=SHORT)
    more = desk.flow.take_rest()
    desk.reply(sends[8], run_us=SHORT)
    desk.reply(sends[3], run_us=SHORT)
    assert 0 < desk.flow.take_rest() < least < more


def test_no_rest_without_work_ahead_and_no_long_one() -> None:
    desk = trained("w1", ahead=0.0)
    (send,) = ask(desk, 3)
    desk.reply(send, run_us=SHORT)
    assert desk.flow.take_rest() == 0.0
    desk = trained("w1", ahead=1.0, run_us=9000)
    send, *_ = ask(desk, 99)
    desk.flow.take_rest()
    desk.reply(send, run_us=9000)
    assert desk.flow.take_rest() == REST


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3000)), max_size=60))
def test_load_and_room_are_what_is_in_hand(steps: list[tuple[bool, int]]) -> None:
    one = lane()
    worker = Worker(b"w", b"w", b"s", one.key, {}, ready=True)
    worker.home = one
    one.idle[worker] = 0.0
    number = 0
    for hand_out, run_us in steps:
        prefetch.learn(one, "read", run_us)
        one_more = pending(number := number + 1)
        expected = prefetch.expectation(one, one_more)
        room = worker in one.spare and worker.load + expected <= HORIZON
        if hand_out and (room or not worker.hands):
            worker.hands[b"%d" % number] = one_more
            prefetch.add(worker, one_more, expected)
        elif worker.hands:
            gone = worker.hands.pop(next(iter(worker.hands)))
            prefetch.remove(worker, gone)
            if worker.hands:
                prefetch.reopen(worker)
        load = sum(p.expected for p in worker.hands.values())
        assert worker.load == pytest.approx(load)
        assert len(worker.hands) < 2 or load <= HORIZON + 1e-9
        assert len(worker.hands) <= DEPTH
        assert (worker in one.spare) <= (0 < len(worker.hands) < DEPTH)


def test_nothing_is_expected_of_what_may_not_run_twice() -> None:
    asked = pending()
    one, other = lane(), lane(idempotent=False)
    for each in (one, other):
        prefetch.learn(each, "read", SHORT)
    assert prefetch.expectation(one, asked) < HORIZON
    assert prefetch.expectation(other, asked) == inf
    asked.demand = Demand.REPLAYED
    assert prefetch.expectation(one, asked) == inf
    asked.demand, asked.attempt = Demand.NOTHING, 2
    assert prefetch.expectation(one, asked) == inf

"""The way of a request: idle dispatch, waiting, budgets, loss of workers."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest

from falconas.broker.flow import VERDICT_GRACE
from falconas.broker.quarantine import Suspect
from falconas.broker.records import Peer, Send, Socket, Tally
from falconas.codec import decode_value, encode_value
from falconas.errors import Code
from falconas.protocol import Cancel, Kind, Reply, Request, Status
from tests.unit.broker.desk import EPOCH, Desk, node, serving


def test_an_idle_worker_gets_a_request_at_once() -> None:
    desk = serving("w1")

    id_ = desk.ask("read", budget=2.0, body=b"params", trace="t")

    send = desk.handed()
    request = send.message
    assert isinstance(request, Request)
    assert (send.socket, send.identity, send.envelope) == (Socket.BACKEND, b"w1", ())
    assert send.body == b"params"
    assert request.id == EPOCH + (1).to_bytes(8, "big")
    assert (request.script, request.budget) == ("read", 102.0)
    assert request.extras == {
        "trace": "t",
        "origin": id_,
        "attempt": 1,
        "now": 100.0,
    }


def test_workers_take_turns_the_least_recently_used_first() -> None:
    desk = serving("w1", "w2", "w3")
    order = []
    for _ in range(6):
        desk.now += 1.0
        desk.ask()
        send = desk.handed()
        order.append(send.identity)
        desk.reply(send)
        desk.take()

    assert order == [b"w1", b"w2", b"w3"] * 2


def test_nobody_has_more_than_one_request_in_hand() -> None:
    desk = serving("w1")
    desk.ask()
    first = desk.handed()
    second = desk.ask("read")
    assert not desk.take()

    desk.reply(first)

    (answer, send) = desk.take()
    assert isinstance(answer.message, Reply)
    assert isinstance(send.message, Request)
    assert send.message.extras["origin"] == second


def test_a_queue_of_one_lane_does_not_block_another() -> None:
    desk = serving("w1")
    desk.register("n", {"only_n": {}}, uuid=b"T" * 16)
    desk.worker("w2", manifest="n")
    desk.ask("read")
    desk.ask("read")
    desk.take()

    desk.ask("only_n")

    assert desk.handed().identity == b"w2"
    desk.ask("only_n", client="c2")
    assert [p.script for p in desk.flow.backlog] == ["read", "only_n"]
    assert not desk.take()


def test_a_script_of_two_lanes_runs_on_either() -> None:
    desk = serving("w1")
    desk.worker("w2", group="other")

    desk.ask()
    desk.ask()

    assert {send.identity for send in desk.take()} == {b"w1", b"w2"}


def test_a_budget_runs_out_in_the_queue() -> None:
    desk = serving("w1")
    desk.ask()
    desk.take()
    id_ = desk.ask("write", budget=1.0)
    desk.tick(0.99)
    assert not desk.take()
    assert desk.core.wake_at() <= 101.01

    desk.tick(0.02)

    got, code, body = desk.verdict()
    assert (got, code) == (id_, Code.DEADLINE_EXCEEDED)
    assert (body["started"], body["retry_safe"]) == ("no", True)


def test_what_is_too_late_is_not_handed_out() -> None:
    desk = serving("w1")
    desk.ask()
    first = desk.handed()
    late = desk.ask("write", budget=1.0)
    in_time = desk.ask("write", budget=9.0)
    desk.now += 1.5  # and no tick

    desk.reply(first)

    _, verdict, send = desk.take()
    assert verdict.message.id == late
    assert decode_value(verdict.body)["started"] == "no"
    assert isinstance(send.message, Request)
    assert send.message.extras["origin"] == in_time


def test_the_scripts_own_budget_is_of_the_version_that_runs() -> None:
    desk = Desk(fresh=True)
    desk.ask("brief", budget=9.0)
    desk.register()
    desk.now += 0.1
    desk.worker()

    assert desk.flow.open == 1
    (_, send) = (None, next(iter(desk.known("w1").hands.values())))
    assert send.deadline == 100.5


def test_the_brokers_own_verdict_on_what_is_in_hand() -> None:
    desk = serving("w1")
    id_ = desk.ask("write", budget=1.0)
    send = desk.handed()
    desk.tick(1.0 + VERDICT_GRACE - 0.01)
    assert not desk.take()

    desk.tick(0.02)

    got, code, body = desk.verdict()
    assert (got, code) == (id_, Code.DEADLINE_EXCEEDED)
    assert (body["started"], body["retry_safe"]) == ("unknown", False)
    waiting = desk.ask()  # the worker stays busy
    assert not desk.take()

    desk.reply(send)  # what it says then is dropped

    assert desk.flow.counters["late_replies"] == 1
    assert desk.handed().message.extras["origin"] == waiting


def test_grace_is_documented() -> None:
    assert VERDICT_GRACE == 0.7


def test_the_bound_of_the_queue_is_exact_and_says_when_to_come_back() -> None:
    desk = serving("w1", client_requests=99)
    for _ in range(5):
        desk.ask(client="c1")
    assert len(desk.take()) == 1

    desk.ask(client="c2")

    _, code, body = desk.verdict()
    assert code is Code.RESOURCE_EXHAUSTED
    assert (body["started"], body["retry_safe"]) == ("no", True)
    assert 0.1 <= body["retry_after"] <= 5.0
    assert desk.flow.backlog.count == 4


def test_the_bound_of_bytes_is_exact() -> None:
    desk = serving("w1")
    desk.ask()
    desk.ask(body=bytes(1000))
    desk.ask(body=bytes(24))
    assert len(desk.take()) == 1

    desk.ask(client="c2", body=b"1")

    assert desk.verdict()[1] is Code.RESOURCE_EXHAUSTED


def test_retry_after_follows_the_waiting_time() -> None:
    desk = serving("w1")
    desk.ask()
    send = desk.handed()
    desk.ask()
    desk.now += 16.0
    desk.reply(send)

    assert desk.flow.retry_after() == 2.0


@pytest.mark.parametrize(("state", "started"), [("RUN", "yes"), ("COMMIT", "unknown")])
def test_a_write_is_never_dispatched_again(state: str, started: str) -> None:
    desk = serving("w1", "w2")
    id_ = desk.ask("write")
    send = desk.handed()

    desk.lost("w1", send.message.id, state)

    got, code, body = desk.verdict()
    assert (got, code) == (id_, Code.UNAVAILABLE)
    assert (body["started"], body["retry_safe"]) == (started, False)
    assert "signal 9" in body["message"]


def test_a_read_is_dispatched_once_more_and_no_more() -> None:
    desk = serving("w1", "w2", "w3")
    desk.ask("read")
    first = desk.handed()
    desk.lost("w1", first.message.id)
    second = desk.handed()
    assert second.identity == b"w2"
    assert second.message.extras["attempt"] == 2
    assert second.message.id != first.message.id
    assert second.body == first.body

    desk.lost("w2", second.message.id)

    _, code, body = desk.verdict()
    assert code is Code.UNAVAILABLE
    assert (body["started"], body["retry_safe"]) == ("yes", True)


@pytest.mark.parametrize("started", [b"", b"another request."])
def test_what_the_slot_does_not_name_was_not_started(started: bytes) -> None:
    desk = serving("w1")
    desk.ask("write")
    desk.ask("write", client="c2")
    send = desk.handed()

    desk.lost("w1", started)

    assert not desk.take()
    desk.worker("w2")
    again = next(iter(desk.known("w2").hands.values()))
    assert again.dispatch != send.message.id
    assert again.attempt == 1
    assert again.origin == send.message.extras["origin"]


def test_a_lost_worker_whose_request_was_given_up_owes_nothing() -> None:
    desk = serving("w1")
    desk.ask("read", budget=1.0)
    send = desk.handed()
    desk.tick(2.0)
    desk.take()

    desk.lost("w1", send.message.id)

    assert not desk.take()
    assert desk.flow.counters["attempts_repeated"] == 0


def test_a_repeated_read_keeps_its_budget() -> None:
    desk = serving("w1", "w2")
    desk.ask("read", budget=1.0)
    send = desk.handed()
    desk.now += 1.5

    desk.lost("w1", send.message.id)

    _, code, body = desk.verdict()
    assert code is Code.DEADLINE_EXCEEDED
    assert (body["started"], body["retry_safe"]) == ("yes", True)


def test_a_cancelled_request_is_not_handed_out_again() -> None:
    desk = serving("w1", "w2")
    id_ = desk.ask("read")
    send = desk.handed()
    client = desk.flow.clients.find(b"c1")
    assert client is not None
    desk.flow.cancel(client.pending[id_], desk.now)
    cancel, _ = desk.take()
    assert cancel.message == Cancel(send.message.id, {})
    assert cancel.identity == b"w1"

    desk.give_back(send)

    got, code, body = desk.verdict()
    assert (got, code, body["started"]) == (id_, Code.CANCELLED, "no")


@pytest.mark.parametrize("after", [0.1, 30.5])
def test_a_cancel_that_nobody_answers_has_its_verdict_soon(after: float) -> None:
    desk = serving("w1")
    id_ = desk.ask("write", budget=30.0)
    send = desk.handed()
    desk.now += after
    desk.register()  # it is not silent
    client = desk.flow.clients.find(b"c1")
    assert client is not None
    for _ in range(2):  # the second one is not passed on
        desk.flow.cancel(client.pending[id_], desk.now)
    assert len(desk.take()) == 2
    soon = min(30.0, after) + VERDICT_GRACE
    desk.tick(100.0 + soon - 0.01 - desk.now)
    assert not desk.take()

    desk.tick(0.02)

    got, code, body = desk.verdict()
    assert (got, code) == (id_, Code.CANCELLED)
    assert (body["started"], body["retry_safe"]) == ("unknown", False)
    desk.ask("write")
    assert not desk.take()
    desk.reply(send)
    assert desk.flow.counters["late_replies"] == 1


def test_a_worker_says_itself_that_it_was_interrupted() -> None:
    desk = serving("w1")
    id_ = desk.ask("write")
    send = desk.handed()
    client = desk.flow.clients.find(b"c1")
    assert client is not None
    desk.flow.cancel(client.pending[id_], desk.now)
    desk.take()
    body = encode_value({"message": "interrupted", "started": "yes"})
    answer = Reply(send.message.id, Kind.ERROR, Code.CANCELLED, {})

    desk.core.reply(desk.backend("w1"), answer, body, desk.now)

    got, code, fields = desk.verdict()
    assert (got, code, fields["started"]) == (id_, Code.CANCELLED, "yes")
    desk.ask("write")
    assert desk.handed().identity == b"w1"


def test_a_cancel_of_what_the_dead_hold_is_told_to_nobody() -> None:
    desk = serving("w1")
    desk.ask("write")
    desk.lost("w1", desk.handed().message.id, "REPLY")
    (request,) = desk.known("w1").hands.values()

    desk.flow.cancel(request, desk.now)

    assert request.cancelled
    assert not desk.take()


def test_without_a_supervisor_only_the_worker_hears_of_a_cancel() -> None:
    desk = serving()
    desk.worker("w1", supervisor=b"T" * 16)
    desk.ask("write")
    desk.take()
    (request,) = desk.known("w1").hands.values()

    desk.flow.cancel(request, desk.now)

    (cancel,) = desk.take()
    assert cancel.socket is Socket.BACKEND


@pytest.mark.parametrize("waits", [True, False])
def test_what_is_quarantined_is_answered(*, waits: bool) -> None:
    desk = serving("w1")
    desk.ask("read")
    desk.take()
    id_ = desk.ask("write") if waits else b""
    for now in (1.0, 2.0, 3.0):
        desk.pool.crashed(Suspect("m", "write"), now)

    if waits:
        desk.flow.refile(desk.now)
    else:
        id_ = desk.ask("write")

    assert desk.verdict()[:2] == (id_, Code.FAILED_PRECONDITION)


def test_a_known_script_waits_a_second_for_a_worker() -> None:
    desk = serving()
    id_ = desk.ask("read")
    desk.tick(0.99)
    assert not desk.take()

    desk.tick(0.02)

    got, code, body = desk.verdict()
    assert (got, code) == (id_, Code.UNAVAILABLE)
    assert (body["started"], body["retry_after"]) == ("no", 1.0)


def test_a_worker_that_comes_in_time_serves_and_then_the_deadline_counts() -> None:
    desk = serving()
    desk.ask("read")
    other = desk.ask("read", budget=9.0)
    desk.tick(0.9)
    desk.worker("w1", supervisor=b"T" * 16)
    desk.tick(5.0)
    desk.take()

    desk.lost("w1", next(iter(desk.known("w1").hands)))  # a read: once more

    assert not desk.take()
    desk.tick(0.9)
    assert not desk.take()
    desk.tick(0.2)
    verdicts = desk.take()
    assert {send.message.id for send in verdicts} >= {other}
    assert len(verdicts) == 2


def test_patience_for_a_worker_is_not_renewed() -> None:
    desk = serving()
    desk.ask("read")
    desk.tick(0.9)
    desk.worker("w1", ready=False)
    desk.tick(0.2)

    assert desk.verdict()[1] is Code.UNAVAILABLE


def test_after_the_start_scripts_wait_three_seconds() -> None:
    desk = Desk(fresh=True)
    unknown = desk.ask("nothing", client="c1")
    broken = desk.ask("broken", client="c2")
    known = desk.ask("read", client="c3")
    desk.tick(2.0)
    assert not desk.take()
    desk.register()
    desk.tick(1.1)

    replies = [s.message for s in desk.take() if isinstance(s.message, Reply)]
    codes = {reply.id: reply.code for reply in replies}
    assert codes == {
        unknown: Code.NOT_FOUND,
        broken: Code.NOT_FOUND,
        known: Code.UNAVAILABLE,
    }


def test_a_manifest_that_comes_late_is_served_in_the_order_of_the_queue() -> None:
    desk = Desk(fresh=True)
    desk.worker("w1")
    desk.ask("read", client="c1")
    urgent = desk.ask("read", client="c2", priority=3)

    sends = desk.register()

    (request,) = [s.message for s in sends if isinstance(s.message, Request)]
    assert request.extras["origin"] == urgent


def test_what_is_given_back_goes_to_the_head_beyond_the_bound() -> None:
    desk = serving("w1", queue_requests=2, client_requests=9)
    first = desk.ask("write")
    send = desk.handed()
    desk.ask("write")
    desk.ask("write")

    desk.give_back(send, ready=False)

    assert desk.flow.backlog.count == 3
    assert not desk.take()
    desk.core.status(desk.backend("w1"), Status(b"w1", True, {}), desk.now)
    again = desk.handed().message
    assert isinstance(again, Request)
    assert (again.extras["origin"], again.extras["attempt"]) == (first, 1)


def test_workers_that_go_together_do_not_get_each_others_work() -> None:
    desk = serving("w1", "w2", "w3")
    desk.ask("read")
    desk.take()

    desk.flow.lose_all([desk.known("w1"), desk.known("w2")], "gone", desk.now)

    assert desk.handed().identity == b"w3"


def test_an_answer_of_the_brokers_own() -> None:
    desk = Desk()

    desk.flow.answer(Peer(Socket.CONTROL, b"operator"), b"id", b"report")

    (send,) = desk.take()
    assert send == Send(
        Socket.CONTROL, b"operator", (), Reply(b"id", 0, 0, {}), b"report"
    )


@pytest.mark.parametrize("holding", [[], "nothing"])
def test_what_a_worker_does_not_hold_goes_back(holding: Any) -> None:
    desk = serving("w1")
    kept = desk.ask("write")
    send = desk.handed()
    worker = desk.known("w1")

    desk.flow.reconcile(worker, [send.message.id], desk.now)
    assert worker.hands
    desk.flow.reconcile(worker, holding, desk.now)

    assert not worker.hands
    assert [request.origin for request in desk.flow.backlog] == [kept]
    desk.flow.set_ready(worker, True, desk.now)
    desk.take()


def test_what_was_given_up_is_not_filed_again() -> None:
    desk = serving("w1")
    desk.ask("write", budget=1.0)
    send = desk.handed()
    desk.tick(2.0)
    desk.take()

    desk.give_back(send)

    assert not desk.take()
    assert desk.flow.backlog.count == 0


def test_a_request_that_waits_is_cancelled_at_once() -> None:
    desk = serving("w1")
    desk.ask("write")
    desk.take()
    id_ = desk.ask("write")

    desk.flow.cancel(next(iter(desk.flow.backlog)), desk.now)

    got, code, body = desk.verdict()
    assert (got, code) == (id_, Code.CANCELLED)
    assert (body["started"], body["retry_safe"]) == ("no", True)


def test_abandon_ends_everything_once() -> None:
    desk = serving("w1", "w2")
    given_up = desk.ask("write", budget=0.1)
    desk.tick(1.0)
    desk.take()
    in_hand = desk.ask("write")
    desk.take()
    waiting = desk.ask("write")

    desk.flow.abandon(desk.now)
    desk.flow.abandon(desk.now)

    bodies = {s.message.id: decode_value(s.body)["started"] for s in desk.take()}
    assert bodies == {in_hand: "unknown", waiting: "no"}
    assert given_up not in bodies
    assert desk.flow.expiry.wake_at() == inf


def test_the_envelope_of_a_req_is_kept() -> None:
    desk = serving("w1")
    desk.ask(envelope=(b"17", b""))
    send = desk.handed()

    desk.reply(send, body=b"result")

    (answer,) = desk.take()
    assert (answer.identity, answer.envelope) == (b"c1", (b"17", b""))
    assert answer.body == b"result"


def test_the_wait_for_a_node_counts_from_the_first_return() -> None:
    desk = serving("w1")
    desk.report(node("main", "primary"))
    desk.ask("write", budget=50.0)
    wait = desk.core.settings.worker_wait
    desk.give_back(desk.handed(), refused=True)
    desk.tick(wait / 2)
    (again,) = desk.report(node("main", "primary"))

    desk.give_back(again, refused=True)

    (waiting,) = desk.flow.backlog
    assert waiting.due == 100.0 + wait
    desk.tick(wait / 2 + 0.02)
    assert desk.verdict()[1] is Code.UNAVAILABLE


def test_a_lost_request_counts_as_an_error_of_its_node() -> None:
    desk = serving("w1", "w2")
    desk.ask("write")
    started = desk.handed()
    desk.lost("w1", started.message.id)
    desk.lost("w2")

    assert desk.pool.tallies == {"main": Tally(1, 1)}

"""The way of a request: idle dispatch, waiting, budgets, loss of workers."""

from __future__ import annotations

from typing import Any

import pytest

from falconas.broker.quarantine import Suspect
from falconas.broker.records import Peer, Send, Socket
from falconas.codec import decode_value
from falconas.errors import Code
from falconas.protocol import Reply, Request, Status
from tests.unit.broker.desk import EPOCH, Desk, serving


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


def test_the_envelope_of_a_req_is_kept() -> None:
    desk = serving("w1")
    desk.ask(envelope=(b"17", b""))
    send = desk.handed()

    desk.reply(send, body=b"result")

    (answer,) = desk.take()
    assert (answer.identity, answer.envelope) == (b"c1", (b"17", b""))
    assert answer.body == b"result"

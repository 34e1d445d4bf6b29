"""Verdicts that no answer brings: time is up, or nobody wants it any more."""

from __future__ import annotations

from math import inf

import pytest

from falconas.broker.endings import abandon, cancel
from falconas.broker.flow import VERDICT_GRACE
from falconas.broker.records import Socket
from falconas.codec import decode_value, encode_value
from falconas.errors import Code
from falconas.protocol import Cancel, Kind, Reply
from tests.unit.broker.desk import serving


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


def test_a_cancelled_request_is_not_handed_out_again() -> None:
    desk = serving("w1", "w2")
    id_ = desk.ask("read")
    send = desk.handed()
    client = desk.flow.clients.find(b"c1")
    assert client is not None
    cancel(desk.flow, client.pending[id_], desk.now)
    told, _ = desk.take()
    assert told.message == Cancel(send.message.id, {})
    assert told.identity == b"w1"

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
        cancel(desk.flow, client.pending[id_], desk.now)
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
    cancel(desk.flow, client.pending[id_], desk.now)
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

    cancel(desk.flow, request, desk.now)

    assert request.cancelled
    assert not desk.take()


def test_without_a_supervisor_only_the_worker_hears_of_a_cancel() -> None:
    desk = serving()
    desk.worker("w1", supervisor=b"T" * 16)
    desk.ask("write")
    desk.take()
    (request,) = desk.known("w1").hands.values()

    cancel(desk.flow, request, desk.now)

    (told,) = desk.take()
    assert told.socket is Socket.BACKEND


def test_a_request_that_waits_is_cancelled_at_once() -> None:
    desk = serving("w1")
    desk.ask("write")
    desk.take()
    id_ = desk.ask("write")

    cancel(desk.flow, next(iter(desk.flow.backlog)), desk.now)

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

    abandon(desk.flow, desk.now)
    abandon(desk.flow, desk.now)

    bodies = {s.message.id: decode_value(s.body)["started"] for s in desk.take()}
    assert bodies == {in_hand: "unknown", waiting: "no"}
    assert given_up not in bodies
    assert desk.flow.expiry.wake_at() == inf

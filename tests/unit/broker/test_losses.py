"""What becomes of a worker that died of its request, or because of it."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest

from falconas.broker.losses import ANSWER_WAIT
from falconas.broker.quarantine import CRASHES, Suspect
from falconas.broker.records import Loss, Peer, Socket, Tally
from falconas.codec import decode_value
from falconas.errors import Code, Started
from falconas.protocol import Cancel, Catalogue, Register, Reload, Reply, Request
from tests.unit.broker.desk import MANIFEST, Desk, serving

CLIENT = Peer(Socket.FRONTEND, b"c1")


def crash(desk: Desk, script: str = "write", **extras: Any) -> bytes:
    """Let a new worker die of a script; return the request's id."""
    name = f"x{desk.now}"
    desk.worker(name)
    id_ = desk.ask(script)
    (worker,) = [w for w in desk.pool.by_uuid.values() if w.hands]
    dispatch = next(iter(worker.hands))
    desk.lost(worker.identity.decode(), dispatch, **{"crash": True, **extras})
    desk.now += 1.0
    return id_


def quarantined(desk: Desk) -> Desk:
    for _ in range(CRASHES):
        crash(desk)
        desk.take()
    return desk


def refusals(desk: Desk) -> set[bytes]:
    sends = [s.message for s in desk.take() if isinstance(s.message, Reply)]
    refused = Code.FAILED_PRECONDITION
    return {m.id for m in sends if m.code == refused and isinstance(m.id, bytes)}


# What it had in hand


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


def test_workers_that_go_together_do_not_get_each_others_work() -> None:
    desk = serving("w1", "w2", "w3")
    desk.ask("read")
    desk.take()

    workers = [desk.known("w1"), desk.known("w2")]
    gone = Loss(None, Started.UNKNOWN, "gone")
    desk.core.losses.lose_all(workers, gone, desk.now)

    assert desk.handed().identity == b"w3"


def test_a_lost_request_counts_as_an_error_of_its_node() -> None:
    desk = serving("w1", "w2")
    desk.ask("write")
    started = desk.handed()
    desk.lost("w1", started.message.id)
    desk.lost("w2")

    assert desk.pool.tallies == {"main": Tally(1, 1)}


# Ended on purpose


@pytest.mark.parametrize("script", ["read", "write"])
def test_a_worker_that_was_ended_at_the_deadline(script: str) -> None:
    desk = serving("w1", "w2")
    id_ = desk.ask(script, budget=1.0)
    send = desk.handed()
    desk.now += 0.9  # the worker's clock may be ahead

    desk.lost("w1", send.message.id, why="deadline")

    got, code, body = desk.verdict()
    assert (got, code, body["started"]) == (id_, Code.DEADLINE_EXCEEDED, "yes")
    assert "its worker had to be ended" in body["message"]
    assert body["retry_safe"] is (script == "read")


@pytest.mark.parametrize("script", ["read", "write"])
@pytest.mark.parametrize("why", ["cancel", "deadline", None])
def test_a_worker_that_was_lost_with_a_cancelled_request(script: str, why: Any) -> None:
    desk = serving("w1", "w2")
    id_ = desk.ask(script)
    send = desk.handed()
    desk.core.cancel(CLIENT, Cancel(id_, {}), desk.now)
    desk.take()

    desk.lost("w1", send.message.id, why=why)

    got, code, body = desk.verdict()
    assert (got, code, body["started"]) == (id_, Code.CANCELLED, "yes")
    assert body["retry_safe"] is (script == "read")


def test_what_was_not_cancelled_is_not_said_to_be() -> None:
    desk = serving("w1")
    desk.ask("write")

    desk.lost("w1", desk.handed().message.id, why="cancel")

    assert desk.verdict()[1] is Code.UNAVAILABLE


def test_a_cancelled_request_that_was_not_started_is_just_cancelled() -> None:
    desk = serving("w1", "w2")
    id_ = desk.ask("write")
    desk.take()
    desk.core.cancel(CLIENT, Cancel(id_, {}), desk.now)
    desk.take()

    desk.lost("w1", b"an earlier one..", state="IDLE")

    _, code, body = desk.verdict()
    assert (code, body["started"]) == (Code.CANCELLED, "no")


def test_the_dead_are_not_told_of_a_cancel() -> None:
    desk = serving("w1")
    id_ = desk.ask("write")
    desk.lost("w1", desk.handed().message.id, "REPLY")

    desk.core.cancel(CLIENT, Cancel(id_, {}), desk.now)

    assert not desk.take()
    desk.tick(ANSWER_WAIT)
    _, code, body = desk.verdict()
    assert (code, body["started"]) == (Code.CANCELLED, "unknown")


def test_the_dead_may_leave_while_their_answer_is_awaited() -> None:
    desk = serving("w1", "w2")
    desk.ask("write")
    desk.lost("w1", desk.handed().message.id, "REPLY")
    losses = desk.core.losses
    assert losses.wake_at() == desk.now + ANSWER_WAIT
    desk.core.disconnect(desk.backend("w1"), desk.now)
    assert desk.handed().identity == b"w2"

    desk.tick(ANSWER_WAIT)

    assert losses.wake_at() == inf
    desk.lost("w1", state="IDLE", crash=True)
    assert not desk.take()


# Quarantine


def test_the_third_crash_of_a_script_ends_its_being_served() -> None:
    desk = serving()
    for _ in range(CRASHES):
        crashed = crash(desk)
        assert desk.verdict()[:2] == (crashed, Code.UNAVAILABLE)
    desk.worker("w1")

    id_ = desk.ask("write")

    got, code, body = desk.verdict()
    assert (got, code) == (id_, Code.FAILED_PRECONDITION)
    assert (body["started"], body["retry_safe"]) == ("no", True)
    assert "write is quarantined" in body["message"]
    assert "reload" in body["message"]
    desk.ask("read")
    assert desk.handed().identity == b"w1"


def test_what_waits_for_the_script_is_answered_at_once() -> None:
    desk = serving()
    for _ in range(CRASHES - 1):
        crash(desk)
    desk.worker("w1")
    desk.ask("write", client="c1")
    send = desk.handed()
    waiting = desk.ask("write", client="c2")
    other = desk.ask("read", client="c3")

    desk.lost("w1", send.message.id, crash=True)

    assert refusals(desk) == {waiting}
    assert [request.origin for request in desk.flow.backlog] == [other]


def test_a_repeated_read_counts_twice_and_its_caller_hears_why() -> None:
    desk = serving("w1", "w2", "w3")
    desk.ask("read")
    for _ in range(2):
        send = desk.handed()
        desk.lost(send.identity.decode(), send.message.id, crash=True)
    assert desk.verdict()[1] is Code.UNAVAILABLE
    id_ = desk.ask("read")
    desk.lost("w3", desk.handed().message.id, crash=True)

    got, code, body = desk.verdict()
    assert (got, code) == (id_, Code.FAILED_PRECONDITION)
    assert (body["started"], body["retry_safe"]) == ("unknown", True)
    assert desk.flow.counters["crashes"] == CRASHES
    assert desk.flow.counters["quarantined"] == 1


def test_who_is_killed_from_outside_proves_nothing() -> None:
    desk = serving()
    for _ in range(2 * CRASHES):
        crash(desk, crash=False)
        crash(desk, crash="yes")

    assert not desk.pool.quarantine


def test_a_crash_after_the_answer_is_of_the_script_that_ran_last() -> None:
    desk = serving()
    for number in range(CRASHES):
        desk.worker(f"w{number}")
        desk.ask("write")
        send = desk.handed()
        desk.reply(send)
        desk.lost(f"w{number}", send.message.id, "IDLE", crash=True)
    desk.take()

    assert set(desk.pool.quarantine.since) == {Suspect("m", "write")}


@pytest.mark.parametrize("started", [b"", b"an earlier one..", "text"])
def test_a_crash_in_something_unknown_is_nobodys(started: Any) -> None:
    desk = serving()
    for number in range(CRASHES):
        desk.worker(f"w{number}")
        desk.ask("write", client=f"c{number}", budget=0.1)
        desk.lost(f"w{number}", started, crash=True)
        desk.tick(0.2)
        desk.take()

    assert not desk.pool.quarantine


def test_another_version_stands_in() -> None:
    desk = quarantined(serving())
    desk.register("n", {"write": {}}, uuid=b"T" * 16)
    desk.worker("old")
    id_ = desk.ask("write")
    assert not desk.take()  # a worker of the new version may come

    desk.worker("new", manifest="n")

    send = next(iter(desk.known("new").hands.values()))
    assert send.origin == id_


def test_the_version_of_who_registered_last_decides_alone() -> None:
    desk = quarantined(serving())
    desk.register("n", {"write": {}}, uuid=b"T" * 16)
    id_ = desk.ask("write")
    assert not desk.take()

    sends = desk.register()

    (refused,) = [s.message for s in sends if isinstance(s.message, Reply)]
    assert (refused.id, refused.code) == (id_, Code.FAILED_PRECONDITION)


def test_a_script_that_nobody_has_any_more_is_not_quarantined() -> None:
    desk = quarantined(serving())
    for scripts in ({}, {"write": {"error": "SyntaxError"}}):
        desk.core.flow.pool.manifests = {"n": {}}
        desk.register("n2", scripts, uuid=b"T" * 16)
        assert not desk.pool.is_quarantined("write")


@pytest.mark.parametrize("by", ["fresh", "reload"])
def test_it_is_lifted(by: str) -> None:
    desk = quarantined(serving("w1"))
    if by == "fresh":
        body = b"\x81\xa7scripts\x80"
        fresh = Register(b"r", b"S" * 16, "host", "m", {"fresh": True})
        desk.core.register(Peer(Socket.CONTROL, b"x"), fresh, body, desk.now)
    else:
        operator = Peer(Socket.CONTROL, b"operator")
        desk.core.pass_on(operator, Reload(b"id", {}), desk.now)
    desk.take()

    desk.ask("write")

    assert isinstance(desk.handed().message, Request)


def test_a_register_that_is_not_fresh_lifts_nothing() -> None:
    desk = quarantined(serving("w1"))
    desk.register()

    id_ = desk.ask("write")

    assert refusals(desk) == {id_}


def test_the_catalogue_says_so() -> None:
    desk = quarantined(serving())

    desk.core.catalogue(CLIENT, Catalogue(b"1", {}))

    (send,) = desk.take()
    scripts = decode_value(send.body)["scripts"]
    assert "died of it 3 times within 60 s" in scripts["write"].pop("quarantined")
    assert scripts == MANIFEST

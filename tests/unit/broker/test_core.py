"""What peers say to the broker and what they hear."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest

from falconas.broker.expiry import RESOLUTION
from falconas.broker.flow import RECOUNT, VERDICT_GRACE
from falconas.broker.losses import ANSWER_WAIT
from falconas.broker.quarantine import Suspect
from falconas.broker.records import Peer, Send, Socket
from falconas.codec import decode_value, encode_value
from falconas.errors import Code
from falconas.protocol import (
    Cancel,
    Catalogue,
    Hello,
    Kind,
    Lost,
    Ready,
    Register,
    Reload,
    Reply,
    Request,
    Return,
    Status,
    Welcome,
)
from tests.unit.broker.desk import EPOCH, MANIFEST, Desk, introductions, node, serving

SESSION = b"session of 16 b."


def frontend(name: str) -> Peer:
    return Peer(Socket.FRONTEND, name.encode())


def control(name: str = "controlS") -> Peer:
    return Peer(Socket.CONTROL, name.encode())


def hello(desk: Desk, link: str, session: bytes = SESSION) -> list[Send]:
    desk.core.hello(frontend(link), Hello(b"hello", session, {}), desk.now)
    return desk.take()


# Clients


def test_welcome_names_the_epoch_the_clock_and_the_limits() -> None:
    desk = serving(budget=0.2)

    (send,) = hello(desk, "c1")

    welcome = send.message
    assert isinstance(welcome, Welcome)
    assert (welcome.id, welcome.epoch, welcome.now) == (b"hello", EPOCH, 100.0)
    assert welcome.extras["versions"] == [1]
    assert welcome.extras["limits"]["client_requests"] == 3
    assert welcome.extras["limits"]["budget"] == 0.5
    assert decode_value(send.body) == []


def test_a_refused_request_leaves_nothing_behind() -> None:
    desk = serving("w1")

    id_ = desk.ask("nothing")

    assert desk.verdict()[:2] == (id_, Code.NOT_FOUND)
    assert len(desk.flow.clients) == 0
    assert desk.flow.counters["refused.not_found"] == 1


def test_what_only_the_broker_may_say_is_stripped() -> None:
    desk = serving("w1")

    desk.ask(_caller="root", trace="t")

    extras = desk.handed().message.extras
    assert "_caller" not in extras
    assert extras["trace"] == "t"


def test_a_priority_out_of_range_or_of_no_kind_counts_as_none() -> None:
    desk = serving("w1", client_requests=9)
    desk.ask()
    first = desk.handed()
    for priority in (True, "3", 4, -4, 3, -3):
        desk.ask(priority=priority, client=f"c{priority}")

    assert [p.priority for p in desk.flow.backlog] == [0, 0, 0, 0]
    desk.reply(first)


def test_answers_go_to_the_sessions_new_connection() -> None:
    desk = serving("w1")
    hello(desk, "c1")
    id_ = desk.ask(client="c1")
    send = desk.handed()

    (welcome,) = hello(desk, "c2")

    assert decode_value(welcome.body) == [id_]
    desk.reply(send, body=b"result")
    (answer,) = desk.take()
    assert (answer.identity, answer.message.id) == (b"c2", id_)


def test_an_answer_that_could_not_be_given_waits_for_its_session() -> None:
    desk = serving("w1")
    hello(desk, "c1")
    id_ = desk.ask(client="c1")
    desk.reply(desk.handed(), body=b"result")
    (answer,) = desk.take()
    desk.core.unreachable(answer, desk.now)

    welcome, again = hello(desk, "c2")

    assert decode_value(welcome.body) == [id_]
    assert (again.identity, again.message, again.body) == (
        b"c2",
        answer.message,
        b"result",
    )
    assert decode_value(hello(desk, "c3")[0].body) == []
    assert desk.flow.counters["replies_held"] == 1


def test_an_answer_kept_for_too_long_is_owed_no_more() -> None:
    desk = serving("w1")
    hello(desk, "c1")
    desk.ask(client="c1")
    desk.reply(desk.handed())
    (answer,) = desk.take()
    desk.core.unreachable(answer, desk.now)
    desk.now += 31.0

    (welcome,) = hello(desk, "c2")

    assert decode_value(welcome.body) == []


def test_an_answer_to_a_bare_connection_that_is_gone_is_lost() -> None:
    desk = serving("w1")
    desk.ask()
    desk.reply(desk.handed())
    (answer,) = desk.take()

    desk.core.unreachable(answer, desk.now)

    assert desk.flow.counters["replies_undeliverable"] == 1


def test_cancel_of_a_request_that_waits() -> None:
    desk = serving("w1")
    desk.ask()
    desk.take()
    id_ = desk.ask()

    desk.core.cancel(frontend("c1"), Cancel(id_, {}), desk.now)

    got, code, body = desk.verdict()
    assert (got, code, body["started"]) == (id_, Code.CANCELLED, "no")


def test_cancel_of_a_request_in_hand_goes_to_its_worker() -> None:
    desk = serving("w1")
    id_ = desk.ask()
    send = desk.handed()

    desk.core.cancel(frontend("c1"), Cancel(id_, {}), desk.now)

    cancel, interrupt = desk.take()
    assert (cancel.identity, cancel.message) == (b"w1", Cancel(send.message.id, {}))
    assert (interrupt.socket, interrupt.identity) == (Socket.CONTROL, b"controlS")
    worker = {"worker": b"w1".ljust(16, b".")}
    assert interrupt.message == Cancel(send.message.id, worker)


def test_cancel_by_another_client_or_of_something_unknown_is_ignored() -> None:
    desk = serving("w1")
    id_ = desk.ask()
    desk.take()

    desk.core.cancel(frontend("c2"), Cancel(id_, {}), desk.now)
    desk.core.cancel(frontend("c1"), Cancel(b"other", {}), desk.now)

    assert not desk.take()


def test_what_did_not_load_is_forgotten_when_it_is_gone() -> None:
    desk = serving("w1")
    desk.ask("broken")
    assert "does not load" in desk.verdict()[2]["message"]
    left = {name: entry for name, entry in MANIFEST.items() if name != "broken"}

    desk.register("new", left)

    desk.ask("broken")
    assert desk.verdict()[2]["message"] == "there is no script broken"


def test_catalogue_full_and_brief() -> None:
    desk = serving()

    desk.core.catalogue(frontend("c1"), Catalogue(b"1", {}))
    desk.core.catalogue(frontend("c1"), Catalogue(b"2", {"brief": True}))

    full, brief = (decode_value(send.body)["scripts"] for send in desk.take())
    assert full == MANIFEST
    assert brief == {"read": True, "write": False, "brief": True, "broken": False}


# Workers


def test_a_worker_is_welcomed_under_its_id_and_is_idle() -> None:
    desk = serving()

    (send,) = desk.worker("w1")

    assert isinstance(send.message, Welcome)
    assert send.message.id == b"w1".ljust(16, b".")
    assert send.socket is Socket.BACKEND
    desk.ask()
    assert desk.handed().identity == b"w1"


def test_a_connection_cannot_have_the_share_of_two_sessions() -> None:
    desk = serving("w1")
    peer = frontend("c1")
    desk.core.hello(peer, Hello(b"h1", b"s" * 16, {}), desk.now)
    desk.ask()
    desk.take()

    desk.core.hello(peer, Hello(b"h2", b"t" * 16, {}), desk.now)

    id_, code, _ = desk.verdict()
    assert (id_, code) == (b"h2", Code.FAILED_PRECONDITION)


def test_a_worker_in_whose_place_we_answered_is_asked_what_it_holds() -> None:
    desk = serving("w1")
    desk.ask(budget=1.0)
    desk.handed()
    desk.tick(1.0 + VERDICT_GRACE + RESOLUTION)
    (question,) = [s for s in desk.take() if s.socket is Socket.BACKEND]
    assert isinstance(question.message, Welcome)
    assert question.message.id == RECOUNT
    assert desk.known("w1").hands

    desk.worker("w1", holding=[])  # the request never reached it

    assert not desk.known("w1").hands
    desk.ask()
    assert desk.handed().identity == b"w1"


def test_a_worker_that_is_not_ready_gets_nothing_until_it_is() -> None:
    desk = serving()
    desk.worker("w1", ready=False)
    desk.ask()
    assert not desk.take()

    desk.core.status(desk.backend("w1"), Status(b"w1", True, {}), desk.now)

    assert desk.handed().identity == b"w1"


def test_status_keeps_the_facts_and_its_reason() -> None:
    desk = serving("w1")
    gone = Status(b"w1", False, {"reason": "no database"})
    desk.core.status(desk.backend("w1"), gone, desk.now)
    assert desk.known("w1").facts["reason"] == "no database"

    desk.core.status(desk.backend("w1"), Status(b"w1", True, {}), desk.now)

    facts = desk.known("w1").facts
    assert (facts["reason"], facts["host"]) == ("", "host")


def test_status_of_an_idle_worker_keeps_its_turn() -> None:
    desk = serving("w1", "w2")
    desk.now += 1.0

    desk.core.status(desk.backend("w1"), Status(b"w1", True, {}), desk.now)

    desk.ask()
    assert desk.handed().identity == b"w1"


def test_ready_twice_does_not_free_a_worker() -> None:
    desk = serving("w1")
    desk.ask()
    send = desk.handed()

    desk.worker("w1", holding=[send.message.id])

    desk.ask()
    assert not desk.take()


@pytest.mark.parametrize("link", ["w1", "new"])
def test_what_a_worker_holds_stays_in_its_hands(link: str) -> None:
    desk = serving("w1")
    id_ = desk.ask("write")
    send = desk.handed()

    desk.worker("w1", link=link, holding=[send.message.id])
    desk.reply(send, link, body=b"result")

    (answer,) = desk.take()
    assert (answer.message.id, answer.body) == (id_, b"result")


@pytest.mark.parametrize("holding", [[], None, [b"another"]])
def test_what_a_worker_does_not_hold_was_not_started(holding: Any) -> None:
    desk = serving("w1")
    id_ = desk.ask("write")
    first = desk.handed()

    sends = desk.worker("w1", link="new", holding=holding)

    _, second = sends
    request = second.message
    assert isinstance(request, Request)
    assert second.identity == b"new"
    assert request.id != first.message.id
    assert (request.extras["origin"], request.extras["attempt"]) == (id_, 1)


def test_a_ready_that_was_overtaken_by_a_later_one_is_ignored() -> None:
    desk = serving()
    uuid = b"w1".ljust(16, b".")
    first, second = (
        Ready(uuid + n, uuid, b"S" * 16, "default", "m", "main", {})
        for n in (b"1", b"2")
    )
    desk.core.ready(desk.backend("new"), second, desk.now)
    desk.ask("write")
    desk.take()

    desk.core.ready(desk.backend("old"), first, desk.now)

    assert not desk.take()
    assert [*desk.pool.by_identity] == [b"new"]
    assert len(desk.known("w1").hands) == 1


def test_a_worker_that_comes_back_changed_is_another() -> None:
    desk = serving("w1")
    desk.ask("write")
    send = desk.handed()

    sends = desk.worker("w1", group="other", holding=[send.message.id])

    assert [s.message.code for s in sends if isinstance(s.message, Reply)] == [
        Code.UNAVAILABLE
    ]
    assert desk.known("w1").lane.group == "other"


def test_a_connection_that_changes_hands() -> None:
    desk = serving("w1", "w2")
    desk.ask("read")
    desk.take()

    sends = desk.worker("w2", link="w1")

    assert [*desk.pool.by_identity] == [b"w1"]
    (request,) = [s.message for s in sends if isinstance(s.message, Request)]
    assert request.extras["attempt"] == 2
    sends = desk.worker("w3", link="w1")
    assert [*desk.pool.by_uuid] == [b"w3".ljust(16, b".")]


def test_an_answer_says_the_attempt_and_keeps_the_workers_extras() -> None:
    desk = serving("w1", "w2")
    id_ = desk.ask("read")
    first = desk.handed()
    desk.lost("w1", first.message.id)

    desk.reply(desk.handed(), body=b"result", node="main", ready=True)

    (answer,) = desk.take()
    extras = {"node": "main", "attempt": 2}
    assert answer.message == Reply(id_, Kind.OK, Code.OK, extras)
    assert desk.known("w2").served == 1


def test_what_was_lost_with_another_broker_is_not_repeated_by_this_one() -> None:
    desk = serving("w1", "w2")
    id_ = desk.ask("read", attempt=2)
    send = desk.handed()
    assert send.message.extras["attempt"] == 2

    desk.lost("w1", send.message.id)

    answered, code, fields = desk.verdict()
    assert (answered, code) == (id_, Code.UNAVAILABLE)
    assert (fields["started"], fields["retry_safe"]) == ("yes", True)


@pytest.mark.parametrize("attempt", [0, 1, 3, -1, "2", None, [2], 1 << 60])
def test_what_is_no_second_attempt_is_the_first(attempt: object) -> None:
    desk = serving("w1")
    desk.ask("read", attempt=attempt)
    assert desk.handed().message.extras["attempt"] == 1


def test_a_second_attempt_that_waits_in_vain_may_have_been_started() -> None:
    desk = serving("w1")
    desk.ask("write")
    desk.take()
    desk.ask("read", attempt=2, budget=0.5)
    desk.tick(1.0)
    _, code, fields = desk.verdict()
    assert code is Code.DEADLINE_EXCEEDED
    assert (fields["started"], fields["retry_safe"]) == ("unknown", True)


def test_a_version_that_must_not_run_twice_is_no_second_attempt() -> None:
    desk = serving("w1")
    id_ = desk.ask("read")
    send = desk.handed()
    desk.register("m2", {"read": {"idempotent": False}})
    desk.worker("w2", manifest="m2")

    desk.lost("w1", send.message.id)

    answered, code, fields = desk.verdict()
    assert (answered, code) == (id_, Code.UNAVAILABLE)
    assert (fields["started"], fields["retry_safe"]) == ("unknown", False)
    desk.ask("read")
    assert desk.handed().identity == b"w2", "it is as idle as before"


def test_who_asked_for_a_second_attempt_of_what_is_not_idempotent_gets_it() -> None:
    desk = serving("w1")
    desk.ask("write", attempt=2)
    assert desk.handed().message.extras["attempt"] == 2


@pytest.mark.parametrize(("attempt", "started"), [(1, "no"), (2, "unknown")])
def test_a_workers_error_is_passed_on(attempt: int, started: str) -> None:
    desk = serving("w1", "w2")
    desk.ask("read")
    send = desk.handed()
    if attempt > 1:
        desk.lost("w1", send.message.id)
        send = desk.handed()
    body = encode_value({"message": "late", "started": "no"})
    error = Reply(send.message.id, Kind.ERROR, Code.DEADLINE_EXCEEDED, {})

    desk.core.reply(Peer(Socket.BACKEND, send.identity), error, body, desk.now)

    _, code, fields = desk.verdict()
    assert (code, fields["started"]) == (Code.DEADLINE_EXCEEDED, started)
    assert sum(worker.errors for worker in desk.pool.by_uuid.values()) == 1
    assert desk.flow.counters["replies.error"] == 1


def test_an_answer_can_say_that_the_worker_serves_no_more() -> None:
    desk = serving("w1")
    desk.ask()

    desk.reply(desk.handed(), ready=False)

    desk.take()
    desk.ask()
    assert not desk.take()


@pytest.mark.parametrize("id_", [b"old epoch" + bytes(7), b"", "text"])
def test_answers_that_nobody_waits_for_are_dropped(id_: Any) -> None:
    desk = serving("w1")
    desk.ask()
    send = desk.handed()
    to = desk.backend("w1")

    desk.core.reply(to, Reply(id_, 0, 0, {}), b"", desk.now)
    desk.core.reply(to, Reply(send.message.id, Kind.PARTIAL, 0, {}), b"", desk.now)
    desk.core.returned(to, Return(id_, "", {}), desk.now)

    assert not desk.take()
    assert desk.flow.counters["stale_replies"] == 3
    assert desk.flow.open == 1


def test_an_answer_to_what_another_worker_has_is_dropped() -> None:
    desk = serving("w1", "w2")
    desk.ask()
    send = desk.handed()

    desk.reply(send, "w2")

    assert not desk.take()
    assert desk.flow.open == 1


def test_unknown_workers_are_asked_to_introduce_themselves() -> None:
    desk = serving()
    to = desk.backend("stranger")
    desk.core.reply(to, Reply(b"x", 0, 0, {}), b"", desk.now)
    desk.core.status(to, Status(b"x", True, {}), desk.now)
    desk.core.returned(to, Return(b"x", "", {}), desk.now)

    sends = desk.take()

    assert [s.identity for s in sends] == [b"stranger"] * 3
    assert introductions(sends) == {b"stranger"}


@pytest.mark.parametrize("state", ["RUN", "COMMIT"])
def test_a_reply_of_a_worker_that_was_lost_at_work_is_stale(state: str) -> None:
    desk = serving("w1")
    desk.ask("write")
    send = desk.handed()
    desk.lost("w1", send.message.id, state)
    assert desk.verdict()[1] is Code.UNAVAILABLE

    desk.reply(send, "w1", body=b"result")

    assert introductions(desk.take()) == {b"w1"}
    assert desk.flow.counters["stale_replies"] == 1


def test_what_is_returned_goes_to_another_idle_worker() -> None:
    desk = serving("w1", "w2")
    id_ = desk.ask("write")
    send = desk.handed()

    desk.give_back(send)

    again = desk.handed()
    assert again.identity == b"w2"
    assert again.message.extras["origin"] == id_
    assert desk.flow.counters["returned"] == 1


def test_what_is_returned_by_a_worker_that_cannot_serve_waits() -> None:
    desk = serving("w1")
    desk.ask("write")
    send = desk.handed()

    desk.give_back(send, ready=False)

    assert not desk.take()
    assert not desk.known("w1").ready


def test_a_worker_that_leaves_has_started_nothing() -> None:
    desk = serving("w1", "w2")
    desk.ask("write")
    send = desk.handed()

    desk.core.disconnect(desk.backend("w1"), desk.now)
    desk.core.disconnect(desk.backend("stranger"), desk.now)

    assert desk.handed().identity == b"w2"
    assert send.identity == b"w1"


def test_a_request_that_could_not_be_sent_was_not_started() -> None:
    desk = serving("w1", "w2")
    desk.ask("write")
    send = desk.handed()

    desk.core.unreachable(send, desk.now)

    assert desk.handed().identity == b"w2"
    desk.core.unreachable(send, desk.now)
    assert not desk.take()


def test_a_worker_whose_connection_is_gone_may_have_started() -> None:
    desk = serving("w1")
    id_ = desk.ask("write")
    desk.take()
    desk.core.cancel(frontend("c1"), Cancel(id_, {}), desk.now)
    cancel, interrupt = desk.take()
    desk.core.unreachable(interrupt, desk.now)
    assert not desk.take()

    desk.core.unreachable(cancel, desk.now)

    _, code, body = desk.verdict()
    assert (code, body["started"]) == (Code.CANCELLED, "unknown")


def test_other_messages_that_do_not_arrive_are_forgotten() -> None:
    desk = serving()
    (welcome,) = hello(desk, "c1")
    desk.core.unreachable(welcome, desk.now)
    answer = Send(Socket.CONTROL, b"c1", (), Reply(b"x", 0, 0, {}), b"")
    desk.core.unreachable(answer, desk.now)

    assert not desk.take()
    assert not desk.flow.counters["replies_held"]


# Losses


def test_a_conflict_on_a_standby_is_no_answer_yet() -> None:
    desk = Desk()
    desk.register(scripts={"read": {"access": "read", "idempotent": True}})
    desk.report(node("n1"), node("n2", "primary"))
    desk.worker("w1", node="n1")
    desk.now += 1.0
    desk.worker("w2", node="n2")
    desk.ask("read")
    sent = desk.handed()
    reply = Reply(sent.message.id, Kind.ERROR, Code.ABORTED, {"conflict": True})

    desk.core.reply(Peer(Socket.BACKEND, sent.identity), reply, b"", desk.now)

    assert desk.handed().identity == b"w2"
    assert desk.known("w1").errors == 1


def test_a_loss_of_somebody_unknown_is_ignored() -> None:
    desk = serving("w1")

    desk.lost("stranger")

    assert not desk.take()


def test_a_loss_without_a_readable_id_may_be_of_what_is_in_hand() -> None:
    desk = serving("w1")
    desk.ask("write")
    desk.take()

    desk.core.lost(Lost("text", b"w1".ljust(16, b"."), "IDLE", "?", {}), desk.now)

    _, code, body = desk.verdict()
    assert (code, body["started"]) == (Code.UNAVAILABLE, "unknown")


# Workers that died after they had answered


@pytest.mark.parametrize("script", ["read", "write"])
@pytest.mark.parametrize("state", ["REPLY", "RESET", "IDLE"])
def test_a_reply_that_its_workers_loss_overtook_counts(state: str, script: str) -> None:
    desk = serving("w1", "w2")
    id_ = desk.ask(script)
    send = desk.handed()
    desk.lost("w1", send.message.id, state)
    assert not desk.take()

    desk.reply(send, body=b"result")

    (answer,) = desk.take()
    assert answer.message == Reply(id_, Kind.OK, Code.OK, {"attempt": 1})
    assert answer.body == b"result"
    desk.tick(ANSWER_WAIT)
    assert not desk.take()
    assert [*desk.pool.by_identity] == [b"w2"]
    assert not desk.flow.counters["attempts_repeated"]


@pytest.mark.parametrize("state", ["REPLY", "RESET", "IDLE"])
def test_a_reply_that_never_comes_leaves_the_outcome_unknown(state: str) -> None:
    desk = serving("w1")
    id_ = desk.ask("write")
    send = desk.handed()
    desk.tick()
    desk.lost("w1", send.message.id, state)
    wake_at = desk.core.wake_at()
    assert wake_at == pytest.approx(desk.now + ANSWER_WAIT)
    desk.tick(ANSWER_WAIT - 0.001)
    assert not desk.take()

    desk.now = wake_at
    desk.tick()

    got, code, body = desk.verdict()
    assert (got, code, body["started"]) == (id_, Code.UNAVAILABLE, "unknown")
    assert "signal 9" in body["message"]
    assert not desk.pool.by_uuid
    assert desk.core.wake_at() > wake_at


def test_an_idempotent_request_is_repeated_after_the_wait() -> None:
    desk = serving("w1", "w2")
    desk.ask("read")
    desk.lost("w1", desk.handed().message.id, "REPLY")
    assert not desk.take()

    desk.tick(ANSWER_WAIT)

    again = desk.handed()
    assert (again.identity, again.message.extras["attempt"]) == (b"w2", 2)


def test_the_dead_are_buried_each_in_its_time() -> None:
    desk = serving("w1", "w2")
    for name in ("w1", "w2"):
        desk.ask("write", client=name)
        desk.lost(name, desk.handed().message.id, "REPLY")
        desk.now += ANSWER_WAIT / 2

    desk.tick()

    assert desk.verdict()[1] is Code.UNAVAILABLE
    assert [*desk.pool.by_identity] == [b"w2"]
    desk.tick(ANSWER_WAIT / 2)
    assert desk.verdict()[1] is Code.UNAVAILABLE


def test_the_dead_get_nothing_whatever_they_had_said() -> None:
    desk = serving("w1")
    desk.ask("write")
    first = desk.handed()
    desk.lost("w1", first.message.id, "RESET")
    desk.ask("write")

    desk.core.status(desk.backend("w1"), Status(b"w1", True, {}), desk.now)
    desk.worker("w1", link="new", holding=[first.message.id])
    desk.reply(first, "new")
    desk.core.status(desk.backend("new"), Status(b"w1", True, {}), desk.now)

    messages = [send.message for send in desk.take()]
    assert [m.kind for m in messages if isinstance(m, Reply)] == [Kind.OK]
    assert not [m for m in messages if isinstance(m, Request)]
    desk.worker("w2")
    assert desk.flow.backlog.count == 0


def test_the_dead_that_had_said_goodbye_are_gone_at_once() -> None:
    desk = serving("w1")
    id_ = desk.ask("write")
    send = desk.handed()
    desk.lost("w1", send.message.id, "IDLE")
    desk.reply(send, ready=False)

    desk.core.disconnect(desk.backend("w1"), desk.now)

    assert not desk.pool.by_uuid
    (answer,) = desk.take()
    assert answer.message == Reply(id_, Kind.OK, Code.OK, {"attempt": 1})
    desk.tick(ANSWER_WAIT)
    assert not desk.take()


@pytest.mark.parametrize("started", [b"", b"an earlier one.."])
def test_what_the_dead_had_not_started_waits_for_no_answer(started: bytes) -> None:
    desk = serving("w1", "w2")
    desk.ask("write")
    desk.take()

    desk.lost("w1", started, "IDLE")

    again = desk.handed()
    assert (again.identity, again.message.extras["attempt"]) == (b"w2", 1)
    assert [*desk.pool.by_identity] == [b"w2"]


def test_fresh_scripts_are_not_in_quarantine_any_more() -> None:
    desk = serving("w1")
    for now in (1.0, 2.0, 3.0):
        desk.pool.crashed(Suspect("m", "write"), now)
    assert desk.pool.is_quarantined("write")

    register = Register(b"r", b"S" * 16, "host", "m", {"fresh": True})
    body = encode_value({"scripts": MANIFEST})
    desk.core.register(control(), register, body, desk.now)

    desk.take()
    desk.ask("write")
    assert desk.handed().identity == b"w1"


def test_what_operators_want_of_hosts_is_passed_on() -> None:
    desk = serving()
    desk.core.pass_on(control("operator"), Reload(b"id", {}), desk.now)

    told, answer = desk.take()
    assert (told.identity, told.message) == (b"controlS", Reload(b"id", {}))
    assert decode_value(answer.body) == {"hosts": ["host"]}


# Drain and time


def test_drain_refuses_finishes_and_is_done() -> None:
    desk = serving("w1")
    desk.ask()
    first = desk.handed()
    waiting = desk.ask()
    assert not desk.core.drained
    desk.core.drain(desk.now)
    refused = desk.ask()
    got, code, body = desk.verdict()
    assert (got, code) == (refused, Code.UNAVAILABLE)
    assert (body["retry_safe"], body["started"]) == (True, "no")

    desk.reply(first)
    assert not desk.core.drained
    _, send = desk.take()
    assert send.message.extras["origin"] == waiting
    desk.reply(send)
    desk.take()

    assert desk.core.drained


def test_drain_gives_up_in_the_end() -> None:
    desk = serving(drain_timeout=5.0)
    desk.worker("w1", supervisor=b"T" * 16)
    desk.ask("write")
    desk.ask("write")
    desk.take()
    desk.core.drain(desk.now)
    desk.core.drain(desk.now + 3.0)
    assert desk.core.wake_at() <= 105.0
    desk.tick(4.9)
    assert not desk.take()

    desk.tick(0.2)

    started = [decode_value(send.body)["started"] for send in desk.take()]
    assert started == ["no", "unknown"]
    assert desk.core.drained


def test_wake_at_is_the_next_thing_to_do() -> None:
    desk = Desk(fresh=True)
    assert desk.core.wake_at() == 101.0
    desk.tick(1.5)
    assert desk.core.wake_at() == 102.5
    assert desk.core.draining_until == inf
    desk.register()
    desk.worker()
    desk.ask(budget=0.1)
    desk.take()

    assert desk.core.wake_at() == pytest.approx(101.5 + 0.8, abs=0.011)
    desk.now = desk.core.wake_at()
    desk.tick()
    assert desk.verdict()[1] is Code.DEADLINE_EXCEEDED

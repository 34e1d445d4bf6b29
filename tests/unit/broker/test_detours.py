from __future__ import annotations

from typing import Any

import pytest

from falconas.broker.endings import cancel
from falconas.broker.hosts import SILENCE
from falconas.broker.nodes import DOUBT
from falconas.broker.patience import CATCH_UP
from falconas.broker.records import Peer, Send, Socket
from falconas.codec import decode_value, encode_value
from falconas.errors import Code
from falconas.protocol import Kind, Reply, Request
from tests.unit.broker.desk import Desk, node

SCRIPTS = {
    "read": {"access": "read", "idempotent": True},
    "fresh": {"access": "read", "idempotent": True, "max_lag": 2.0},
    "once": {"access": "read", "idempotent": False},
    "write": {"access": "write"},
    "bound": {"access": "read", "group": "reports"},
}
N1, N2 = node("n1", "primary", lsn=50), node("n2", lsn=40)
DOWN = node("n1", "primary", up=False)
MIN = {"main": 45}


@pytest.fixture
def desk() -> Desk:
    """w1 at the primary n1, w2 at the standby n2, both idle; w2 for longer."""
    desk = Desk()
    desk.register(scripts=SCRIPTS)
    desk.report(N1, N2)
    for name, at in (("w2", "n2"), ("w1", "n1")):
        desk.worker(name, node=at)
        desk.now += 0.01
    return desk


def handed(sends: list[Send]) -> list[bytes]:
    """Return the workers that were sent a request."""
    return [send.identity for send in sends if isinstance(send.message, Request)]


def conflict(desk: Desk, sent: Send, started: str = "yes", **extras: Any) -> None:
    body = encode_value({"message": "conflict", "started": started})
    extras = {"conflict": True, **extras}
    reply = Reply(sent.message.id, Kind.ERROR, Code.ABORTED, extras)
    desk.core.reply(Peer(Socket.BACKEND, sent.identity), reply, body, desk.now)


# Where a request goes


def test_writes_go_to_the_primary_and_reads_to_who_has_been_idle_longest(
    desk: Desk,
) -> None:
    desk.ask("write")
    desk.ask("read", "c2")

    assert handed(desk.take()) == [b"w1", b"w2"]


def test_a_write_waits_for_the_primary_though_a_standby_is_idle(desk: Desk) -> None:
    desk.ask("write")
    first = desk.handed()
    second = desk.ask("write")
    assert handed(desk.take()) == []

    desk.reply(first)

    assert [s.message.extras["origin"] for s in desk.take()[1:]] == [second]


def test_a_lagging_standby_gets_no_reads_that_must_be_fresh(desk: Desk) -> None:
    desk.report(N1, node("n2", lag=2.5))

    desk.ask("fresh")
    desk.ask("read", "c2")

    assert handed(desk.take()) == [b"w1", b"w2"]


def test_who_waits_is_served_when_the_lag_falls(desk: Desk) -> None:
    desk.report(N1, node("n2", lag=2.5))
    desk.ask("write")
    desk.ask("fresh")
    desk.take()

    assert handed(desk.report(N1, node("n2", lag=2.1))) == []
    assert handed(desk.report(N1, node("n2", lag=2.0))) == [b"w2"]


def test_who_waits_follows_the_promotion(desk: Desk) -> None:
    desk.report(DOWN, N2)
    desk.ask("write")
    assert handed(desk.take()) == []

    promoted = node("n1", timeline=1), node("n2", "primary", timeline=1)
    assert handed(desk.report(*promoted)) == [b"w2"]


def test_a_bound_script_runs_in_its_group_only(desk: Desk) -> None:
    desk.ask("bound")
    assert handed(desk.take()) == []

    assert handed(desk.worker("w3", group="reports", node="n2")) == [b"w3"]


def test_reports_of_an_unknown_supervisor_do_not_count(desk: Desk) -> None:
    desk.report(node("n2", "primary", timeline=5), uuid=b"T" * 16)

    desk.ask("write")

    assert handed(desk.take()) == [b"w1"]


def test_what_a_supervisor_said_goes_with_it(desk: Desk) -> None:
    desk.register(uuid=b"T" * 16, scripts=SCRIPTS)
    desk.worker("w3", node="n3", supervisor=b"S" * 16)
    desk.report(node("n3"), uuid=b"T" * 16)
    desk.ask("write")
    desk.ask("write")
    assert handed(desk.take()) == [b"w1"]

    peer = Peer(Socket.CONTROL, b"controlT")
    desk.core.disconnect(peer, desk.now)

    # Nothing is known of n3 any more: its worker can tell.
    assert handed(desk.take()) == [b"w3"]


def test_nothing_is_filed_anew_while_routes_stay(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    filed: list[float] = []
    monkeypatch.setattr(desk.flow, "refile", filed.append)
    monkeypatch.setattr(desk.flow, "move", lambda *_: filed.append(0.0))

    for lsn in range(60, 70):
        desk.report(node("n1", "primary", lsn=lsn), node("n2", lsn=lsn, lag=1.0))

    assert filed == []


def test_what_goes_on_waiting_where_it_does_is_left_alone(desk: Desk) -> None:
    desk.ask("write")
    desk.ask("write")
    desk.take()
    (waiting,) = desk.flow.backlog
    queue, due = waiting.queue, waiting.due

    desk.report(N1, node("n2", lag=2.5))  # only what must be fresh has another way

    assert waiting.queue is queue
    assert waiting.due == due


def test_a_report_without_news_is_no_reason_to_look(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[bool] = []
    monkeypatch.setattr(desk.pool, "regrade", lambda: looked.append(True))

    desk.report(N1, N2)

    assert looked == []


# No node suits


def test_the_verdict_names_each_node(desk: Desk) -> None:
    desk.report(node("n1", "primary", up=False, reason="connection refused"), N2)
    desk.ask("write")
    desk.tick(desk.core.settings.worker_wait)

    _, code, error = desk.verdict()

    assert code is Code.UNAVAILABLE
    assert error["message"] == (
        "no worker is ready for script write"
        " (n1: down: connection refused; n2: a standby)"
    )
    assert error["started"] == "no"
    assert error["retry_safe"]
    assert error["retry_after"] == desk.core.settings.worker_wait


def test_nodes_of_other_databases_are_not_named(desk: Desk) -> None:
    shard = node("s1", "primary", database="shard")
    desk.report(DOWN, N2, shard)
    desk.ask("write")
    desk.tick(desk.core.settings.worker_wait)

    assert "s1" not in desk.verdict()[2]["message"]


def test_a_node_without_a_worker_is_named_as_such(desk: Desk) -> None:
    desk.report(N1, N2, node("n3"))
    desk.ask("bound")
    desk.tick(desk.core.settings.worker_wait)

    assert desk.verdict()[2]["message"].endswith(
        "(n1: it has no worker of group reports; n2: it has no worker of group reports;"
        " n3: it has no worker of group reports)"
    )


# Read your writes


def test_a_request_that_a_node_is_behind_goes_where_it_is_known_to_be(
    desk: Desk,
) -> None:
    desk.worker("w3", node="n2")
    id_ = desk.ask("read", min_lsn=MIN)
    sent = desk.handed()
    assert sent.identity == b"w2"

    desk.give_back(sent, behind=True)

    again = desk.handed()
    assert again.identity == b"w1"
    assert again.message.extras["origin"] == id_
    assert again.message.extras["attempt"] == 1
    desk.ask("read")
    assert handed(desk.take()) == [b"w3"]  # others are served there as before


def test_a_standby_that_does_not_follow_the_primary_is_not_even_asked(
    desk: Desk,
) -> None:
    """It may well have replayed that far, but in another history."""
    promoted = node("n1", "primary", lsn=50, timeline=2)
    desk.report(promoted, node("n2", lsn=99, timeline=1))
    desk.ask("read", min_lsn=MIN)
    desk.ask("fresh")
    desk.ask("read")
    assert handed(desk.take()) == [b"w1", b"w2"]  # the plain read goes past "fresh"

    assert handed(desk.report(promoted, node("n2", lsn=99, timeline=2))) == []
    assert desk.flow.backlog.count == 1


def test_who_waits_goes_to_a_standby_that_follows_at_last(desk: Desk) -> None:
    gone = node("n1", "primary", up=False, timeline=2)
    desk.report(gone, node("n2", lsn=99, timeline=1))
    desk.ask("read", min_lsn=MIN)
    assert handed(desk.take()) == []

    assert handed(desk.report(gone, node("n2", lsn=99, timeline=2))) == [b"w2"]


def test_it_waits_for_the_first_that_has_replayed(desk: Desk) -> None:
    desk.ask("write")
    desk.take()
    desk.ask("read", min_lsn=MIN)
    desk.give_back(desk.handed(), behind=True)
    assert handed(desk.take()) == []

    assert handed(desk.report(N1, node("n2", lsn=44))) == []
    assert handed(desk.report(N1, node("n2", lsn=45))) == [b"w2"]


def test_a_node_that_is_behind_its_report_is_in_doubt(desk: Desk) -> None:
    desk.report(DOWN, node("n2", lsn=45))
    desk.ask("read", min_lsn=MIN)

    desk.give_back(desk.handed(), behind=True)

    assert handed(desk.take()) == []
    assert handed(desk.report(node("n2", lsn=46))) == [b"w2"]


def test_only_who_asked_for_a_position_can_be_early(desk: Desk) -> None:
    desk.ask("read")
    sent = desk.handed()

    desk.give_back(sent, behind=True)

    assert handed(desk.take()) == [b"w1"]
    assert desk.pool.nodes.facts["n2"].lsn == 40


def test_the_wait_for_a_node_is_bounded_however_often_it_comes_back(
    desk: Desk,
) -> None:
    desk.report(DOWN, node("n2", lsn=45))
    desk.ask("read", budget=100.0, min_lsn=MIN)
    sent = desk.handed()
    for _ in range(8):
        desk.give_back(sent, behind=True)
        desk.tick(CATCH_UP / 9)
        (sent,) = desk.report(DOWN, node("n2", lsn=45))
    desk.give_back(sent, behind=True)

    desk.tick(CATCH_UP / 9 + 0.02)

    _, code, error = desk.verdict()
    assert code is Code.UNAVAILABLE
    assert "n2: it has not replayed that far" in error["message"]
    assert error["started"] == "no"


@pytest.mark.parametrize("lost", ["worker", "node"])
def test_nobody_waits_for_a_node_to_catch_up_that_does_not_serve(
    desk: Desk, lost: str
) -> None:
    wait = desk.core.settings.worker_wait
    assert wait < CATCH_UP
    desk.report(DOWN, N2)
    desk.ask("read", budget=100.0, min_lsn=MIN)
    desk.give_back(desk.handed(), behind=True)
    desk.report(DOWN, N2)
    desk.tick(wait + 0.02)
    assert desk.take() == []

    if lost == "worker":
        desk.worker("w2", node="n2", ready=False)
        desk.tick(0.02)
    else:
        desk.report(DOWN, node("n2", up=False))
        desk.now += 0.02
        desk.core.tick(desk.now)

    (send,) = [s for s in desk.take() if isinstance(s.message, Reply)]
    assert send.message.code == Code.UNAVAILABLE  # type: ignore[union-attr]


@pytest.mark.parametrize("wait", [1.0, 7.0])
def test_a_node_that_serves_has_time_to_catch_up(wait: float) -> None:
    desk = Desk(worker_wait=wait)
    desk.register(scripts=SCRIPTS)
    desk.report(DOWN, N2)
    desk.worker("w2", node="n2")
    desk.ask("read", budget=100.0, min_lsn=MIN)
    desk.give_back(desk.handed(), behind=True)

    for _ in range(round(2 * max(wait, CATCH_UP)) - 1):
        desk.tick(0.5)
        assert desk.report(DOWN, N2) == []
    assert handed(desk.report(DOWN, node("n2", lsn=45))) == [b"w2"]


def test_who_waits_for_a_node_is_served_in_the_order_of_age(desk: Desk) -> None:
    desk.report(DOWN, N2)
    desk.worker("w3", node="n2")
    desk.worker("w4", node="n2")
    ids = [desk.ask("read", "c1", min_lsn=MIN), desk.ask("read", "c2", min_lsn=MIN)]
    ids.append(desk.ask("read", "c1", min_lsn=MIN))
    for sent in reversed(desk.take()):
        desk.give_back(sent, behind=True)
    for name in ("w3", "w4"):
        desk.worker(name, node="n2", ready=False)

    sends = desk.report(DOWN, node("n2", lsn=45))
    origins = []
    while handed(sends):
        origins.append(sends[-1].message.extras["origin"])
        desk.reply(sends[-1])
        sends = desk.take()

    assert origins == ids


# Reads that must be fresh


def test_where_no_lag_is_known_nothing_runs_that_must_be_fresh() -> None:
    desk = Desk()
    desk.register(scripts=SCRIPTS)
    desk.worker("w2", node="n2")
    desk.ask("read")
    desk.reply(desk.handed())
    desk.take()
    desk.ask("fresh")
    assert handed(desk.take()) == []

    assert handed(desk.report(node("n2", lag=2.5))) == []
    assert handed(desk.report(node("n2", lag=1.5))) == [b"w2"]


def test_the_verdict_says_that_no_lag_is_known() -> None:
    desk = Desk()
    desk.register(scripts=SCRIPTS)
    desk.worker("w2", node="n2")
    desk.ask("fresh")
    desk.tick(desk.core.settings.worker_wait)

    message = desk.verdict()[2]["message"]
    assert message.endswith("fresh (n2: its lag is not known)")


def test_a_silent_supervisors_lag_is_not_believed_for_ever(desk: Desk) -> None:
    desk.report(node("n1", "primary", up=False), N2)
    desk.tick(SILENCE + 1.1)
    desk.worker("w2", node="n2")  # it lives, and was asked to come back
    desk.ask("fresh")

    assert handed(desk.take()) == []


# Writes refused


def test_a_write_that_a_node_refuses_waits_for_news_of_it(desk: Desk) -> None:
    desk.ask("write")
    sent = desk.handed()
    desk.ask("write")

    desk.give_back(sent, refused=True)

    assert handed(desk.take()) == []
    assert desk.flow.backlog.count == 2
    assert handed(desk.report(node("n1", timeline=1), N2)) == []
    promoted = node("n2", "primary", timeline=2)
    assert handed(desk.report(node("n1", timeline=1), promoted)) == [b"w2"]


def test_a_refusal_without_reports_holds_for_a_while() -> None:
    desk = Desk(worker_wait=60.0)
    desk.register(scripts=SCRIPTS)
    desk.worker("bare")
    desk.ask("write", budget=50.0)

    desk.give_back(desk.handed(), refused=True)

    assert handed(desk.take()) == []
    desk.report()
    desk.tick(DOUBT - 0.1)
    desk.report()
    assert handed(desk.take()) == []
    desk.tick(1.1)
    assert handed(desk.take()) == [b"bare"]


def test_a_cancelled_request_ends_when_it_is_sent_back(desk: Desk) -> None:
    desk.ask("read", min_lsn=MIN)
    sent = desk.handed()
    (pending,) = desk.known("w2").hands.values()
    cancel(desk.flow, pending, desk.now)
    desk.take()

    desk.give_back(sent, behind=True)

    assert desk.verdict()[1] is Code.CANCELLED


# Recovery conflicts


def test_what_a_recovery_cancels_is_tried_once_on_the_primary(desk: Desk) -> None:
    desk.ask("read")
    sent = desk.handed()

    conflict(desk, sent)

    again = desk.handed()
    assert again.identity == b"w1"
    assert again.message.extras["attempt"] == 2
    conflict(desk, again, started="no")
    _, code, error = desk.verdict()
    assert code is Code.ABORTED
    assert error["started"] == "unknown"


def test_it_waits_for_the_primary_only(desk: Desk) -> None:
    desk.ask("write")
    first = desk.handed()
    desk.ask("read")
    conflict(desk, desk.handed())
    assert handed(desk.take()) == []
    desk.worker("w3", node="n2")
    assert handed(desk.take()) == []

    desk.reply(first)

    assert handed(desk.take()) == [b"w1"]


@pytest.mark.parametrize("script", ["once", "read"])
def test_the_error_goes_out_where_nothing_can_be_tried(desk: Desk, script: str) -> None:
    if script == "read":
        desk.worker("w1", node="n1", ready=False)
    desk.ask(script)
    sent = desk.handed()

    conflict(desk, sent, ready=False)

    (send,) = desk.take()
    assert isinstance(send.message, Reply)
    assert send.message.code == Code.ABORTED
    assert "conflict" not in send.message.extras
    assert decode_value(send.body)["started"] == "yes"
    assert not desk.known("w2").ready


def test_a_conflict_is_not_repeated_when_it_is_late_or_unwanted(desk: Desk) -> None:
    desk.ask("read", budget=1.0)
    sent = desk.handed()
    desk.now += 1.0
    conflict(desk, sent)
    assert desk.verdict()[1] is Code.ABORTED

    desk.ask("read", budget=1.0)
    sent = desk.handed()
    (pending,) = desk.pool.by_identity[sent.identity].hands.values()
    cancel(desk.flow, pending, desk.now)
    desk.take()
    conflict(desk, sent)
    assert desk.verdict()[1] is Code.ABORTED


def test_another_error_goes_out_as_it_is(desk: Desk) -> None:
    desk.ask("read")
    sent = desk.handed()

    conflict(desk, sent, conflict=False)

    assert desk.verdict()[1] is Code.ABORTED


def lost(desk: Desk, sent: Send) -> None:
    """Let a worker say that its connection ended under the script."""
    fields = {"message": "the connection was lost", "started": "yes"}
    extras = {"lost": True, "ready": False}
    reply = Reply(sent.message.id, Kind.ERROR, Code.UNAVAILABLE, extras)
    peer = Peer(Socket.BACKEND, sent.identity)
    desk.core.reply(peer, reply, encode_value(fields), desk.now)


def test_a_read_whose_connection_ends_goes_to_another_worker_once(desk: Desk) -> None:
    desk.ask("read")
    first = desk.handed()

    lost(desk, first)

    again = desk.handed()
    assert again.identity != first.identity
    assert again.message.extras["attempt"] == 2
    lost(desk, again)
    _, code, error = desk.verdict()
    assert code is Code.UNAVAILABLE
    assert error["started"] == "yes"


def test_what_may_run_once_only_ends_with_its_connection(desk: Desk) -> None:
    desk.ask("once")
    lost(desk, desk.handed())
    (send,) = desk.take()
    assert isinstance(send.message, Reply)
    assert send.message.code == Code.UNAVAILABLE
    assert "lost" not in send.message.extras


def test_an_unknown_node_is_no_primary_to_try() -> None:
    desk = Desk()
    desk.register(scripts=SCRIPTS)
    desk.worker("w1")
    desk.worker("w2")
    desk.ask("read")

    conflict(desk, desk.handed())

    assert desk.verdict()[1] is Code.ABORTED

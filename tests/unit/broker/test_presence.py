"""Clients whose requests end with them: asked, missed, back again, or gone."""

from __future__ import annotations

from typing import Any

import pytest

from falconas.broker.expiry import RESOLUTION
from falconas.broker.flow import VERDICT_GRACE
from falconas.broker.presence import QUESTION, RETURN_WAIT, watch
from falconas.broker.records import Peer, Send, Socket
from falconas.errors import Code
from falconas.protocol import Cancel, Hello, Ping
from tests.unit.broker.desk import Desk, serving

SESSION = b"session of 16 b."


def hello(desk: Desk, link: str) -> None:
    peer = Peer(Socket.FRONTEND, link.encode())
    desk.core.hello(peer, Hello(b"h", SESSION, {}), desk.now)
    desk.take()


def asked(desk: Desk) -> list[Send]:
    """Let the next sweep come; return the PINGs of it."""
    desk.tick(1.0)
    return [send for send in desk.take() if isinstance(send.message, Ping)]


def lose(desk: Desk) -> None:
    """Let the client's connection be gone when it is asked."""
    (ping,) = asked(desk)
    desk.core.unreachable(ping, desk.now)


def cancels(desk: Desk) -> list[Send]:
    return [send for send in desk.take() if isinstance(send.message, Cancel)]


@pytest.fixture
def desk() -> Desk:
    """A session whose request, in hand, is to end with it."""
    desk = Desk()
    desk.register(uuid=b"T" * 16)
    desk.worker("w1", supervisor=b"S" * 16)
    hello(desk, "c1")
    desk.ask("write", cancel_on_disconnect=True)
    desk.tick()
    desk.take()
    return desk


@pytest.mark.parametrize("said", [True, False, 1, "yes", None])
def test_only_true_and_no_envelope_count(said: Any) -> None:
    flow = serving().flow
    client = flow.clients.of(b"c1", 0.0)

    assert watch(flow, client, {"cancel_on_disconnect": said}, ()) is (said is True)
    assert (client in flow.clients.watching) is (said is True)
    assert not watch(flow, client, {"cancel_on_disconnect": said}, (b"",))
    assert not watch(flow, client, {}, ())


def test_who_has_such_a_request_is_asked_once_a_second(desk: Desk) -> None:
    desk.ask("read", client="c2")

    for _ in range(2):
        (ping,) = asked(desk)
        assert (ping.socket, ping.identity) == (Socket.FRONTEND, b"c1")
        assert (ping.envelope, ping.message) == ((), Ping(QUESTION, {}))


def test_only_while_it_has_one(desk: Desk) -> None:
    client = desk.flow.clients.find(b"c1")
    assert client is not None
    (pending,) = client.pending.values()
    desk.core.cancel(Peer(Socket.FRONTEND, b"c1"), Cancel(pending.origin, {}), desk.now)
    desk.tick(VERDICT_GRACE + RESOLUTION)
    assert not client.pending

    assert not asked(desk)
    assert not desk.flow.clients.watching

    desk.ask("write", cancel_on_disconnect=True)
    assert len(asked(desk)) == 1


def test_a_client_that_is_there_keeps_its_request(desk: Desk) -> None:
    for _ in range(10):
        asked(desk)

    assert desk.flow.open == 1
    assert not desk.flow.counters["clients_gone"]


def test_a_session_that_does_not_come_back_is_cancelled(desk: Desk) -> None:
    other = desk.ask("write")  # without the wish
    lose(desk)
    for _ in range(int(RETURN_WAIT) - 1):
        assert not asked(desk)
        assert not cancels(desk)

    desk.tick(1.0)

    assert [send.identity for send in cancels(desk)] == [b"w1"]
    assert [request.origin for request in desk.flow.backlog] == [other]
    desk.tick(1.0)
    assert not cancels(desk)
    assert desk.flow.counters["clients_gone"] == 1


def test_what_waits_is_cancelled_likewise(desk: Desk) -> None:
    desk.ask("write", cancel_on_disconnect=True)
    lose(desk)
    desk.tick(RETURN_WAIT)

    assert desk.verdict()[1] is Code.CANCELLED


def test_what_its_client_has_cancelled_is_not_cancelled_again(desk: Desk) -> None:
    client = desk.flow.clients.find(b"c1")
    assert client is not None
    (id_,) = client.pending
    desk.core.cancel(Peer(Socket.FRONTEND, b"c1"), Cancel(id_, {}), desk.now)
    desk.take()
    client.gone_at = desk.now - RETURN_WAIT

    desk.tick()
    desk.core._sweep_at = desk.now
    desk.tick()

    assert not cancels(desk)
    assert not desk.flow.counters["clients_gone"]


def test_a_session_that_comes_back_in_time_is_there(desk: Desk) -> None:
    lose(desk)
    desk.now += RETURN_WAIT - 0.1
    hello(desk, "c2")

    (ping,) = asked(desk)

    assert ping.identity == b"c2"
    assert desk.flow.open == 1


def test_only_the_first_sign_counts(desk: Desk) -> None:
    (ping,) = asked(desk)
    desk.core.unreachable(ping, desk.now)
    desk.now += RETURN_WAIT - 0.5
    desk.core.unreachable(ping, desk.now)  # had waited for a slow connection

    desk.tick(0.5)

    assert cancels(desk)


def test_a_bare_connection_cannot_come_back() -> None:
    desk = serving("w1")
    desk.ask("write", cancel_on_disconnect=True)
    desk.ask("write")
    desk.take()

    lose(desk)

    assert {send.identity for send in cancels(desk)} == {b"w1", b"controlS"}
    assert desk.flow.backlog.count == 1


def test_a_connection_that_is_nobodys_any_more_is_not_missed(desk: Desk) -> None:
    (ping,) = asked(desk)
    hello(desk, "c2")

    desk.core.unreachable(ping, desk.now)

    desk.tick(RETURN_WAIT)
    assert not cancels(desk)

"""RELOAD and DRAIN of hosts: who is told, and what the operator hears."""

from __future__ import annotations

from typing import Any

import pytest

from falconas.broker.quarantine import Suspect
from falconas.broker.records import Peer, Send, Socket
from falconas.codec import decode_value
from falconas.errors import Code
from falconas.protocol import Drain, Register, Reload, Reply
from tests.unit.broker.desk import Desk

OPERATOR = Peer(Socket.CONTROL, b"operator")


@pytest.fixture
def desk() -> Desk:
    """Two hosts: a with one supervisor, b with two."""
    desk = Desk()
    for uuid, host in ((b"1" * 16, "a"), (b"2" * 16, "b"), (b"3" * 16, "b")):
        register = Register(b"r", uuid, host, "m", {})
        peer = Peer(Socket.CONTROL, uuid[:1])
        desk.core.register(peer, register, b"\x81\xa7scripts\x80", desk.now)
    desk.take()
    return desk


def split(sends: list[Send]) -> tuple[set[bytes], Any]:
    """Return who was told, and the value of the answer."""
    (answer,) = [send for send in sends if isinstance(send.message, Reply)]
    assert answer.identity == b"operator"
    assert answer.message.id == b"id"
    told = {send.identity for send in sends if send is not answer}
    return told, decode_value(answer.body)


def test_reload_is_passed_on_to_everybody(desk: Desk) -> None:
    message = Reload(b"id", {"future": 1, "_caller": "me"})
    desk.core.pass_on(OPERATOR, message, desk.now)

    sends = desk.take()
    told, body = split(sends)
    assert told == {b"1", b"2", b"3"}
    assert sends[0].message == Reload(b"id", {"future": 1})
    assert sorted(body["hosts"]) == ["a", "b", "b"]


@pytest.mark.parametrize("kind", [Reload, Drain])
def test_only_a_reload_lifts_the_quarantine(desk: Desk, kind: Any) -> None:
    desk.register("m", {"daily": {}}, uuid=b"2" * 16)
    for now in (1.0, 2.0, 3.0):
        desk.pool.crashed(Suspect("m", "daily"), now)

    desk.core.pass_on(OPERATOR, kind(b"id", {"host": "a"}), desk.now)

    assert bool(desk.pool.quarantine) is (kind is Drain)
    desk.take()


@pytest.mark.parametrize("kind", [Reload, Drain])
def test_one_host_is_told(desk: Desk, kind: Any) -> None:
    desk.core.pass_on(OPERATOR, kind(b"id", {"host": "b"}), desk.now)

    told, body = split(desk.take())
    assert told == {b"2", b"3"}
    assert body == {"hosts": ["b", "b"]}


def test_a_host_that_is_unknown_is_not_found(desk: Desk) -> None:
    desk.core.pass_on(OPERATOR, Drain(b"id", {"host": "c"}), desk.now)

    _, code, body = desk.verdict()
    assert code is Code.NOT_FOUND
    assert "no host c; known: a, b" in body["message"]


def test_a_host_is_a_str(desk: Desk) -> None:
    desk.core.pass_on(OPERATOR, Reload(b"id", {"host": 1}), desk.now)

    assert desk.verdict()[1] is Code.INVALID_ARGUMENT


def test_without_a_supervisor_nothing_can_be_reloaded() -> None:
    desk = Desk()
    desk.core.pass_on(OPERATOR, Reload(b"id", {}), desk.now)

    _, code, body = desk.verdict()
    assert code is Code.UNAVAILABLE
    assert "no supervisor is connected" in body["message"]
    assert body["retry_safe"]

"""What supervisors say, and what becomes of workers that they do not name."""

from __future__ import annotations

import pytest

from falconas.broker.hosts import SILENCE
from falconas.broker.pool import UNLISTED_FOR
from falconas.broker.records import Peer, Send, Socket
from falconas.codec import decode_value, encode_value
from falconas.errors import Code
from falconas.protocol import Heartbeat, Register, Reply, Request, Welcome
from tests.unit.broker.desk import EPOCH, Desk, introductions, node, serving


def control(name: str = "controlS") -> Peer:
    return Peer(Socket.CONTROL, name.encode())


def workers(*names: str) -> bytes:
    """Return the body of a HEARTBEAT of these workers."""
    uuids = [name.encode().ljust(16, b".") for name in names]
    return encode_value({"workers": uuids})


def beat(desk: Desk, body: bytes, uuid: bytes = b"S" * 16) -> list[Send]:
    heartbeat = Heartbeat(b"h", uuid, {})
    desk.core.heartbeat(control(), heartbeat, body, desk.now)
    return desk.take()


def test_a_manifest_that_is_none_is_refused() -> None:
    desk = Desk()
    for body in (b"\xc1", encode_value({"scripts": 1})):
        register = Register(b"r", b"S" * 16, "host", "m", {})
        desk.core.register(control(), register, body, desk.now)
        assert desk.verdict()[:2] == (b"r", Code.INVALID_ARGUMENT)

    assert not desk.core.hosts.supervisors


def test_those_whom_a_heartbeat_leaves_out_get_nothing_by_its_news() -> None:
    desk = serving("w1")
    desk.report(node("main"))
    desk.ask("write")
    beat(desk, workers())
    desk.now += UNLISTED_FOR
    body = {"workers": [], "nodes": [node("main", "primary")]}

    sends = beat(desk, encode_value(body))

    assert not [s for s in sends if isinstance(s.message, Request)]
    assert desk.flow.backlog.count == 1


def test_register_is_welcomed_each_time() -> None:
    desk = Desk()
    for _ in range(2):
        (send,) = desk.register()
        assert isinstance(send.message, Welcome)
        assert send.message.id == b"r"


def test_heartbeat_is_answered_with_the_clock() -> None:
    desk = serving("w1")
    desk.now += 2.0

    (send,) = beat(desk, workers("w1"))

    assert isinstance(send.message, Heartbeat)
    assert send.message.extras == {"epoch": EPOCH, "now": 102.0}
    assert desk.known("w1")


def test_workers_that_two_heartbeats_do_not_list_are_gone() -> None:
    desk = serving("w1", "w2", "w3")
    desk.worker("other", supervisor=b"T" * 16)
    desk.ask("write")
    desk.take()
    only_w2 = workers("w2")

    assert not introductions(beat(desk, only_w2))
    assert not introductions(beat(desk, only_w2))  # at once, for something changed
    assert len(desk.pool.by_identity) == 4
    desk.now += UNLISTED_FOR
    sends = beat(desk, only_w2)

    assert [*desk.pool.by_identity] == [b"w2", b"other"]
    (answer,) = [s for s in sends if isinstance(s.message, Reply)]
    assert decode_value(answer.body)["started"] == "unknown"
    # Should they live after all, they can come back.
    assert introductions(sends) == {b"w1", b"w3"}


def test_a_worker_that_is_listed_in_between_stays() -> None:
    desk = serving("w1")
    nobody, all_ = workers(), workers("w1")

    for body in (nobody, all_, nobody, all_, nobody):
        desk.now += UNLISTED_FOR
        beat(desk, body)

    assert desk.known("w1")


@pytest.mark.parametrize(
    "body",
    [b"", b"\xc1", *map(encode_value, (1, [], {}, {"workers": 1, "nodes": {"a": 1}}))],
)
def test_a_heartbeat_without_a_list_says_nothing_of_workers(body: bytes) -> None:
    desk = serving("w1")

    for _ in range(3):
        desk.now += UNLISTED_FOR
        beat(desk, body)

    assert desk.known("w1")


def test_an_unknown_supervisor_is_asked_to_register() -> None:
    desk = serving("w1")

    assert introductions(beat(desk, b"", b"T" * 16)) == {b"controlS"}


def test_missed_heartbeats_are_the_loss_of_all_workers() -> None:
    desk = serving("w1", "w2")
    desk.worker("w3", supervisor=b"T" * 16)
    desk.register(uuid=b"T" * 16)
    desk.ask("read")
    desk.take()
    desk.now += 2.0
    beat(desk, b"", b"T" * 16)

    desk.tick(SILENCE - 1.5)

    sends = desk.take()
    assert introductions(sends) == {b"w1", b"w2"}
    (again,) = [s for s in sends if isinstance(s.message, Request)]
    assert again.identity == b"w3"
    assert [*desk.pool.by_identity] == [b"w3"]


def test_a_supervisor_that_leaves_is_not_missed() -> None:
    desk = serving("w1")

    desk.core.disconnect(control(), desk.now)

    assert not desk.core.hosts.supervisors
    assert desk.known("w1")

"""The client's socket against a real one on the other side."""

from __future__ import annotations

import logging
import select
from itertools import count
from time import monotonic
from typing import TYPE_CHECKING, Any

import pytest
import zmq

from falconas.client import link
from falconas.client.core import ClientCore
from falconas.client.link import BATCH, Link
from falconas.errors import Unavailable
from falconas.protocol import Kind, Reply, Request, encode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.integration.client.conftest import Broker


class Client:
    """A core and its link, driven by hand."""

    def __init__(self, endpoint: str) -> None:
        self.core = ClientCore(bytes(16), endpoint)
        self.link = Link(endpoint, self.core)

    def until(self, done: Callable[[], bool]) -> None:
        """Do what the shells do: sleep on the file descriptors, step while busy."""
        deadline = monotonic() + 10.0
        while not done():
            now = monotonic()
            assert now < deadline
            if not self.link.step(now) and not done():
                wait = min(deadline, self.core.wake_at()) - now
                select.select(self.link.fds, [], [], max(0.0, wait))


@pytest.fixture
def client(broker: Broker) -> Iterator[Client]:
    client = Client(broker.endpoint)
    yield client
    client.link.close()


def meet(client: Client, broker: Broker) -> None:
    client.until(lambda: client.core.counters["connected"] == 1)
    client.link.step(monotonic())
    broker.expect_hello()
    client.until(lambda: client.core._welcomed)
    client.core.request("first", "echo", b"", monotonic())
    client.until(lambda: not client.core.sendable)


def test_more_than_a_batch_is_moved_without_news_on_the_descriptors(
    client: Client, broker: Broker
) -> None:
    meet(client, broker)
    count = 3 * BATCH
    for index in range(count):
        client.core.request(index, "echo", b"", monotonic())
    client.until(lambda: not client.core.sendable)
    for _ in range(count + 1):
        request, _ = broker.expect(Request)
        broker.reply(request.id, 1)
    client.until(lambda: client.core.counters["replies"] == count + 1)
    assert len(client.core.take_verdicts()) == count + 1


def test_a_reply_that_comes_while_sending_is_not_overlooked(
    client: Client, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    meet(client, broker)
    request, _ = broker.expect(Request)
    while client.link.step(monotonic()):
        pass
    client.core.request("second", "echo", b"", monotonic())
    tick = client.core.tick

    def reply(now: float) -> None:
        broker.reply(request.id, 1)
        assert select.select(client.link.fds[:1], [], [], 10.0)[0]
        tick(now)

    monkeypatch.setattr(client.core, "tick", reply)
    assert client.link.step(monotonic())
    assert client.core.counters["replies"] == 0
    monkeypatch.undo()
    assert not client.link.step(monotonic())
    assert client.core.counters["replies"] == 1


def test_a_new_connection_that_comes_while_sending_is_greeted_at_once(
    client: Client, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    meet(client, broker)
    client.until(lambda: not client.link.step(monotonic()))
    send = client.link._send

    def reconnect(now: float) -> None:
        send(now)
        client.core.disconnected(now)
        client.core.connected(now)  # as the monitor tells in the look that follows

    client.core.request("second", "echo", b"", monotonic())
    monkeypatch.setattr(client.link, "_send", reconnect)
    assert client.link.step(monotonic()), "it would sleep until HELLO is due again"
    monkeypatch.undo()
    client.until(lambda: not client.core._control)


def test_what_the_socket_refuses_is_sent_later_and_nothing_twice(
    client: Client, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    meet(client, broker)
    calls = [client.core.request(i, "echo", b"", monotonic()) for i in range(4)]
    frames, send = count(), link._send_frame

    def refuse(*args: Any) -> Any:
        if next(frames) == 4:
            raise zmq.Again
        return send(*args)

    monkeypatch.setattr(link, "_send_frame", refuse)
    client.link.step(monotonic())
    assert client.core.sendable
    assert not client.link.sendable
    assert client.core._calls.first(9) == calls[2:]
    client.until(lambda: not client.core.sendable)
    requests = [broker.expect(Request)[0] for _ in range(5)]
    assert [request.id for request in requests[1:]] == [call.id for call in calls]


def test_a_large_body_arrives_whole(client: Client, broker: Broker) -> None:
    meet(client, broker)
    broker.expect(Request)
    body = b"\xc6\x00\x0f\x00\x00" + bytes(0xF0000)
    client.core.request("large", "echo", body, monotonic())
    client.until(lambda: not client.core.sendable)
    assert broker.expect(Request)[1] == bytes(0xF0000)


def test_what_is_malformed_is_counted_and_logged_once(
    client: Client, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    meet(client, broker)
    request, _ = broker.expect(Request)
    with caplog.at_level(logging.WARNING, "falconas.client"):
        for frames in [(b"",), (b"\xc1", b""), (b"", b"", b""), (bytes(5000), b"")]:
            broker.send(*frames)
        broker.reply(request.id, 1)
        client.until(lambda: client.core.counters["replies"] == 1)
    assert client.core.counters["malformed"] == 4
    (record,) = caplog.records
    assert broker.endpoint in record.getMessage()


def test_bodies_stay_with_their_headers_whatever_comes_between(
    client: Client, broker: Broker
) -> None:
    meet(client, broker)
    core = client.core
    for index in range(3):
        core.request(index, "echo", b"", monotonic())
    client.until(lambda: not core.sendable)
    ids = [broker.expect(Request)[0].id for _ in range(4)]
    headers = [encode(Reply(id_, Kind.OK, 0, {})) for id_ in ids]
    broker.send(headers[3])  # an OK without a body is none
    broker.send(headers[0], b"\x00", headers[3])
    broker.send(headers[1], b"\x01", headers[3], b"\x63")  # two in one message
    broker.send(headers[2], b"\x02")
    client.until(lambda: core.counters["replies"] == 4)
    verdicts = [verdict.value() for _, verdict in core.take_verdicts()]
    assert verdicts == [0, 1, 99, 2]
    assert core.counters["malformed"] == 2


def test_a_lost_connection_is_noticed_and_made_again(
    client: Client, broker: Broker
) -> None:
    meet(client, broker)
    broker.expect(Request)
    broker.stop()
    client.until(lambda: client.core.counters["disconnected"] == 1)
    broker.start()
    client.until(lambda: client.core.counters["connected"] == 2)
    client.link.step(monotonic())
    broker.expect_hello()
    client.until(lambda: client.core.counters["lost"] + client.core.outstanding == 1)


def test_replies_that_came_with_the_end_of_the_connection_are_taken(
    client: Client, broker: Broker
) -> None:
    meet(client, broker)
    count = 3 * BATCH
    for index in range(count):
        client.core.request(index, "place_order", b"", monotonic())
    client.until(lambda: not client.core.sendable)
    for _ in range(count + 1):
        request, _ = broker.expect(Request)
        broker.reply(request.id, 1)
    broker.stop()
    client.until(lambda: client.core.counters["disconnected"] == 1)
    assert client.core.counters["replies"] == count + 1
    broker.start()


def test_what_was_meant_for_one_broker_never_reaches_the_next(
    client: Client, broker: Broker
) -> None:
    meet(client, broker)
    broker.stop()
    client.core.request("a", "place_order", b"", monotonic())
    client.link.step(monotonic())
    broker.start()
    client.until(lambda: client.core.counters["connected"] == 2)
    broker.expect_hello()


def test_nothing_is_left_behind_for_a_broker_that_is_gone(
    client: Client, broker: Broker
) -> None:
    meet(client, broker)
    broker.stop()
    client.until(lambda: client.core.counters["disconnected"] == 1)
    client.core.request("a", "place_order", b"", monotonic(), budget=0.05)
    client.until(lambda: client.core.outstanding == 1)
    (owner, verdict), *_ = client.core.take_verdicts()
    assert owner == "a"
    assert isinstance(verdict.error, Unavailable)
    broker.start()


@pytest.mark.parametrize("endpoint", ["", "5570", "tcp://127.0.0.1", "http://x:1", 7])
def test_an_endpoint_that_is_none_is_named(endpoint: str) -> None:
    with pytest.raises(ValueError, match="a broker's endpoint is like tcp://"):
        Link(endpoint, ClientCore(bytes(16), ""))

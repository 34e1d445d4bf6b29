from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from falconas.broker.records import Send, Socket
from falconas.broker.sockets import (
    FRAMES_LIMIT,
    TURN_FRAMES,
    Reader,
    Writer,
    claim_path,
    open_router,
    protect_path,
    seed_identities,
)
from falconas.config import StartError
from falconas.protocol import Pong

TIMEOUT = 10_000
LIMIT = 1 << 24


@pytest.fixture
def context() -> Iterator[zmq.Context[Any]]:
    with zmq.Context() as fresh:
        yield fresh


@pytest.fixture
def router(context: zmq.Context[Any], tmp_path: Path) -> Iterator[Any]:
    socket = open_router(context, f"ipc://{tmp_path}/router", LIMIT)
    yield socket
    socket.close(linger=0)


@pytest.fixture
def dealer(context: zmq.Context[Any], router: Any, tmp_path: Path) -> Iterator[Any]:
    socket = context.socket(zmq.DEALER)
    socket.linger = 0
    socket.connect(f"ipc://{tmp_path}/router")
    yield socket
    socket.close()


def read(reader: Reader, count: int) -> list[list[Any]]:
    """Read until so many messages came, or none comes any more."""
    found: list[list[Any]] = []
    while len(found) < count and reader.socket.poll(TIMEOUT):
        found += reader.messages()
    return found


def test_messages_come_with_the_identity_first(router: Any, dealer: Any) -> None:
    dealer.send_multipart([b"header", b"body"])
    dealer.send_multipart([b"", b"header", b""])

    first, second = read(Reader(router), 2)

    assert first[1:] == [b"header", b"body"]
    assert second == [first[0], b"", b"header", b""]


def test_large_frames_are_not_copied(router: Any, dealer: Any) -> None:
    dealer.send_multipart([b"header", b"x" * 100_000])

    ((_, header, body),) = read(Reader(router), 1)

    assert header == b"header"
    assert isinstance(body, zmq.Frame)
    assert body.bytes == b"x" * 100_000


def test_a_message_of_too_many_frames_is_discarded_and_the_next_one_read(
    router: Any, dealer: Any
) -> None:
    reader = Reader(router)
    dealer.send_multipart([b"f"] * (FRAMES_LIMIT + 1))
    dealer.send_multipart([b"header", b"body"])

    ((_, *frames),) = read(reader, 1)

    assert frames == [b"header", b"body"]
    assert reader.discarded == 1


def test_a_turn_reads_a_bounded_number_of_frames(router: Any, dealer: Any) -> None:
    reader = Reader(router)
    dealer.send_multipart([b""] * (3 * TURN_FRAMES))
    dealer.send_multipart([b"header", b"body"])
    assert router.poll(TIMEOUT)

    assert list(reader.messages()) == []
    assert reader.discarded == 0, "all of it was read in one turn"

    ((_, *frames),) = read(reader, 1)
    assert frames == [b"header", b"body"]
    assert reader.discarded == 1


def test_a_peer_that_is_not_there_is_reported(router: Any) -> None:
    send = Send(Socket.FRONTEND, b"nobody", (), Pong(b"1", {}), b"")

    assert not Writer(router).send(send)


def test_what_a_slow_peer_does_not_take_waits_and_arrives_in_order(
    router: Any, dealer: Any
) -> None:
    identity = identity_of(router, dealer)
    writer = Writer(router)
    sent = 0
    while not writer.outboxes:
        assert writer.send(numbered(identity, sent))
        sent += 1
    for _ in range(10):
        assert writer.send(numbered(identity, sent))
        sent += 1

    received: list[int] = []
    while len(received) < sent:
        assert writer.flush() == []
        while dealer.poll(0 if writer.outboxes else TIMEOUT):
            received.append(int(dealer.recv_multipart()[-1][:8]))
            if len(received) == sent:
                break

    assert received == list(range(sent))
    assert not writer.outboxes
    assert writer.dropped == 0


def test_the_outbox_is_bounded(
    router: Any, dealer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("falconas.broker.sockets.OUTBOX_BYTES", 1)
    identity = identity_of(router, dealer)
    writer = Writer(router)
    number = 0
    while not writer.outboxes:
        writer.send(numbered(identity, number))
        number += 1

    assert writer.send(numbered(identity, number))
    assert writer.dropped > 0


def test_an_outbox_whose_peer_left_is_handed_back(router: Any, dealer: Any) -> None:
    identity = identity_of(router, dealer)
    writer = Writer(router)
    number = 0
    while not writer.outboxes:
        writer.send(numbered(identity, number))
        number += 1

    dealer.close()
    lost: list[Send] = []
    while not lost:
        router.poll(10)  # reading is how libzmq learns that a peer left
        lost = writer.flush()

    assert lost[0].identity == identity
    assert not writer.outboxes


def test_an_endpoint_in_use_is_refused(context: zmq.Context[Any], router: Any) -> None:
    port = router.bind_to_random_port("tcp://127.0.0.1")

    with pytest.raises(StartError, match=f"{port} is in use: is another broker"):
        open_router(context, f"tcp://127.0.0.1:{port}", LIMIT)


def test_an_endpoint_that_cannot_be_bound_is_refused(
    context: zmq.Context[Any], tmp_path: Path
) -> None:
    with pytest.raises(StartError, match="cannot listen on ipc://"):
        open_router(context, f"ipc://{tmp_path}/no/folder/x", LIMIT)


def test_an_ipc_path_belongs_to_one_broker_at_a_time(tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path}/run/frontend"
    lock = claim_path(endpoint)
    assert lock is not None

    with pytest.raises(StartError, match="is in use"):
        claim_path(endpoint)

    os.close(lock)
    again = claim_path(endpoint)
    assert again is not None
    os.close(again)
    assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == 0o700


def test_a_path_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(StartError, match="cannot listen on"):
        claim_path(f"ipc://{tmp_path}/file/frontend")


def test_tcp_needs_no_lock() -> None:
    assert claim_path("tcp://127.0.0.1:5570") is None


def test_only_we_may_connect_to_an_ipc_endpoint(router: Any, tmp_path: Path) -> None:
    protect_path(f"ipc://{tmp_path}/router")
    protect_path("tcp://127.0.0.1:5570")  # nothing to protect

    assert stat.S_IMODE((tmp_path / "router").stat().st_mode) == 0o600


def test_automatic_identities_differ_from_process_to_process() -> None:
    libc = ctypes.CDLL(None)
    drawn = set()
    for _ in range(3):
        seed_identities()
        drawn.add(libc.random())

    assert len(drawn) == 3


def identity_of(router: Any, dealer: Any) -> bytes:
    dealer.send_multipart([b"hello", b""])
    ((identity, *_),) = read(Reader(router), 1)
    return bytes(identity)


def numbered(identity: bytes, number: int) -> Send:
    body = b"%08d" % number + b"x" * 60_000
    return Send(Socket.FRONTEND, identity, (), Pong(b"1", {}), body)

"""A broker played by the test itself, on a real socket."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any, TypeVar

import pytest
import zmq

from falconas import codec
from falconas.errors import Code, FalconError
from falconas.protocol import (
    FRONTEND,
    Catalogue,
    Hello,
    Kind,
    Reply,
    Request,
    Welcome,
    decode,
    encode,
)

PATIENCE = 10.0
T = TypeVar("T")


class Broker:
    """A ROUTER that answers HELLO and brief catalogues; the test does the rest."""

    def __init__(self) -> None:
        self.epoch = os.urandom(8)
        self.held: list[bytes] = []
        self.limits: dict[str, Any] = {"params_bytes": 1 << 20, "budget": 30.0}
        self.scripts = {"echo": True, "place_order": False}
        self.welcomes = 0
        self.endpoint = "tcp://127.0.0.1:*"
        self.client = b""
        self.start()

    def start(self) -> None:
        self._context = zmq.Context()
        self._router = self._context.socket(zmq.ROUTER)
        self._router.set(zmq.LINGER, 1000)
        self._router.bind(self.endpoint)
        endpoint = self._router.get(zmq.LAST_ENDPOINT)
        assert isinstance(endpoint, bytes)
        self.endpoint = endpoint.rstrip(b"\0").decode()

    def stop(self) -> None:
        self._router.close()
        self._context.term()

    def restart(self) -> None:
        """Die and come back as another life of the broker."""
        self.stop()
        self.epoch = os.urandom(8)
        self.start()

    def expect(self, cls: type[T]) -> tuple[T, Any]:
        """Return the next message that is not answered by itself, and its body."""
        deadline = monotonic() + PATIENCE
        while self._router.poll(milliseconds(deadline)):
            message, body = self.receive()
            if message is not None:
                assert isinstance(message, cls), message
                return message, codec.decode_value(body)
        pytest.fail(f"no {cls.__name__} within {PATIENCE} s")

    def expect_hello(self) -> None:
        """Serve until a client has been welcomed once more."""
        deadline = monotonic() + PATIENCE
        welcomes = self.welcomes
        while self.welcomes == welcomes:
            assert self._router.poll(milliseconds(deadline)), "no HELLO"
            message, _ = self.receive()
            assert message is None, message

    def receive(self) -> tuple[Any, bytes]:
        self.client, header, body = self._router.recv_multipart()
        message = decode(header, FRONTEND)
        if isinstance(message, Hello):
            self.welcomes += 1
            welcome = Welcome(
                message.id, self.epoch, monotonic(), {"limits": self.limits}
            )
            self.send(encode(welcome), codec.encode_value(self.held))
            return None, b""
        if isinstance(message, Catalogue) and message.extras.get("brief"):
            self.reply(message.id, {"scripts": self.scripts})
            return None, b""
        return message, body

    def reply(self, id_: Any, value: Any, **extras: Any) -> None:
        self.send(
            encode(Reply(id_, Kind.OK, Code.OK, extras)),
            codec.encode_result(value, ext=True, limit=1 << 30),
        )

    def refuse(self, id_: Any, error: FalconError, **extras: Any) -> None:
        self.send(
            encode(Reply(id_, Kind.ERROR, error.code, extras)),
            codec.encode_value(error.body()),
        )

    def send(self, *frames: bytes) -> None:
        self._router.send_multipart((self.client, *frames))

    @contextmanager
    def echoing(self) -> Iterator[None]:
        """Answer every request with its parameters, in a thread."""
        stop = threading.Event()

        def serve() -> None:
            while not stop.is_set():
                if not self._router.poll(50):
                    continue
                message, body = self.receive()
                if isinstance(message, Request):
                    self.send(encode(Reply(message.id, 0, 0, {"node": "n1"})), body)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def milliseconds(deadline: float) -> int:
    return max(0, round((deadline - monotonic()) * 1000))


@pytest.fixture
def unused_endpoint() -> Iterator[str]:
    """An endpoint that refuses connections: bound, but nobody listens."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield f"tcp://127.0.0.1:{holder.getsockname()[1]}"


@pytest.fixture
def broker() -> Iterator[Broker]:
    broker = Broker()
    yield broker
    broker.stop()

"""A broker made of two bare ROUTERs, which does what each test says."""

from __future__ import annotations

import os
import select
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import pytest
import zmq

from falconas.codec import decode_value, encode_params
from falconas.protocol import (
    BACKEND,
    CONTROL,
    Heartbeat,
    Ready,
    Register,
    Request,
    Welcome,
    decode,
    encode,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE = 20.0


class FakeBroker:
    """Greets who introduces himself; hands each other message to the test."""

    def __init__(self, folder: Path) -> None:
        self.epoch = os.urandom(8)
        self.backend_endpoint = f"ipc://{folder}/backend"
        self.control_endpoint = f"ipc://{folder}/control"
        self.context: zmq.Context[Any] = zmq.Context()
        self.greets = True
        self.dispatched = 0
        self.inbox: list[tuple[bytes, Any, bytes]] = []
        self.open()

    def open(self) -> None:
        self.backend = self.context.socket(zmq.ROUTER)
        self.control = self.context.socket(zmq.ROUTER)
        for router in (self.backend, self.control):
            router.setsockopt(zmq.LINGER, 0)
            router.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self.backend.bind(self.backend_endpoint)
        self.control.bind(self.control_endpoint)

    def shut(self) -> None:
        self.backend.close()
        self.control.close()
        self.inbox.clear()

    def restart(self, *, epoch: bytes | None = None) -> None:
        """Be another broker, or the same after the connection was lost."""
        self.shut()
        self.epoch = epoch or os.urandom(8)
        self.open()

    def close(self) -> None:
        self.shut()
        self.context.term()

    def greet(self, peer: bytes, message: Ready | Register) -> None:
        router = self.backend if isinstance(message, Ready) else self.control
        with suppress(zmq.ZMQError):  # it has left already
            self.send(router, peer, Welcome(message.id, self.epoch, monotonic(), {}))

    def send(self, router: Any, peer: bytes, message: Any, body: bytes = b"") -> None:
        router.send_multipart([peer, encode(message), body])

    def request(
        self,
        peer: bytes,
        script: str,
        left: float = 20.0,
        *,
        ahead: int | None = None,
        lease: float = 0.0,
        **params: Any,
    ) -> bytes:
        """Dispatch a request to a worker; return its dispatch id.

        With so many `ahead` of it, it has a lease of so many seconds.
        """
        self.dispatched += 1
        id_ = self.epoch + self.dispatched.to_bytes(8, "big")
        now = monotonic()
        extras: dict[str, Any] = {"now": now}
        if ahead is not None:
            extras["ahead"] = ahead
        if ahead:
            extras["start_by"] = now + lease
        message = Request(id_, script, now + left, extras)
        self.send(self.backend, peer, message, encode_params(params))
        return id_

    def take(self, kind: type[Any], **fields: Any) -> tuple[bytes, Any, Any]:
        """Wait for a message of this kind with these fields; others stay for later."""
        end = monotonic() + PATIENCE
        while True:
            for index, (peer, message, body) in enumerate(self.inbox):
                if isinstance(message, kind) and all(
                    getattr(message, name) == value for name, value in fields.items()
                ):
                    del self.inbox[index]
                    return peer, message, decode_value(body)
            self.poll(end - monotonic(), f"{kind.__name__} {fields}")

    def poll(self, left: float, wanted: str) -> None:
        poller = zmq.Poller()
        poller.register(self.backend, zmq.POLLIN)
        poller.register(self.control, zmq.POLLIN)
        events = poller.poll(max(0, int(left * 1000)))
        assert events, f"{wanted} did not come, only {[m for _, m, _ in self.inbox]}"
        for router, _ in events:
            accept = BACKEND if router is self.backend else CONTROL
            peer, header, body = router.recv_multipart()
            message = decode(header, accept)
            if self.greets and isinstance(message, Ready | Register):
                self.greet(peer, message)
            if self.greets and isinstance(message, Heartbeat):
                with suppress(zmq.ZMQError):
                    self.send(router, peer, message)
            self.inbox.append((peer, message, body))


@pytest.fixture
def broker() -> Iterator[FakeBroker]:
    """In a folder whose path is short enough for a socket."""
    folder = Path(tempfile.mkdtemp(prefix="falcon"))
    fake = FakeBroker(folder)
    yield fake
    fake.close()
    shutil.rmtree(folder)


def is_gone(pid: int, patience: float = PATIENCE) -> bool:
    """Wait for the end of any process."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        return bool(poller.poll(patience * 1000))
    finally:
        os.close(fd)


@pytest.fixture
def gone() -> Any:
    """Wait for the end of a process, by its id."""
    return is_gone

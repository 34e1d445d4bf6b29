"""The DEALER by which workers and supervisors speak with the broker. Nothing blocks."""

from __future__ import annotations

import ctypes
import logging
import os
from math import ceil
from types import MethodType
from typing import TYPE_CHECKING, Any

import zmq
from zmq.utils.monitor import parse_monitor_message

from falconas.headers import decode, encode
from falconas.protocol import HEADER_LIMIT, Malformed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from falconas.protocol import Message

DRAIN_LINGER = 1.0
TURN = 100
LARGE_BYTES = 65_536  # what is not worth a copy

log = logging.getLogger(__name__)

# Plain integers: the operators of enums cost more than the calls they go into.
_NOBLOCK, _POLLIN = int(zmq.NOBLOCK), int(zmq.POLLIN)
_MORE = int(zmq.SNDMORE) | _NOBLOCK
_CONNECTED = zmq.Event.HANDSHAKE_SUCCEEDED
_EVENTS = _CONNECTED | zmq.Event.DISCONNECTED
_OPTIONS: dict[zmq.SocketOption, int] = {
    zmq.IMMEDIATE: 1,  # without a connection, say so instead of queueing
    zmq.LINGER: 0,
    zmq.HEARTBEAT_IVL: 1000,
    zmq.HEARTBEAT_TIMEOUT: 3000,
    zmq.HEARTBEAT_TTL: 3000,
    zmq.HANDSHAKE_IVL: 3000,
    zmq.CONNECT_TIMEOUT: 3000,
    zmq.RECONNECT_IVL: 100,
    zmq.RECONNECT_IVL_MAX: 3000,
    zmq.TCP_KEEPALIVE: 1,
    zmq.TCP_KEEPALIVE_IDLE: 30,
    zmq.TCP_KEEPALIVE_INTVL: 10,
    zmq.TCP_KEEPALIVE_CNT: 3,
}


class Dealer:
    """A DEALER to the broker, and the news of its connection; one to a process.

    Args:
        endpoint: Where the broker listens.
        frame_bytes: The largest frame to accept.

    Raises:
        ValueError: The endpoint is none.
    """

    def __init__(self, endpoint: str, frame_bytes: int) -> None:
        seed_routing_ids()
        self.endpoint = endpoint
        self._faults: list[str] = []
        self._context = zmq.Context()
        # Woken by each message its thread would take the processor for each.
        self._context.set(zmq.THREAD_SCHED_POLICY, os.SCHED_BATCH)
        self.socket = self._context.socket(zmq.DEALER)
        # Without pyzmq's layer in Python, which costs as much as sending.
        self._send = MethodType(zmq.backend.Socket.send, self.socket)
        for option, value in _OPTIONS.items():
            self.socket.set(option, value)
        self.socket.set(zmq.MAXMSGSIZE, max(HEADER_LIMIT, frame_bytes))
        self.monitor = self.socket.get_monitor_socket(_EVENTS)
        self._poller = zmq.Poller()
        self._poller.register(self.socket, zmq.POLLIN)
        self._poller.register(self.monitor, zmq.POLLIN)
        try:
            self.socket.connect(endpoint)
        except zmq.ZMQError as error:
            self.close()
            raise ValueError(f"cannot connect to {endpoint}: {error}") from None

    def watch(self, fd: int) -> None:
        """Let `wait` return when this file descriptor is readable."""
        self._poller.register(fd, zmq.POLLIN)

    def unwatch(self, fd: int) -> None:
        """Undo `watch`."""
        if fd in self._poller:
            self._poller.unregister(fd)

    def wait(self, timeout: float) -> set[Any]:
        """Wait for messages, news or watched files; return what is readable."""
        while self._faults:
            log.warning("dropped a message of the broker: %s", self._faults.pop(0))
        return {it for it, _ in self._poller.poll(ceil(max(0.0, timeout) * 1000))}

    def messages(self, accept: frozenset[type[Any]]) -> Iterator[tuple[Any, bytes]]:
        """Yield the messages that are there; what is not of the protocol is dropped."""
        # An attempt in vain costs several times as much as to ask.
        if not self.socket.get(zmq.EVENTS) & _POLLIN:  # type: ignore[operator]
            return
        receive = self.socket.recv
        for _ in range(TURN):
            try:
                frame = receive(_NOBLOCK, copy=False)
                frames: list[Any] = [frame.bytes]
                while frame.more:
                    frame = receive(_NOBLOCK, copy=False)
                    large = len(frame) >= LARGE_BYTES
                    frames.append(frame.buffer if large else frame.bytes)
            except zmq.Again:
                return
            try:
                header, body = frames
                yield decode(header, accept), body
            except (ValueError, Malformed) as error:
                self._faults.append(str(error))  # logged later: this may be anywhere

    def take_news(self) -> list[bool]:
        """Return True for each new connection since the last call, False for a loss."""
        news: list[bool] = []
        while True:
            try:
                frames = self.monitor.recv_multipart(_NOBLOCK)
            except zmq.Again:
                return news
            news.append(parse_monitor_message(frames)["event"] == _CONNECTED)

    def send(self, message: Message, body: Any = b"") -> bool:
        """Hand a message to ZeroMQ; False if there is no connection to take it."""
        try:
            self._send(encode(message), _MORE)
            # Copied, also if it is large: else pyzmq starts a thread, and a worker with
            # a thread gives its connection up after each request.
            self._send(body, _NOBLOCK)
        except zmq.Again:
            return False
        return True

    def close(self, linger: float = 0.0) -> None:
        """Close the connection; what was sent has `linger` seconds to leave."""
        self.socket.disable_monitor()
        self.monitor.close(0)
        self.socket.close(round(linger * 1000))
        self._context.term()


def seed_routing_ids() -> None:
    """Make this process's automatic routing ids differ from any other's.

    libzmq draws them from libc's random(), which starts alike in each process.
    """
    ctypes.CDLL(None).srandom(int.from_bytes(os.urandom(4), "little"))

"""The broker's ROUTERs: how they are opened, read and written.

libzmq counts complete messages and limits single frames. So a message of too many
frames is discarded piece by piece here, each turn of the loop reads a bounded number of
frames, and what waits for slow peers is bounded by bytes.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import stat
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from types import MethodType
from typing import Any

import zmq

from falconas.broker.records import Send
from falconas.config import StartError
from falconas.headers import encode

HIGH_WATER = 1000
# Of clients: libzmq counts messages and not their bytes, so the rest waits with us.
CLIENT_HIGH_WATER = 128
FRAMES_LIMIT = 6  # identity, correlation, delimiter, header, body, and one too many
TURN_FRAMES = 2000
COPY_BELOW = 8192
OUTBOX_BYTES = 32 * 1024 * 1024  # of one peer
OUTBOXES_BYTES = 256 * 1024 * 1024  # of all
MESSAGE_BYTES = 512  # what a message costs beside its body

# Plain integers: the operators of enums cost more than the calls they go into.
_NOBLOCK = int(zmq.NOBLOCK)
_MORE = int(zmq.SNDMORE) | _NOBLOCK
_AS_FRAME = False  # instead of a copy


def seed_identities() -> None:
    """Make the automatic routing ids of this process differ from any other's.

    libzmq draws their start from libc's generator, which begins the same in every
    process that does not seed it.
    """
    ctypes.CDLL(None).srandom(int.from_bytes(os.urandom(4), "little"))


def new_context() -> zmq.Context[Any]:
    """Return a context whose thread lets us finish before it sends what we sent.

    Woken by each message it would take the processor for each: five times as many
    switches as when it takes what has come together.
    """
    context: zmq.Context[Any] = zmq.Context()
    context.set(zmq.THREAD_SCHED_POLICY, os.SCHED_BATCH)
    return context


def open_router(
    context: zmq.Context[Any], endpoint: str, limit: int, high_water: int = HIGH_WATER
) -> Any:
    """Return a bound ROUTER that takes frames of at most `limit` bytes.

    Raises:
        StartError: The endpoint is in use or cannot be bound.
    """
    socket = context.socket(zmq.ROUTER)
    socket.set(zmq.ROUTER_MANDATORY, 1)
    socket.set(zmq.LINGER, 1000)
    socket.set(zmq.SNDHWM, high_water)
    socket.set(zmq.RCVHWM, HIGH_WATER)
    socket.set(zmq.MAXMSGSIZE, limit)
    socket.set(zmq.HANDSHAKE_IVL, 3000)
    # No heartbeats of its own: libzmq looks through all timers for each, which takes a
    # whole core from 4,000 peers on. Theirs carry a TTL; who has none is found by TCP.
    socket.set(zmq.TCP_KEEPALIVE, 1)
    socket.set(zmq.TCP_KEEPALIVE_IDLE, 3)
    socket.set(zmq.TCP_KEEPALIVE_INTVL, 1)
    socket.set(zmq.TCP_KEEPALIVE_CNT, 3)
    socket.set(zmq.TCP_MAXRT, 10_000)  # with something under way there is no keepalive
    socket.set(zmq.BACKLOG, 1024)
    socket.set(zmq.IPV6, 1)
    try:
        socket.bind(endpoint)
    except zmq.ZMQError as error:
        socket.close(linger=0)
        if error.errno == zmq.EADDRINUSE:
            raise StartError(
                f"{endpoint} is in use: is another broker running? Stop it, or"
                " choose another endpoint"
            ) from None
        raise StartError(f"cannot listen on {endpoint}: {error.strerror}") from None
    return socket


def claim_path(endpoint: str) -> int | None:
    """Lock an ipc endpoint's path, which libzmq would take from a living broker.

    Returns:
        The lock's file descriptor, None for other transports. Closing it unlocks.

    Raises:
        StartError: Another process holds it, or the folder cannot be used.
    """
    if not endpoint.startswith("ipc://"):
        return None
    path = Path(endpoint.removeprefix("ipc://"))
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StartError(f"cannot listen on {endpoint}: {error.strerror}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise StartError(
            f"{endpoint} is in use: is another broker running? Stop it, or choose"
            " another endpoint"
        ) from None
    return lock


def protect_path(endpoint: str) -> None:
    """Let only this user connect to an ipc endpoint."""
    if endpoint.startswith("ipc://"):
        Path(endpoint.removeprefix("ipc://")).chmod(stat.S_IRUSR | stat.S_IWUSR)


class Reader:
    """Reads whole messages from one ROUTER, a bounded number of frames a turn.

    libzmq hands out a message when its last frame has come, and collects the frames
    of one that never ends: only a limit of the process's memory helps against that.
    """

    def __init__(self, socket: Any) -> None:
        self.socket = socket
        self.discarded = 0
        self._skipping = False

    def messages(self) -> Iterator[list[Any]]:
        """Yield messages as lists of frames until the socket is empty or the turn over.

        The identity comes first. Frames are bytes, large ones zero-copy frames.
        """
        budget, receive = TURN_FRAMES, self.socket.recv
        try:
            while budget > 0:
                if self._skipping:
                    budget = self._skip(budget)
                    continue
                # More always follows an identity, so it need not be asked for.
                frames, more = [receive(_NOBLOCK)], True
                while more:
                    frame = receive(_NOBLOCK, _AS_FRAME)
                    more = frame.more
                    frames.append(frame.bytes if len(frame) < COPY_BELOW else frame)
                    if more and len(frames) >= FRAMES_LIMIT:
                        self._skipping = True
                        break
                else:
                    yield frames
                budget -= len(frames) - 1
        except zmq.Again:
            return

    def _skip(self, budget: int) -> int:
        """Discard so many frames of a message; return how many more may be read."""
        while budget > 0:
            budget -= 1
            if not self.socket.recv(_NOBLOCK, _AS_FRAME).more:
                self._skipping = False
                self.discarded += 1
                break
        return budget


class Outbox:
    """What one slow peer has not taken yet."""

    def __init__(self) -> None:
        self.sends: deque[Send] = deque()
        self.bytes = 0

    def push(self, send: Send) -> None:
        """Keep a message."""
        self.sends.append(send)
        self.bytes += _cost(send)

    def pop(self) -> None:
        """Forget the first one, which was sent."""
        self.bytes -= _cost(self.sends.popleft())


class Writer:
    """Writes to one ROUTER without ever blocking.

    What a slow peer does not take now waits in an outbox of its own; an outbox is
    bounded, and so are all of them together.
    """

    def __init__(self, socket: Any) -> None:
        # Without pyzmq's layer in Python, which costs as much as sending.
        self._send = MethodType(zmq.backend.Socket.send, socket)
        self.dropped = 0
        self.outboxes: dict[bytes, Outbox] = {}  # of those who have not taken all
        self._bytes = 0

    def send(self, send: Send) -> bool:
        """Send, or keep for later; False if the peer is gone."""
        outbox = self.outboxes.get(send.identity)
        if outbox is None:
            try:
                self._write(send)
                return True
            except zmq.Again:
                outbox = self.outboxes[send.identity] = Outbox()
            except zmq.ZMQError as error:
                if error.errno != zmq.EHOSTUNREACH:
                    raise
                return False
        size = _cost(send)
        if outbox.bytes + size > OUTBOX_BYTES or self._bytes + size > OUTBOXES_BYTES:
            self.dropped += 1
        else:
            outbox.push(send)
            self._bytes += size
        return True

    def flush(self) -> list[Send]:
        """Try the outboxes again; return what has lost its peer."""
        lost: list[Send] = []
        for identity, outbox in list(self.outboxes.items()):
            before = outbox.bytes
            try:
                while outbox.sends:
                    self._write(outbox.sends[0])
                    outbox.pop()
            except zmq.Again:
                self._bytes += outbox.bytes - before
                continue
            except zmq.ZMQError as error:
                if error.errno != zmq.EHOSTUNREACH:
                    raise
                lost.extend(outbox.sends)
            self._bytes -= before
            del self.outboxes[identity]
        return lost

    def _write(self, send: Send) -> None:
        put, body = self._send, send.body
        put(send.identity, _MORE)
        for frame in send.envelope:
            put(frame, _MORE)
        put(encode(send.message), _MORE)
        put(body, _NOBLOCK, len(body) < COPY_BELOW)


def _cost(send: Send) -> int:
    return len(send.body) + MESSAGE_BYTES

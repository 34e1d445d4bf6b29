"""The socket of a client: moves messages between a DEALER and a `ClientCore`.

Never blocks, unless told to `wait`, and knows no thread: the shells call `step`
when one of the file descriptors is readable, when something is to be sent, and when
the core is due.

Each connection that was in use gets a socket of its own. On one that reconnects by
itself libzmq would either deliver to the next broker what was meant for the last
one, or (with IMMEDIATE) throw away replies that had arrived with the end of the
connection.
"""

from __future__ import annotations

import struct
from math import ceil, inf
from typing import TYPE_CHECKING, Any

import zmq
from zmq.backend import Socket as _Socket
from zmq.backend import zmq_poll

from falconas.client import log

if TYPE_CHECKING:
    from falconas.client.core import ClientCore

# Messages of one step in each direction, so that neither starves the other.
BATCH = 100
# Smaller bodies are cheaper to copy than to share with libzmq.
SHARED_BYTES = 65_536

# Plain integers: the operators of enums cost more than the calls they go into.
_NOBLOCK = int(zmq.NOBLOCK)
_SNDMORE = int(zmq.SNDMORE)
_POLLIN = int(zmq.POLLIN)
_POLLOUT = int(zmq.POLLOUT)
# Without pyzmq's layer in Python, which costs as much again.
_send_frame: Any = _Socket.send
_EVENTS = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED
_OPTIONS = {
    zmq.LINGER: 200,  # a last CANCEL may leave
    zmq.SNDHWM: 1_000,
    zmq.RCVHWM: 0,  # the core bounds what can be answered
    zmq.RECONNECT_IVL: 50,
    zmq.RECONNECT_IVL_MAX: 400,  # well within the core's window for a lost broker
    zmq.CONNECT_TIMEOUT: 3_000,
    zmq.HANDSHAKE_IVL: 3_000,
    zmq.HEARTBEAT_IVL: 1_000,
    zmq.HEARTBEAT_TIMEOUT: 3_000,
    zmq.HEARTBEAT_TTL: 3_000,
    zmq.TCP_KEEPALIVE: 1,
}


class Link:
    """A DEALER with a context of its own, and the monitor of its connection.

    `fds` are readable when there may be news, edge-triggered: `step` until it is
    done. They change with the socket, in `step` only.

    Raises:
        ValueError: `endpoint` is none that can be connected to.
    """

    def __init__(self, endpoint: str, core: ClientCore) -> None:
        self._core = core
        self._endpoint = endpoint
        self._blocked = False
        self._context = zmq.Context()
        self._retired: list[zmq.Socket[bytes]] = []
        try:
            self._open()
        except ValueError:
            self.close()
            raise

    def step(self, now: float) -> bool:
        """Move what can be moved; True if there is more to do at once."""
        if self._retired:
            self._close_retired()
        events = self._look(now)
        if events & _POLLIN:
            self._receive(now)
            events = self._look(now)
        self._core.tick(now)
        self._blocked = False
        if not self._core.sendable:
            return bool(events & _POLLIN)
        self._blocked = not events & _POLLOUT
        self._send(now)
        # Sending may have taken the news off the file descriptor; and those may be of a
        # new connection, to which there is something to say.
        return bool(self._look(now) & _POLLIN) or self.sendable

    @property
    def sendable(self) -> bool:
        """There is something to send and the socket takes it."""
        return self._core.sendable and not self._blocked

    def wait(self, ear: int, seconds: float) -> bool:
        """Wait until one of `fds` or `ear` is readable; tell whether `ear` is."""
        fds = [(fd, _POLLIN) for fd in (ear, *self.fds)]
        milliseconds = -1 if seconds == inf else max(0, ceil(seconds * 1000))
        return ear in dict(zmq_poll(fds, milliseconds))

    def finish(self, now: float) -> None:
        """Send what is left to say, as far as the socket takes it."""
        self.step(now)
        while self.sendable:
            self._send(now)

    def close(self) -> None:
        """Close the socket; takes as long as a last message needs, at most 0.2 s."""
        self._close_retired()
        self._dealer.disable_monitor()
        self._monitor.close(linger=0)
        self._dealer.close()
        self._context.term()

    def _open(self) -> None:
        self._dealer = self._context.socket(zmq.DEALER)
        for option, value in _OPTIONS.items():
            self._dealer.set(option, value)
        self._monitor = self._dealer.get_monitor_socket(_EVENTS)
        self.fds = (self._dealer.fileno(), self._monitor.fileno())
        self._poller = zmq.Poller()
        self._poller.register(self._dealer, _POLLIN | _POLLOUT)
        # A monitor tells by its descriptor what comes after it was found to be empty.
        self._poller.register(self.fds[1], _POLLIN)
        _readable(self._monitor)
        connect(self._dealer, self._endpoint)

    def _close_retired(self) -> None:
        """Close old sockets, which nobody waits for any more."""
        while self._retired:
            self._retired.pop().close(linger=0)

    def _look(self, now: float) -> int:
        """Return what the socket is ready for, as of what the monitor tells now.

        libzmq must know of lost and new connections before it is given anything. To
        ask for both at once costs no more than one of them.
        """
        events = 0
        for socket, ready in self._poller.poll(0):
            events = ready if socket is self._dealer else self._watch(now)
        return events

    def _receive(self, now: float) -> None:
        """Take what is there, up to a batch, and no more than is awaited.

        The end is dearer to find by trying than by asking.
        """
        recv, core = self._dealer.recv, self._core
        for _ in range(min(max(core.awaited, 1), BATCH)):
            try:
                frame = recv(_NOBLOCK, copy=False)
            except zmq.Again:
                return
            header = frame.bytes
            wrong = core.received(
                (header, recv(_NOBLOCK)) if frame.more else (header,), now
            )
            if wrong:
                self._complain(wrong)

    def _complain(self, wrong: str) -> None:
        """Log what is wrong with a message, and drop what is left of it."""
        while self._dealer.get(zmq.RCVMORE):
            self._dealer.recv(_NOBLOCK)
        if self._core.counters["malformed"] == 1:
            log.warning("from %s: %s (further ones: debug)", self._endpoint, wrong)
        else:
            log.debug("from %s: %s", self._endpoint, wrong)

    def _watch(self, now: float) -> int:
        """Tell the core of connections made and lost, after what they had brought.

        Returns:
            What the socket, which may be another one now, is ready for.
        """
        while _readable(self._monitor):
            frames = self._monitor.recv_multipart(_NOBLOCK)
            (event,) = struct.unpack_from("=H", frames[0])
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                log.debug("connected to %s", self._endpoint)
                self._core.connected(now)
            elif event == zmq.EVENT_DISCONNECTED:
                log.debug("disconnected from %s", self._endpoint)
                self._lose(now)
        return _events(self._dealer)

    def _lose(self, now: float) -> None:
        while _readable(self._dealer):
            self._receive(now)
        if self._core.disconnected(now):
            self._dealer.disable_monitor()
            self._retired += [self._monitor, self._dealer]
            self._open()

    def _send(self, now: float) -> None:
        if self._blocked:
            return
        dealer, core = self._dealer, self._core
        taken = 0
        try:
            # One after the other, so that libzmq's thread need not wake for each.
            for header, body in core.next_sends(now, BATCH):
                _send_frame(dealer, header, _SNDMORE | _NOBLOCK)
                _send_frame(dealer, body, _NOBLOCK, len(body) < SHARED_BYTES)
                taken += 1
        except zmq.Again:
            self._blocked = True
        finally:
            core.sent(now, taken)


def connect(socket: zmq.Socket[bytes], endpoint: str) -> None:
    """Connect, now and again, to `endpoint`.

    Raises:
        ValueError: It is none that can be connected to.
    """
    try:
        socket.connect(endpoint)
    except (zmq.ZMQError, TypeError):
        raise ValueError(
            "a broker's endpoint is like tcp://127.0.0.1:5570 or"
            f" ipc:///run/falconas/frontend, got {endpoint!r}"
        ) from None


def _readable(socket: zmq.Socket[bytes]) -> bool:
    return bool(_events(socket) & _POLLIN)


def _events(socket: zmq.Socket[bytes]) -> int:
    events: Any = socket.get(zmq.EVENTS)
    return events  # type: ignore[no-any-return]

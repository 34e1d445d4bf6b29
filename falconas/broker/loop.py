"""The broker's process: three ROUTERs, one thread, and the core between them."""

from __future__ import annotations

import logging
import os
import signal
import socket as sockets
from collections.abc import Callable
from math import ceil, inf
from time import monotonic, sleep
from typing import Any

import zmq

from falconas import protocol
from falconas.broker import admin
from falconas.broker.core import BrokerCore
from falconas.broker.records import Body, Peer, Socket
from falconas.broker.sockets import (
    CLIENT_HIGH_WATER,
    HIGH_WATER,
    Reader,
    Writer,
    claim_path,
    new_context,
    open_router,
    protect_path,
    seed_identities,
)
from falconas.codec import encode_value
from falconas.config import ConfigError, check_broker
from falconas.errors import FalconError, Internal, InvalidArgument
from falconas.headers import decode
from falconas.heap import keep_freed
from falconas.protocol import Malformed
from falconas.settings import Settings
from falconas.systemd import Notifier

log = logging.getLogger("falconas.broker")

CONGESTED_WAIT = 0.005
NAP = 0.0001  # less is not worth it
MANIFEST_BYTES = 4 * 1024 * 1024
ROOM = 64 * 1024
STATUS_INTERVAL = 5.0
LAST_CALL, LAST_CALLS = 20, 0.5  # ms between two, and seconds for all
STOP_WAIT = 5.0  # beyond the drain: for what is still to be sent

INTERRUPTED = 130
CORRELATION_BYTES = 64  # ZeroMQ's own takes 4; it is kept with each request

PLAIN = 3  # frames: identity, header, body
_NO_ENVELOPE: tuple[Any, ...] = ()
_ORDER = (Socket.BACKEND, Socket.FRONTEND, Socket.CONTROL)
ACCEPT = (protocol.FRONTEND, protocol.BACKEND, protocol.CONTROL)


class BrokerLoop:
    """Owns the sockets; everything that is decided is decided by the core."""

    def __init__(self, settings: Settings) -> None:
        broker = settings.broker
        check_broker(broker)
        seed_identities()
        self.context = new_context()
        self.core = BrokerCore(broker, os.urandom(8), monotonic())
        self.interrupted = False
        self._notifier = Notifier()
        self._status_at = 0.0
        self._stopping = False
        self._signals, self._wake = sockets.socketpair()
        self._locks: list[int] = []
        self._sockets: list[Any] = []
        # An oversize body is refused with an answer; a monstrous one is cut off.
        limits = (2 * broker.params_bytes, broker.result_bytes, MANIFEST_BYTES)
        endpoints = (broker.frontend, broker.backend, broker.control)
        try:
            for endpoint, limit in zip(endpoints, limits, strict=True):
                lock = claim_path(endpoint)
                if lock is not None:
                    self._locks.append(lock)
                ours = endpoint == broker.frontend
                high_water = CLIENT_HIGH_WATER if ours else HIGH_WATER
                router = open_router(self.context, endpoint, limit + ROOM, high_water)
                self._sockets.append(router)
                protect_path(endpoint)
        except ConfigError:
            self.close()
            raise
        self._readers = [Reader(router) for router in self._sockets]
        self._writers = [Writer(router) for router in self._sockets]
        self._handlers = self._table()

    def run(self) -> None:
        """Serve until drained."""
        poller = zmq.Poller()
        for router in self._sockets:
            poller.register(router, zmq.POLLIN)
        signals = self._signals.fileno()
        poller.register(signals, zmq.POLLIN)
        core, writers = self.core, self._writers
        # The backend first: it frees workers for what follows.
        order = [(r, self._sockets[r]) for r in _ORDER]
        self._notifier.ready()
        self._notify(monotonic())
        while not core.drained:
            wake_at = min(core.wake_at(), self._notifier.wake_at())
            wait = max(0.0, wake_at - monotonic())
            congested = any(writer.outboxes for writer in writers)
            if congested:
                wait = min(wait, CONGESTED_WAIT)
            events = dict(poller.poll(ceil(wait * 1000)))
            for role, router in order:
                if router in events:
                    self._receive(role)
                    self._flush()
            if congested and not events:
                self._flush()
            if signals in events:
                self._on_signal(self._signals.recv(64))
            now = monotonic()
            if now >= wake_at or core.draining_until < inf:
                core.tick(now)
                self._flush()
                self._tell()
                self._notify(now)
            if (rest := core.flow.take_rest()) >= NAP:
                sleep(rest)  # what comes meanwhile comes together
        self._flush()
        self._turn_away()

    def _turn_away(self) -> None:
        """Refuse what clients had sent before they heard: else they could not know."""
        frontend, until = self._sockets[Socket.FRONTEND], monotonic() + LAST_CALLS
        while monotonic() < until and frontend.poll(LAST_CALL):
            self._receive(Socket.FRONTEND)
            self._flush()

    def close(self) -> None:
        """Close the sockets; what is not sent within LINGER is lost."""
        for router in self._sockets:
            router.close()
        self.context.term()
        for lock in self._locks:
            os.close(lock)
        self._signals.close()
        self._wake.close()

    def handle_signals(self) -> None:
        """Drain on SIGTERM and SIGINT; the second one stops at once."""
        self._wake.setblocking(False)
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)

    def _on_signal(self, numbers: bytes) -> None:
        for number in numbers:
            name = signal.Signals(number).name
            self.interrupted |= number == signal.SIGINT
            if self.core.draining_until < inf:
                log.warning("%s again: stopping at once", name)
                self.core.draining_until = 0.0
            else:
                log.info("%s: draining", name)
                self.core.drain(monotonic())

    def _tell(self) -> None:
        while self.core.hosts.departed:
            log.warning("%s", self.core.hosts.departed.pop(0))

    def _notify(self, now: float) -> None:
        """Tell the service manager what it wants to know."""
        notifier = self._notifier
        notifier.beat(now)
        if now >= self._status_at:
            self._status_at = now + STATUS_INTERVAL
            notifier.status(admin.summary(self.core))
        if self.core.draining_until < inf and not self._stopping:
            self._stopping = True
            notifier.stopping()
            notifier.extend(self.core.draining_until - now + STOP_WAIT)

    def _receive(self, role: Socket) -> None:
        reader = self._readers[role]
        message, first = self._message, True
        for frames in reader.messages():
            message(role, frames, monotonic())
            if first:  # to find that there is nothing more takes longer than to send
                self._flush()
                first = False
        if reader.discarded:
            self._count("malformed", reader.discarded)
            reader.discarded = 0

    def _message(self, role: Socket, frames: list[Any], now: float) -> None:
        plain = len(frames) == PLAIN
        envelope = _NO_ENVELOPE if plain else tuple(frames[1:-2])
        peer = Peer(role, frames[0], envelope)
        try:
            if not plain and not _is_envelope(envelope):
                raise Malformed(InvalidArgument("a message is header and body"))  # noqa: TRY301
            message = decode(_bytes(frames[-2]), ACCEPT[role])
        except Malformed as malformed:
            self._count("malformed", 1)
            if malformed.id is not None:
                self.core.flow.answer(peer, malformed.id, malformed.error)
            return
        try:
            self._handlers[type(message)](peer, message, frames[-1], now)
        except Exception:
            # One message must not stop the broker for everybody else.
            log.exception("internal error at %s", type(message).__name__)
            self._count("internal_errors", 1)
            fault: FalconError = Internal("the broker failed; its log says more")
            self.core.flow.answer(peer, message.id, fault)

    def _table(self) -> dict[type[Any], Callable[[Peer, Any, Body, float], None]]:
        core = self.core
        return {
            protocol.Hello: lambda p, m, _, now: core.hello(p, m, now),
            protocol.Request: core.request,
            protocol.Cancel: lambda p, m, _, now: core.cancel(p, m, now),
            protocol.Catalogue: lambda p, m, _, __: core.catalogue(p, m),
            protocol.Ping: self._ping,
            protocol.Ready: lambda p, m, _, now: core.ready(p, m, now),
            protocol.Status: lambda p, m, _, now: core.status(p, m, now),
            protocol.Reply: core.reply,
            protocol.Return: lambda p, m, _, now: core.returned(p, m, now),
            protocol.Disconnect: lambda p, _, __, now: core.disconnect(p, now),
            protocol.Register: self._register,
            protocol.Heartbeat: lambda p, m, b, now: core.heartbeat(
                p, m, _bytes(b), now
            ),
            protocol.Lost: self._lost,
            protocol.Reload: self._reload,
            protocol.Drain: self._drain,
            protocol.Inspect: self._inspect,
        }

    def _register(self, peer: Peer, message: Any, body: Body, now: float) -> None:
        log.info("host %s, manifest %s", message.host, message.manifest)
        self.core.register(peer, message, _bytes(body), now)

    def _ping(self, peer: Peer, message: Any, _: Body, __: float) -> None:
        pong = protocol.Pong(message.id, {})
        self.core.flow.sends.append(peer.send(pong, b""))

    def _lost(self, _: Peer, message: Any, __: Body, now: float) -> None:
        # A reply that the worker sent before it died comes by another socket; what
        # has arrived by now goes first.
        self._receive(Socket.BACKEND)
        worker = self.core.flow.pool.by_uuid.get(message.worker)
        if worker is not None:  # else it had said goodbye
            script = worker.started(message.id) if message.state != "IDLE" else None
            at = f" with script {script}" if script else ""
            facts = _ids(worker.hands.get(message.id), message.id)
            text = "worker %s lost%s: %s"
            log.warning(text, worker.name, at, message.reason, extra=facts)
        quarantine = self.core.flow.pool.quarantine
        before = len(quarantine)
        self.core.lost(message, now)
        if len(quarantine) > before:
            suspect = next(reversed(quarantine.since))
            log.error("script %s is quarantined: it killed its workers", suspect.script)

    def _reload(self, peer: Peer, message: Any, _: Body, now: float) -> None:
        log.info("reloading, as an operator asked")
        self.core.pass_on(peer, message, now)

    def _drain(self, peer: Peer, message: Any, _: Body, now: float) -> None:
        if "host" in message.extras:
            log.info("draining a host, as an operator asked")
            self.core.pass_on(peer, message, now)
            return
        log.info("draining, as an operator asked")
        self.core.drain(now)
        self.core.flow.answer(peer, message.id, b"")

    def _inspect(self, peer: Peer, message: Any, _: Body, now: float) -> None:
        self.core.flow.answer(
            peer, message.id, encode_value(admin.report(self.core, now))
        )

    def _count(self, name: str, by: int) -> None:
        self.core.flow.counters[name] += by

    def _flush(self) -> None:
        core, writers = self.core, self._writers
        while sends := core.take_sends():
            for send in sends:
                if not writers[send.socket].send(send):
                    core.unreachable(send, monotonic())
        for writer in writers:
            if writer.outboxes:
                for send in writer.flush():
                    core.unreachable(send, monotonic())
                self._count("replies_dropped", writer.dropped)
                writer.dropped = 0


def main(settings: Settings) -> int:
    """Run a broker until it is told to stop; return the exit code.

    Raises:
        ConfigError: It could not start.
    """
    keep_freed()
    loop = BrokerLoop(settings)
    broker = settings.broker
    loop.handle_signals()
    log.info(
        "broker %s ready: clients %s, workers %s, control %s",
        loop.core.flow.epoch.hex(),
        broker.frontend,
        broker.backend,
        broker.control,
    )
    try:
        loop.run()
    finally:
        signal.set_wakeup_fd(-1)
        loop.close()
    log.info("broker stopped: every request has its verdict")
    return INTERRUPTED if loop.interrupted else 0


def _is_envelope(envelope: tuple[Any, ...]) -> bool:
    """The delimiter of a REQ, or a correlation frame and the delimiter."""
    small = all(len(frame) <= CORRELATION_BYTES for frame in envelope)
    return 0 < len(envelope) <= 2 and len(envelope[-1]) == 0 and small  # noqa: PLR2004


def _ids(pending: Any, dispatch: bytes | str) -> dict[str, str]:
    """Return both names of a request: its caller's, and that of the hand-over."""
    if pending is None or not isinstance(dispatch, bytes):
        return {}
    origin = pending.origin
    request = origin.hex() if isinstance(origin, bytes) else origin
    return {"request": request, "dispatch": dispatch.hex()}


def _bytes(frame: Any) -> bytes:
    return frame if isinstance(frame, bytes) else bytes(frame)

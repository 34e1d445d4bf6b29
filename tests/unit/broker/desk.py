"""A broker's core with short words for what its peers say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from falconas.broker.core import BrokerCore
from falconas.broker.flow import UNKNOWN_PEER
from falconas.broker.invariants import check_invariants
from falconas.broker.records import Peer, Pending, ScriptInfo, Send, Socket, Worker
from falconas.codec import decode_value, encode_value
from falconas.errors import Code
from falconas.protocol import (
    Heartbeat,
    Lost,
    Ready,
    Register,
    Reply,
    Request,
    Return,
    Status,
    Welcome,
)
from falconas.settings import Broker

EPOCH = b"epoch-01"
SETTINGS = Broker(queue_requests=4, queue_bytes=1024, client_requests=3)
MANIFEST: dict[str, Any] = {
    "read": {"idempotent": True},
    "write": {"idempotent": False},
    "brief": {"idempotent": True, "budget": 0.5},
    "broken": {"idempotent": False, "error": "SyntaxError: line 1"},
}


class Desk:
    """Time starts at 100 and is long past the broker's first seconds."""

    def __init__(self, *, fresh: bool = False, **settings: Any) -> None:
        self.now = 100.0
        began = self.now if fresh else 0.0
        self.core = BrokerCore(replace(SETTINGS, **settings), EPOCH, began)
        self.flow, self.pool = self.core.flow, self.core.flow.pool
        self._serial = 0

    def register(
        self,
        manifest: str = "m",
        scripts: dict[str, Any] | None = None,
        uuid: bytes = b"S" * 16,
    ) -> list[Send]:
        body = encode_value({"scripts": MANIFEST if scripts is None else scripts})
        register = Register(b"r", uuid, "host", manifest, {"pid": 7})
        peer = Peer(Socket.CONTROL, b"control" + uuid[:1])
        self.core.register(peer, register, body, self.now)
        return self.take()

    def worker(
        self,
        name: str = "w1",
        *,
        manifest: str = "m",
        group: str = "default",
        node: str = "main",
        link: str = "",
        supervisor: bytes = b"S" * 16,
        **extras: Any,
    ) -> list[Send]:
        """Let a worker say READY, by the connection `link` (its name if not given)."""
        uuid = name.encode().ljust(16, b".")
        extras = {"host": "host", "index": name, **extras}
        ready = Ready(uuid, uuid, supervisor, group, manifest, node, extras)
        self.core.ready(self.backend(link or name), ready, self.now)
        return self.take()

    def report(self, *entries: list[Any], uuid: bytes = b"S" * 16) -> list[Send]:
        """Let a supervisor say how its nodes are (see `node`)."""
        peer = Peer(Socket.CONTROL, b"control" + uuid[:1])
        body = encode_value({"nodes": [*entries]})
        self.core.heartbeat(peer, Heartbeat(b"h", uuid, {}), body, self.now)
        return [s for s in self.take() if s.socket is not Socket.CONTROL]

    def ask(
        self,
        script: str = "read",
        client: str = "c1",
        *,
        budget: float | None = None,
        body: bytes = b"",
        id_: bytes = b"",
        envelope: tuple[bytes, ...] = (),
        **extras: Any,
    ) -> bytes:
        """Let a client ask; return the id."""
        self._serial += 1
        id_ = id_ or b"id%d" % self._serial
        peer = Peer(Socket.FRONTEND, client.encode(), envelope)
        request = Request(id_, script, budget, extras)
        self.core.request(peer, request, body, self.now)
        return id_

    def reply(
        self, sent: Send, name: str = "", body: bytes = b"", **extras: Any
    ) -> None:
        """Let a worker answer what it was sent."""
        to = name.encode() or sent.identity
        answer = Reply(sent.message.id, 0, 0, extras)
        self.core.reply(Peer(Socket.BACKEND, to), answer, body, self.now)

    def give_back(self, sent: Send, **extras: Any) -> None:
        returned = Return(sent.message.id, "not now", extras)
        self.core.returned(Peer(Socket.BACKEND, sent.identity), returned, self.now)

    def lost(
        self, name: str, started: Any = b"", state: str = "RUN", **extras: Any
    ) -> None:
        uuid = name.encode().ljust(16, b".")
        self.core.lost(Lost(started, uuid, state, "signal 9", extras), self.now)

    def status(self, name: str, *, ready: bool) -> None:
        peer = self.backend(name)
        uuid = name.encode().ljust(16, b".")
        self.core.status(peer, Status(uuid, ready, {}), self.now)

    def tick(self, seconds: float = 0.0) -> None:
        self.now += seconds
        self.core.tick(self.now)

    def backend(self, name: str) -> Peer:
        return Peer(Socket.BACKEND, name.encode())

    def take(self) -> list[Send]:
        check_invariants(self.core)
        return self.core.take_sends()

    def handed(self) -> Send:
        """Return the one REQUEST that a worker was just sent."""
        (send,) = [s for s in self.take() if isinstance(s.message, Request)]
        return send

    def verdict(self) -> tuple[bytes, Code, Any]:
        """Return the one REPLY to a client: its id, its code, its body's value."""
        (send,) = [s for s in self.take() if isinstance(s.message, Reply)]
        reply = send.message
        assert isinstance(reply, Reply)
        assert isinstance(reply.id, bytes)
        return reply.id, Code(reply.code), decode_value(send.body)

    def known(self, name: str) -> Worker:
        return self.pool.by_uuid[name.encode().ljust(16, b".")]


def node(
    name: str,
    role: str = "standby",
    *,
    up: bool = True,
    lag: float | None = 0.0,
    lsn: int = 10,
    timeline: int = 0,
    database: str = "main",
    reason: str = "",
) -> list[Any]:
    """Return what a HEARTBEAT says of a node."""
    return [name, database, role, up, lag, lsn, timeline, reason]


def serving(*names: str, **settings: Any) -> Desk:
    """Return a desk whose workers have introduced themselves."""
    desk = Desk(**settings)
    desk.register()
    for name in names:
        desk.worker(name)
    return desk


def pending(number: int = 1, **fields: Any) -> Pending:
    """Return a request as the core would keep it."""
    values: dict[str, Any] = {
        "number": number,
        "client": None,
        "envelope": (),
        "origin": b"id%d" % number,
        "script": "read",
        "body": b"",
        "size": 0,
        "extras": {},
        "arrived": float(number),
        "deadline": 100.0,
    }
    return Pending(**{**values, **fields})


def info(*, idempotent: bool = False, error: str | None = None) -> ScriptInfo:
    return ScriptInfo("read", idempotent=idempotent, error=error)


def introductions(sends: list[Send]) -> set[bytes]:
    """Return who is asked to introduce themselves."""
    return {
        send.identity
        for send in sends
        if isinstance(send.message, Welcome) and send.message.id == UNKNOWN_PEER
    }

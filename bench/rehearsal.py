"""The broker without its sockets, among peers that answer at once, in one process.

What the broker does with one message is done in `feed`: decode the header, decide,
encode what goes out. So it can be timed, or its calls counted, and nothing else is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf
from typing import Any

from falconas import headers, protocol
from falconas.broker.core import BrokerCore
from falconas.broker.records import Peer, Send, Socket
from falconas.codec import encode_params, encode_value
from falconas.protocol import (
    Disconnect,
    Heartbeat,
    Hello,
    Ready,
    Register,
    Reply,
    Request,
    Return,
    Status,
    encode,
)
from falconas.settings import Broker

MANIFEST = "0123456789abcdef"
HELD = "held"
GROUP = "main"
BODY = encode_params({"value": "x" * 86})
BUDGET = 600_000.0
# What a worker says of each answer; the broker passes it on.
SERVED = {"worker": "host/1", "node": "main", "hash": MANIFEST, "run_us": 50}
MANY = 10_000_000
ROOMY = Broker(
    queue_requests=MANY, queue_bytes=MANY * 1000, client_requests=MANY, budget=BUDGET
)
ACCEPT = (protocol.FRONTEND, protocol.BACKEND, protocol.CONTROL)


@dataclass(frozen=True)
class Scale:
    """How large all is; `outstanding` requests are under way at any time.

    `held` wait for a worker that never comes back, `waiting` for those that work: they
    are outstanding as well.
    """

    workers: int = 64
    clients: int = 64
    outstanding: int = 64
    held: int = 0
    waiting: int = 0
    scripts: int = 1
    hosts: int = 1

    def names(self) -> list[str]:
        """Return the scripts' names."""
        return [f"reports.script_{number}" for number in range(self.scripts)]

    def manifest(self) -> bytes:
        """Return what the supervisors register."""
        entry = {"access": "read", "idempotent": True, "budget": None, "group": GROUP}
        scripts = dict.fromkeys(self.names(), entry)
        return encode_value({"scripts": {**scripts, HELD: {**entry, "group": HELD}}})


class Rehearsal:
    """A core with workers that are ready and clients that said HELLO."""

    def __init__(self, scale: Scale) -> None:
        self.scale = scale
        self.now = 100.0
        self.core = BrokerCore(ROOMY, b"epoch-01", 0.0)
        self._serial = 0
        self._in_hand: deque[Send] = deque()
        self._names = scale.names()
        self._handlers: dict[type[Any], Callable[..., None]] = {
            Hello: lambda p, m, _, now: self.core.hello(p, m, now),
            Request: self.core.request,
            Ready: lambda p, m, _, now: self.core.ready(p, m, now),
            Reply: self.core.reply,
            Return: lambda p, m, _, now: self.core.returned(p, m, now),
            Register: self.core.register,
            Heartbeat: self.core.heartbeat,
            Status: lambda p, m, _, now: self.core.status(p, m, now),
            Disconnect: lambda p, _, __, now: self.core.disconnect(p, now),
        }
        self._introduce()
        for _ in range(scale.held + 1 if scale.held else 0):
            self.ask(HELD)
        for _ in range(scale.outstanding + scale.waiting):
            self.ask()

    def feed(self, peer: Peer, header: bytes, body: bytes) -> list[tuple[Send, bytes]]:
        """Do all that the broker does about one message; return what it would send."""
        message = headers.decode(header, ACCEPT[peer.socket])
        self._handlers[type(message)](peer, message, body, self.now)
        return [(s, headers.encode(s.message)) for s in self.core.take_sends()]

    def ask(self, script: str | None = None) -> None:
        """Let the next client send a request, of the next script."""
        script = script or self._names[self._serial % len(self._names)]
        self._serial += 1
        client = b"c%07d" % (self._serial % self.scale.clients)
        id_ = self._serial.to_bytes(16, "big")
        request = encode(Request(id_, script, BUDGET, {"accept": ["ext"]}))
        self._say(Peer(Socket.FRONTEND, client), request, BODY)

    def answer(self) -> None:
        """Let the worker that has had its request for longest answer it.

        What came ahead of its turn, and too long ago, is given back.
        """
        send = self._in_hand.popleft()
        while send.message.extras.get("start_by", inf) < self.now:
            back = encode(Return(send.message.id, "its lease is over", {}))
            self._say(Peer(Socket.BACKEND, send.identity), back, b"")
            send = self._in_hand.popleft()
        reply = encode(Reply(send.message.id, 0, 0, SERVED))
        self._say(Peer(Socket.BACKEND, send.identity), reply, send.body)

    def step(self) -> None:
        """Let one request be answered and another come."""
        self.answer()
        self.ask()

    def second(self) -> None:
        """Let a second pass, with heartbeats and what the broker does by the clock."""
        self.now += 1.0
        node = ["main", "main", "primary", True, 0.0, int(self.now), 1, ""]
        for host, workers in self._alive.items():
            body = encode_value({"workers": workers, "nodes": [node]})
            beat = encode(Heartbeat(b"b", host, {}))
            self._say(Peer(Socket.CONTROL, host), beat, body)
        self.tick()

    def news(self) -> None:
        """Let an idle worker leave and another come, and one say that it cannot serve.

        That is the one for which the held ones wait. Then all scripts are new.
        """
        idle = Peer(Socket.BACKEND, b"w%07d" % self.scale.workers)
        self._say(idle, encode(Disconnect(b"d", {})), b"")
        self._ready(self.scale.workers)
        only = Peer(Socket.BACKEND, b"w%07d" % 0)
        for ready in (False, True):
            self._say(only, encode(Status(b"worker%010d" % 0, ready, {})), b"")
        self._serial += 1
        self._register(next(iter(self._alive)), f"{self._serial:016x}")

    def tick(self) -> None:
        """Let the broker look at the clock."""
        self.core.tick(self.now)
        for send in self.core.take_sends():
            headers.encode(send.message)

    def _introduce(self) -> None:
        scale = self.scale
        hosts = [b"host%012d" % number for number in range(scale.hosts)]
        self._alive: dict[bytes, list[bytes]] = {host: [] for host in hosts}
        for host in hosts:
            self._register(host, MANIFEST)
        for number in range(scale.workers + 1):
            self._alive[hosts[number % len(hosts)]].append(b"worker%010d" % number)
            self._ready(number)
        for number in range(scale.clients):
            hello = Hello(b"h", b"session%09d" % number, {})
            self._say(Peer(Socket.FRONTEND, b"c%07d" % number), encode(hello), b"")

    def _register(self, host: bytes, manifest: str) -> None:
        register = Register(b"r", host, host.decode(), manifest, {})
        self._say(Peer(Socket.CONTROL, host), encode(register), self.scale.manifest())

    def _ready(self, number: int) -> None:
        """Let a worker introduce itself; number 0 is the only one for what is held."""
        uuid, hosts = b"worker%010d" % number, [*self._alive]
        host, group = hosts[number % len(hosts)], GROUP if number else HELD
        ready = Ready(uuid, uuid, host, group, MANIFEST, "main", {"index": number})
        self._say(Peer(Socket.BACKEND, b"w%07d" % number), encode(ready), b"")

    def _say(self, peer: Peer, header: bytes, body: bytes) -> None:
        for send, _ in self.feed(peer, header, body):
            message = send.message
            if isinstance(message, Reply):
                assert not message.code, send.body
            elif isinstance(message, Request) and message.script != HELD:
                self._in_hand.append(send)


BASE = Scale()
FEW = replace(BASE, outstanding=10)
# What grows, from what on, to what; all else stays as it is.
DIMENSIONS: dict[str, list[Scale]] = {
    "workers": [replace(BASE, workers=n) for n in (64, 250, 1_000)],
    "clients": [replace(FEW, clients=n) for n in (10, 500, 5_000)],
    "held": [replace(BASE, held=n) for n in (0, 10_000, 100_000)],
    "waiting": [replace(BASE, waiting=n) for n in (0, 2_000, 10_000, 100_000)],
    "scripts": [replace(BASE, scripts=n) for n in (1, 100, 2_000)],
}

"""Clients, supervisors and workers in simulation, as docs/protocol.md wants them."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from math import inf
from typing import Any

from falconas.codec import encode_value
from falconas.errors import Code
from falconas.protocol import (
    Cancel,
    Kind,
    Message,
    Ready,
    Reply,
    Request,
    Return,
    Welcome,
)
from tests.unit.broker.views import DATABASE, Node, View


def _entry(
    access: str,
    idempotent: bool,
    budget: float | None = None,
    group: str | None = None,
    max_lag: float | None = None,
) -> dict[str, Any]:
    return {
        "access": access,
        "idempotent": idempotent,
        "budget": budget,
        "group": group,
        "max_lag": max_lag,
        "error": None,
    }


MANIFESTS: dict[str, dict[str, dict[str, Any]]] = {
    "a": {
        "read": _entry("read", True),
        "write": _entry("write", False),
        "brief": _entry("read", True, 0.5),
        "both": _entry("read", True),
        "only_a": _entry("read", False),
        "fresh": _entry("read", True, max_lag=1.0),
        "bound": _entry("write", True, group="other"),
        "broken": {**_entry("write", False), "error": "SyntaxError: line 1"},
    },
    "b": {
        "read": _entry("read", True),
        "write": _entry("write", False),
        "brief": _entry("read", True, 0.5),
        "both": _entry("write", False),
        "only_b": _entry("write", True),
        "fresh": _entry("read", True, max_lag=0.2),
    },
}
SCRIPTS = ["read", "write", "read", "write", "brief", "both", "only_a", "only_b"]
SCRIPTS += ["fresh", "bound"]
CAPS = {"brief": 0.5}


@dataclass(slots=True, eq=False)
class Link:
    """A connection; `open`: the broker's sends succeed, which promises nothing."""

    identity: bytes
    up: deque[tuple[Message, bytes]] = field(default_factory=deque)
    down: deque[tuple[Message, bytes]] = field(default_factory=deque)
    open: bool = True


@dataclass(slots=True, eq=False)
class Caller:
    """A client; `link` is where the broker was told to answer."""

    session: bytes
    link: Link
    envelope: tuple[bytes, ...] = ()
    gone_at: float | None = None  # the broker could not reach it


@dataclass(slots=True, eq=False)
class Asked:
    """A request and what became of it."""

    caller: Caller
    id: bytes
    script: str
    body: bytes
    at: float
    deadline: float
    to: Link
    handed: int = 0
    unsent: bool = False  # handed to a worker whose connection was gone
    starts: list[bool] = field(default_factory=list)  # idempotent there?
    verdict: tuple[Reply, bytes] | None = None
    held_until: float | None = None
    cancelled_at: float | None = None
    min_lsn: int | None = None
    attempt: int = 0
    behind: bool = False  # a node had not replayed what it wants to see
    conflicted: bool = False  # a standby's recovery cancelled it
    watched: bool = False  # to be cancelled when the caller is gone
    deserted: bool = False  # the caller has been gone for too long

    @property
    def failed(self) -> bool:
        """Whether its verdict is that nobody could serve it."""
        return self.verdict is not None and self.verdict[0].code == Code.UNAVAILABLE


@dataclass(slots=True, eq=False)
class Host:
    """A supervisor."""

    uuid: bytes
    manifest: str
    link: Link
    beating: bool = True
    views: dict[str, View] = field(default_factory=dict)  # of nodes, as last probed
    cancels: set[Any] = field(default_factory=set)

    def read(self) -> None:
        """Take all messages that have arrived."""
        down = self.link.down
        while down:
            message, _ = down.popleft()
            if isinstance(message, Cancel):
                self.cancels.add((message.extras["worker"], message.id))


@dataclass(slots=True, eq=False)
class Process:
    """A worker process, as docs/protocol.md wants it."""

    uuid: bytes
    host: Host
    group: str
    link: Link
    manifest: str
    node: Node
    alive: bool = True
    introductions: int = 0
    welcomed: bool = False
    inbox: list[tuple[Request, bytes]] = field(default_factory=list)
    running: tuple[Request, bytes] | None = None
    answers: list[tuple[Reply | Return, bytes]] = field(default_factory=list)
    slot: bytes = b""

    @property
    def introduction(self) -> bytes:
        return self.uuid + bytes([self.introductions])

    def introduce(self) -> None:
        """Say READY; nothing else is said or taken until its WELCOME."""
        self.introductions += 1
        self.welcomed = False
        self.inbox.clear()
        holding = [self.running[0].id] if self.running else []
        holding += [answer.id for answer, _ in self.answers]
        extras = {"holding": holding, "host": "h", "index": self.uuid[1]}
        host = self.host
        ready = Ready(
            self.introduction,
            self.uuid,
            host.uuid,
            self.group,
            self.manifest,
            self.node.name,
            extras,
        )
        self.link.up.append((ready, b""))

    def read(self) -> None:
        """Take all messages that have arrived."""
        down = self.link.down
        while down:
            message, body = down.popleft()
            if isinstance(message, Welcome):
                if message.id == self.introduction:
                    self.welcomed = True
                    self.link.up.extend(self.answers)
                elif self.welcomed:
                    self.introduce()
            elif isinstance(message, Request) and self.welcomed:
                self._confirm(message.extras.get("ahead", 0))
                self.inbox.append((message, body))
            elif isinstance(message, Cancel):
                for item in self.inbox:
                    if item[0].id == message.id:
                        self.inbox.remove(item)
                        self._refuse(item[0], Code.CANCELLED)
                        break

    def _confirm(self, ahead: int) -> None:
        """Forget the answers that have arrived: of all in hand that many have not."""
        unknown = max(0, ahead - len(self.inbox) - (self.running is not None))
        del self.answers[: len(self.answers) - unknown]

    def next(self, now: float) -> Request | None:
        """Start the next request that is not late; return it."""
        while self.inbox and self.running is None:
            item = self.inbox.pop(0)
            request = item[0]
            assert request.budget is not None
            lack = self._lack(request)
            if now > request.extras.get("start_by", inf):
                self.answer(Return(request.id, "too late here", {}), b"")
            elif now < request.budget and lack:
                self.answer(Return(request.id, "not here", {lack: True}), b"")
            elif now < request.budget:
                self.running = item
                assert isinstance(request.id, bytes)
                self.slot = request.id
                return request
            else:
                self._refuse(request, Code.DEADLINE_EXCEEDED)
        return None

    def _lack(self, request: Request) -> str:
        """Say what its node lacks for a request; empty: nothing."""
        if self.node.role == "primary":
            return ""
        if MANIFESTS[self.manifest][request.script]["access"] == "write":
            return "refused"
        wanted = request.extras.get("min_lsn", {}).get(DATABASE, 0)
        return "behind" if self.node.lsn < wanted else ""

    def conflict(self, ready: bool) -> None:
        """Answer that the recovery of a standby cancelled what runs."""
        self._broken_off(Code.ABORTED, {"conflict": True, "ready": ready})

    def lose_connection(self) -> None:
        """Answer that the node ended the connection under what runs."""
        self._broken_off(Code.UNAVAILABLE, {"lost": True, "ready": False})

    def _broken_off(self, code: Code, extras: dict[str, Any]) -> None:
        assert self.running is not None
        (request, _), self.running = self.running, None
        fields = {"message": "broken off", "started": "yes"}
        reply = Reply(request.id, Kind.ERROR, code, extras)
        self.answer(reply, encode_value(fields))

    def finish(self, ok: bool, ready: bool, run_us: int = 100) -> None:
        """Answer what runs with its nonce."""
        assert self.running is not None
        (request, body), self.running = self.running, None
        extras: dict[str, Any] = {"run_us": run_us}
        if not ready:
            extras["ready"] = False
        if ok:
            reply = Reply(request.id, Kind.OK, Code.OK, extras)
            self.answer(reply, b"done " + body)
        else:
            reply = Reply(request.id, Kind.ERROR, Code.UNKNOWN, extras)
            fields = {"message": body.decode(), "started": "yes"}
            self.answer(reply, encode_value(fields))

    def interrupted(self, now: float) -> Code | None:
        """Say why what runs should be interrupted, if so."""
        if self.running is None:
            return None
        self.host.read()
        request = self.running[0]
        assert request.budget is not None
        if (self.uuid, request.id) in self.host.cancels:
            return Code.CANCELLED
        return Code.DEADLINE_EXCEEDED if now >= request.budget else None

    def stop(self, code: Code) -> None:
        """Answer that what ran was interrupted."""
        assert self.running is not None
        (request, _), self.running = self.running, None
        fields = {"message": "interrupted", "started": "yes"}
        reply = Reply(request.id, Kind.ERROR, code, {})
        self.answer(reply, encode_value(fields))

    def give_back(self, ready: bool) -> None:
        """Return what was not started."""
        request, _ = self.inbox.pop(0)
        extras = {} if ready else {"ready": False}
        self.answer(Return(request.id, "no connection", extras), b"")

    def answer(self, message: Reply | Return, body: bytes) -> None:
        """Send an answer, and keep it: it may have to be sent again."""
        self.answers.append((message, body))
        if self.welcomed:
            self.link.up.append(self.answers[-1])

    def _refuse(self, request: Request, code: Code) -> None:
        fields = {"message": "refused", "started": "no", "retry_safe": True}
        reply = Reply(request.id, Kind.ERROR, code, {})
        self.answer(reply, encode_value(fields))

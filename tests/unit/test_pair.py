"""Client, broker and worker cores, joined by variables instead of sockets.

Every message is encoded and decoded again. Brokers restart, workers die, links
break; each call gets one verdict in time, with the nonce that was asked for.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import pytest

from falconas.broker.core import BrokerCore
from falconas.broker.expiry import RESOLUTION
from falconas.broker.flow import VERDICT_GRACE
from falconas.broker.invariants import check_invariants
from falconas.broker.records import Peer, Socket
from falconas.client.core import ClientCore
from falconas.client.outstanding import Outstanding
from falconas.client.verdict import Verdict
from falconas.codec import encode_value
from falconas.errors import Code, FalconError, Started
from falconas.protocol import (
    BACKEND,
    FRONTEND,
    Cancel,
    Catalogue,
    Disconnect,
    Heartbeat,
    Hello,
    Kind,
    Lost,
    Message,
    Ready,
    Register,
    Reply,
    Request,
    Return,
    Status,
    Welcome,
    decode,
    encode,
)
from falconas.settings import Broker
from falconas.worker.core import Work, WorkerCore

SETTINGS = Broker(budget=4.0)
MANIFEST = {"read": {"idempotent": True}, "write": {"idempotent": False}}
TO_WORKER = frozenset({Welcome, Request, Cancel})
SUPERVISOR = b"s" * 16
# The clocks of the three processes have nothing in common.
CLIENT_CLOCK, WORKER_CLOCK = 5000.0, -70.0

Frames = tuple[bytes, bytes]


@dataclass(eq=False)
class Link:
    """One connection, in both directions."""

    identity: bytes
    up: deque[Frames] = field(default_factory=deque)
    down: deque[Frames] = field(default_factory=deque)


class Runner:
    """A worker process."""

    def __init__(self, number: int) -> None:
        self.uuid = b"w%015d" % number
        ready = Ready(b"", self.uuid, SUPERVISOR, "default", "m", "main", {})
        self.core = WorkerCore(ready, f"host/{number}")
        self.work: Work | None = None
        self.started = b""
        self.link = Link(b"")


class Trio:
    """The three cores and what lies between them."""

    def __init__(self, workers: int = 2) -> None:
        self.now = 1000.0
        self.serial = 0
        self.starts: dict[bytes, int] = {}
        self.verdicts: dict[bytes, Verdict] = {}
        self.calls: dict[bytes, Outstanding] = {}
        self.writes: set[bytes] = set()
        self.links: dict[bytes, Link] = {}
        self.broker = self.new_broker()
        self.client = ClientCore(b"session of 16 b.", "tcp://broker", budget=4.0)
        self.client_link = Link(b"")
        self.cancels: list[Cancel] = []  # that reached the supervisor
        self.runners: list[Runner] = []
        self.connect_client()
        for _ in range(workers):
            self.spawn()

    def new_broker(self) -> BrokerCore:
        self.serial += 1
        core = BrokerCore(SETTINGS, b"epoch%03d" % self.serial, self.now)
        register = Register(b"r", SUPERVISOR, "host", "m", {})
        body = encode_value({"scripts": MANIFEST})
        core.register(Peer(Socket.CONTROL, b"s"), register, body, self.now)
        core.take_sends()
        return core

    # Connections

    def link(self) -> Link:
        self.serial += 1
        link = Link(b"link%d" % self.serial)
        self.links[link.identity] = link
        return link

    def connect_client(self) -> None:
        self.links.pop(self.client_link.identity, None)
        self.client.disconnected(self.now + CLIENT_CLOCK)
        self.client_link = self.link()
        self.client.connected(self.now + CLIENT_CLOCK)

    def connect_worker(self, runner: Runner) -> None:
        self.links.pop(runner.link.identity, None)
        runner.core.disconnected(self.now + WORKER_CLOCK)
        runner.link = self.link()
        runner.core.connected(self.now + WORKER_CLOCK)

    def spawn(self) -> Runner:
        self.serial += 1
        runner = Runner(self.serial)
        runner.core.connection(sound=True, now=self.now + WORKER_CLOCK)
        self.runners.append(runner)
        self.connect_worker(runner)
        return runner

    def kill(self, runner: Runner, **extras: Any) -> None:
        self.runners.remove(runner)
        del self.links[runner.link.identity]
        state = "RUN" if runner.work else "IDLE"
        lost = Lost(runner.started, runner.uuid, state, "signal 9", extras)
        self.broker.lost(lost, self.now)
        self.spawn()

    def restart_broker(self) -> None:
        self.links.clear()
        self.broker = self.new_broker()
        self.connect_client()
        for runner in self.runners:
            self.connect_worker(runner)

    # What they do

    def call(self, script: str, budget: float | None = None) -> bytes:
        nonce = b"nonce%d" % len(self.calls)
        now = self.now + CLIENT_CLOCK
        self.calls[nonce] = self.client.request(
            nonce, script, nonce, now, budget=budget
        )
        if script == "write":
            self.writes.add(nonce)
        return nonce

    def begin(self, runner: Runner) -> None:
        if runner.work is not None:
            return
        runner.work = runner.core.take_work(self.now + WORKER_CLOCK)
        if runner.work is not None:
            work = runner.work
            nonce = bytes(work.body)
            self.starts[nonce] = self.starts.get(nonce, 0) + 1
            assert isinstance(work.request.id, bytes)
            runner.started = work.request.id

    def interrupt(self) -> None:
        """Let the supervisor do what it was told, where it is not too late."""
        while self.cancels:
            cancel = self.cancels.pop()
            for runner in self.runners:
                mine = runner.uuid == cancel.extras["worker"]
                if mine and runner.work and runner.work.request.id == cancel.id:
                    runner.work = None
                    body = encode_value({"message": "cancelled", "started": "yes"})
                    now = self.now + WORKER_CLOCK
                    runner.core.replied(Kind.ERROR, Code.CANCELLED, body, {}, now)

    def end(self, runner: Runner) -> None:
        if runner.work is not None:
            body = bytes(runner.work.body)
            runner.work = None
            now = self.now + WORKER_CLOCK
            runner.core.replied(Kind.OK, Code.OK, b"done " + body, {}, now)

    # What travels

    def pump(self) -> None:
        """Let everything that is on its way arrive."""
        moved = True
        while moved:
            moved = self._from_client() or self._from_workers()
            self._from_broker()
            moved = self._to_client() or self._to_workers() or moved
        for owner, verdict in self.client.take_verdicts():
            assert owner not in self.verdicts, "two verdicts"
            self.verdicts[owner] = verdict
            late = self.now + CLIENT_CLOCK - self.calls[owner].deadline
            # A verdict of the broker's, and the longest that nobody looks.
            assert late < VERDICT_GRACE + RESOLUTION + 0.4, "a late verdict"
        self.check()

    def _from_client(self) -> bool:
        now = self.now + CLIENT_CLOCK
        moved = False
        while messages := self.client.next_sends(now, 3):
            self.client.sent(now, len(messages))
            for header, body in messages:
                self._client_says(decode(header, FRONTEND), body)
            moved = True
        return moved

    def _client_says(self, message: Message, body: bytes) -> None:
        core, now = self.broker, self.now
        peer = Peer(Socket.FRONTEND, self.client_link.identity)
        if isinstance(message, Hello):
            core.hello(peer, message, now)
        elif isinstance(message, Request):
            core.request(peer, message, body, now)
        elif isinstance(message, Cancel):
            core.cancel(peer, message, now)
        else:
            assert isinstance(message, Catalogue)
            core.catalogue(peer, message)

    def _from_workers(self) -> bool:
        moved = False
        for runner in self.runners:
            for send in runner.core.take_sends():
                header = encode(send.message)
                self._worker_says(runner.link, decode(header, BACKEND), send.body)
                moved = True
        return moved

    def _worker_says(self, link: Link, message: Message, body: bytes) -> None:
        core, now = self.broker, self.now
        peer = Peer(Socket.BACKEND, link.identity)
        if isinstance(message, Ready):
            core.ready(peer, message, now)
        elif isinstance(message, Reply):
            core.reply(peer, message, body, now)
        elif isinstance(message, Return):
            core.returned(peer, message, now)
        elif isinstance(message, Status):
            core.status(peer, message, now)
        else:
            assert isinstance(message, Disconnect)
            core.disconnect(peer, now)

    def _from_broker(self) -> None:
        while sends := self.broker.take_sends():
            for send in sends:
                link = self.links.get(send.identity)
                if link is not None:
                    link.down.append((encode(send.message), bytes(send.body)))
                elif send.socket is not Socket.CONTROL:
                    self.broker.unreachable(send, self.now)
                elif isinstance(send.message, Cancel):
                    header = encode(send.message)
                    self.cancels.append(decode(header, frozenset({Cancel})))

    def _to_client(self) -> bool:
        down = self.client_link.down
        moved = bool(down)
        while down:
            wrong = self.client.received(down.popleft(), self.now + CLIENT_CLOCK)
            assert wrong is None, wrong
        return moved

    def _to_workers(self) -> bool:
        moved = False
        now = self.now + WORKER_CLOCK
        for runner in self.runners:
            while runner.link.down and runner.work is None:
                header, body = runner.link.down.popleft()
                message = decode(header, TO_WORKER)
                if isinstance(message, Welcome):
                    runner.core.welcome(message, now)
                elif isinstance(message, Request):
                    runner.core.request(message, body, now)
                else:
                    runner.core.cancel(message, now)
                moved = True
        return moved

    def wait(self, seconds: float) -> None:
        """Let time pass; everybody does what is due."""
        self.now += seconds
        workers = [runner.uuid for runner in self.runners]
        alive = encode_value({"workers": workers})
        beat = Heartbeat(b"h", SUPERVISOR, {})
        self.broker.heartbeat(Peer(Socket.CONTROL, b"s"), beat, alive, self.now)
        self.broker.tick(self.now)
        self.client.tick(self.now + CLIENT_CLOCK)
        for runner in self.runners:
            if runner.work is None:
                runner.core.tick(self.now + WORKER_CLOCK)
        self.pump()

    def check(self) -> None:
        check_invariants(self.broker)
        self.client.check_invariants()
        for runner in self.runners:
            runner.core.check_invariants()
        for nonce, count in self.starts.items():
            # A read: once more by the broker, and once more by the client.
            assert count <= (1 if nonce in self.writes else 4), "started too often"
        for nonce, verdict in self.verdicts.items():
            if verdict.error is None:
                assert verdict.body == b"done " + nonce, "somebody else's result"
                assert self.starts[nonce]
            elif verdict.error.started is Started.NO:
                assert nonce not in self.starts, "started, but denied"


def outcome(trio: Trio, nonce: bytes) -> FalconError | None:
    return trio.verdicts[nonce].error


@pytest.fixture
def trio() -> Trio:
    trio = Trio()
    trio.pump()
    return trio


def busy(trio: Trio) -> Runner:
    """Let one worker start what was asked; return it."""
    trio.pump()
    for runner in trio.runners:
        trio.begin(runner)
    (runner,) = [runner for runner in trio.runners if runner.work]
    return runner


def test_a_call_runs_and_its_result_comes_back(trio: Trio) -> None:
    nonce = trio.call("write", budget=2.0)
    runner = busy(trio)
    assert runner.work is not None
    assert runner.work.deadline == pytest.approx(trio.now + WORKER_CLOCK + 2.0)
    trio.end(runner)
    trio.pump()

    verdict = trio.verdicts[nonce]
    assert verdict.body == b"done " + nonce
    assert verdict.info["attempt"] == 1
    assert str(verdict.info["worker"]).startswith("host/")


@pytest.mark.parametrize("script", ["read", "write"])
def test_a_killed_worker(trio: Trio, script: str) -> None:
    nonce = trio.call(script)
    trio.kill(busy(trio))
    trio.pump()
    for runner in list(trio.runners):
        trio.begin(runner)
        trio.end(runner)
    trio.pump()

    error = outcome(trio, nonce)
    if script == "read":
        assert error is None
        assert trio.starts[nonce] == 2
        return
    assert error is not None
    assert (error.code, error.started) == (Code.UNAVAILABLE, Started.YES)
    assert trio.starts[nonce] == 1


@pytest.mark.parametrize("script", ["read", "write"])
def test_a_broker_that_comes_back_under_a_running_request(
    trio: Trio, script: str
) -> None:
    nonce = trio.call(script)
    runner = busy(trio)
    trio.restart_broker()
    trio.pump()
    trio.end(runner)  # to the old broker; the new one never hears of it
    trio.pump()
    for other in trio.runners:
        trio.begin(other)
        trio.end(other)
    trio.pump()

    error = outcome(trio, nonce)
    if script == "read":
        assert error is None
        return
    assert error is not None
    assert (error.code, error.started) == (Code.UNAVAILABLE, Started.UNKNOWN)
    assert trio.starts[nonce] == 1


def test_a_second_attempt_does_not_deny_the_first(trio: Trio) -> None:
    nonce = trio.call("read", budget=1.0)
    busy(trio)
    trio.runners.clear()
    trio.restart_broker()
    trio.pump()
    trio.wait(1.1)  # the new broker has no worker, and says "not started"

    error = outcome(trio, nonce)
    assert error is not None
    assert (error.code, error.started) == (Code.DEADLINE_EXCEEDED, Started.UNKNOWN)
    assert trio.client.counters["last_resort"] == 0


def test_a_client_that_reconnects_gets_its_answer(trio: Trio) -> None:
    nonce = trio.call("write")
    runner = busy(trio)
    trio.connect_client()
    trio.pump()
    assert nonce not in trio.verdicts
    trio.end(runner)
    trio.pump()

    assert outcome(trio, nonce) is None


def test_an_answer_on_its_way_to_a_client_that_reconnects(trio: Trio) -> None:
    nonce = trio.call("write")
    runner = busy(trio)
    del trio.links[trio.client_link.identity]
    trio.end(runner)
    trio._from_workers()
    trio._from_broker()
    trio.connect_client()
    trio.pump()

    assert outcome(trio, nonce) is None


def test_a_worker_that_reconnects_in_mid_request_still_answers(trio: Trio) -> None:
    nonce = trio.call("write")
    runner = busy(trio)
    trio.connect_worker(runner)
    trio.pump()
    trio.end(runner)
    trio.pump()

    assert outcome(trio, nonce) is None
    assert trio.starts[nonce] == 1


def test_a_request_lost_with_its_connection_is_handed_out_again(trio: Trio) -> None:
    nonce = trio.call("write")
    trio._from_client()
    trio._from_broker()
    (runner,) = [runner for runner in trio.runners if runner.link.down]
    trio.connect_worker(runner)
    trio.end(busy(trio))
    trio.pump()

    assert outcome(trio, nonce) is None


def test_cancel_reaches_a_worker_before_the_start(trio: Trio) -> None:
    nonce = trio.call("write")
    trio.pump()
    trio.client.cancel(trio.calls[nonce], trio.now + CLIENT_CLOCK)
    trio.pump()

    error = outcome(trio, nonce)
    assert error is not None
    assert (error.code, error.started) == (Code.CANCELLED, Started.NO)


def test_cancel_reaches_a_script_that_runs(trio: Trio) -> None:
    nonce = trio.call("read")
    runner = busy(trio)
    trio.client.cancel(trio.calls[nonce], trio.now + CLIENT_CLOCK)
    trio.pump()
    assert nonce not in trio.verdicts

    trio.interrupt()
    trio.pump()

    error = outcome(trio, nonce)
    assert error is not None
    assert (error.code, error.started) == (Code.CANCELLED, Started.YES)
    for _ in trio.runners:  # it is free again
        trio.call("read")
    trio.pump()
    for each in trio.runners:
        trio.begin(each)
    assert all(each.work for each in trio.runners)
    assert runner in trio.runners


@pytest.mark.parametrize("why", ["cancel", "deadline"])
def test_a_worker_that_had_to_be_ended(trio: Trio, why: str) -> None:
    nonce = trio.call("read", budget=1.0)
    runner = busy(trio)
    if why == "cancel":
        trio.client.cancel(trio.calls[nonce], trio.now + CLIENT_CLOCK)
        trio.pump()
    trio.kill(runner, why=why)
    trio.pump()

    error = outcome(trio, nonce)
    assert error is not None
    code = Code.CANCELLED if why == "cancel" else Code.DEADLINE_EXCEEDED
    assert (error.code, error.started) == (code, Started.YES)
    assert trio.starts[nonce] == 1


def test_nobody_starts_late(trio: Trio) -> None:
    nonce = trio.call("write", budget=1.0)
    trio._from_client()
    trio._from_broker()
    trio.now += 1.2  # on its way to the worker
    for runner in trio.runners:
        trio.begin(runner)
    trio.pump()
    for runner in trio.runners:
        trio.begin(runner)
    trio.wait(0.0)

    error = outcome(trio, nonce)
    assert error is not None
    assert (error.code, error.started) == (Code.DEADLINE_EXCEEDED, Started.NO)
    assert not trio.starts


@pytest.mark.parametrize("seed", range(40))
def test_anything_in_any_order(seed: int) -> None:
    chance = random.Random(seed)
    trio = Trio(workers=3)

    def anybody() -> Runner:
        return chance.choice(trio.runners)

    def ask() -> None:
        script = chance.choice(["read", "write"])
        trio.call(script, chance.choice([None, 0.5, 2.0]))

    def cancel() -> None:
        calls: list[Any] = [c for c in trio.calls.values() if c.owner is not None]
        if calls:
            trio.client.cancel(chance.choice(calls), trio.now + CLIENT_CLOCK)

    deeds = {
        ask: 30,
        trio.pump: 20,
        lambda: trio.begin(anybody()): 30,
        lambda: trio.end(anybody()): 25,
        lambda: trio.wait(chance.choice([0.01, 0.1, 0.4])): 20,
        cancel: 4,
        trio.interrupt: 10,
        lambda: trio.kill(anybody()): 3,
        lambda: trio.connect_worker(anybody()): 3,
        trio.connect_client: 2,
        trio.restart_broker: 1,
    }
    for _ in range(250):
        chance.choices([*deeds], [*deeds.values()])[0]()
    for _ in range(70):
        trio.wait(0.1)

    assert trio.verdicts.keys() == trio.calls.keys(), "not every call has a verdict"
    assert any(verdict.error is None for verdict in trio.verdicts.values())
    assert trio.broker.flow.open == 0

"""The client's core against a model: callers, time and a broker that comes and goes.

Each call carries a nonce, so that a reply to the wrong call shows.
"""

from __future__ import annotations

import random
from typing import Any

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from falconas import codec, protocol
from falconas.client.calls import ATTEMPTS
from falconas.client.core import LOST_WINDOW, ClientCore
from falconas.client.outstanding import GRACE, Outstanding
from falconas.client.verdict import Verdict
from falconas.errors import Internal, ResourceExhausted, Started, Unavailable
from falconas.protocol import Catalogue, Hello, Kind, Reply, Request, Welcome

LIMITS = {"params_bytes": 100, "budget": 2.0}
CATALOGUE = {"read": True, "write": False}
OUTSTANDING = 6
PICK = st.randoms(use_true_random=False)


class Attempt:
    """What the broker of the model knows of one REQUEST that it received."""

    def __init__(self, request: Request, body: bytes, epoch: bytes) -> None:
        self.id = request.id
        self.epoch = epoch
        self.nonce = codec.decode_value(body)["nonce"]


class ClientMachine(RuleBasedStateMachine):
    """A client, a broker that comes and goes, and callers who lose patience.

    `attempts` holds what was handed over, by nonce; a verdict OK must carry the
    nonce of its own call.
    """

    def __init__(self) -> None:
        super().__init__()
        self.core = ClientCore(
            bytes(16), "tcp://broker:5570", budget=4.0, outstanding=OUTSTANDING
        )
        self.now = 10.0
        self.life = 1
        self.connected = False
        self.welcomed = False
        self.hello: Hello | None = None
        self.hellos: list[Hello] = []
        self.calls: dict[str, Outstanding] = {}
        self.limit: dict[str, float] = {}
        self.attempts: dict[str, int] = {}
        self.at_broker: list[Attempt] = []
        self.ended: dict[str, Verdict] = {}
        self.lost_at: float | None = None

    def epoch(self) -> bytes:
        return self.life.to_bytes(8, "big")

    # Callers

    @rule(
        script=st.sampled_from(["read", "write", "other"]),
        budget=st.sampled_from([None, 0.3, 2.0]),
        word=st.sampled_from([None, None, True, False]),
        at_once=st.sampled_from([True, True, False]),
    )
    def submit(
        self, script: str, budget: float | None, word: bool | None, at_once: bool
    ) -> None:
        nonce = f"{len(self.limit)}"
        body = codec.encode_params({"nonce": nonce})
        outstanding = self.core.outstanding
        try:
            call = self.core.request(
                nonce, script, body, self.now, budget=budget, idempotent=word
            )
        except ResourceExhausted:
            assert outstanding == OUTSTANDING
            return
        self.calls[nonce] = call
        self.limit[nonce] = self.now + (4.0 if budget is None else budget)
        if at_once and self.connected:
            self.send(20, 20)

    @precondition(lambda self: self.calls)
    @rule(pick=PICK)
    def cancel(self, pick: random.Random) -> None:
        nonce = pick.choice(list(self.calls))
        self.core.cancel(self.calls[nonce], self.now)
        self.limit[nonce] = min(self.limit[nonce], self.now)
        self.take()

    # The connection

    @initialize()
    def meet(self) -> None:
        self.connect()
        self.send(1, 1)
        self.welcome(0)
        self.send(1, 1)

    @precondition(lambda self: not self.connected)
    @rule(another=st.booleans(), forget=st.sampled_from([None, 0, 1, 2]))
    def reconnect(self, another: bool, forget: int | None) -> None:
        """To the same life of the broker or to the next one; not always welcome."""
        self.life += another
        self.connect()
        if forget is not None:
            self.send(1, 1)
            self.welcome(forget)

    def connect(self) -> None:
        self.connected = True
        self.core.connected(self.now)

    @precondition(lambda self: self.core._calls.sent)
    @rule(
        another=st.booleans(),
        forget=st.sampled_from([0, 1, 2]),
        pause=st.sampled_from([0.1, 0.1, 0.5, 1.0]),
    )
    def interrupt(self, another: bool, forget: int, pause: float) -> None:
        """Lose the connection with something in hand, and come back."""
        self.disconnect()
        self.time_passes(pause)
        self.tick(b"")
        self.reconnect(another, forget)
        self.send(20, 20)

    @precondition(lambda self: self.connected)
    @rule()
    def disconnect(self) -> None:
        if not self.connected:
            return
        self.connected = self.welcomed = False
        self.hello = None
        self.core.disconnected(self.now)
        if self.lost_at is None:
            self.lost_at = self.now

    @precondition(lambda self: self.connected)
    @rule(most=st.sampled_from([1, 3, 20, 20]), taken=st.sampled_from([0, 2, 20, 20]))
    def send(self, most: int, taken: int) -> None:
        """The socket may take less than there is."""
        messages = self.core.next_sends(self.now, most)[:taken]
        self.core.sent(self.now, len(messages))
        for header, body in messages:
            self.arrive(protocol.decode(header, protocol.FRONTEND), body)
        self.take()

    def arrive(self, message: Any, body: bytes) -> None:
        if isinstance(message, Hello):
            self.hello = message
            self.hellos.append(message)
        elif isinstance(message, Request):
            assert self.welcomed
            assert message.budget is None or message.budget > 0
            attempt = Attempt(message, body, self.epoch())
            assert attempt.id not in {other.id for other in self.at_broker}
            self.at_broker.append(attempt)
            nonce = attempt.nonce
            if not self.attempts.get(nonce) and message.budget is None:
                self.limit[nonce] = self.now + LIMITS["budget"]
            self.attempts[nonce] = self.attempts.get(nonce, 0) + 1
        elif isinstance(message, Catalogue):
            value = codec.encode_value({"scripts": CATALOGUE})
            header = protocol.encode(Reply(message.id, Kind.OK, 0, {}))
            self.core.received((header, value), self.now)

    @precondition(lambda self: self.connected and self.hello)
    @rule(forget=st.integers(0, 2))
    def welcome(self, forget: int) -> None:
        """The broker may have forgotten some of what it was sent."""
        assert self.hello is not None
        held = [a.id for a in self.at_broker][forget:]
        header = protocol.encode(
            Welcome(self.hello.id, self.epoch(), 1.0, {"limits": LIMITS})
        )
        self.hello = None
        if self.welcomed:  # HELLO had been said twice
            return
        self.core.received((header, codec.encode_value(held)), self.now)
        self.welcomed = True
        self.lost_at = None
        self.take()
        here = {a.id for a in self.at_broker if a.epoch == self.epoch()}
        assert self.core._calls.sent.keys() <= here & set(held), "nobody answers"

    @precondition(lambda self: not self.welcomed and len(self.hellos) > 1)
    @rule()
    def welcome_again(self) -> None:
        """A WELCOME of an earlier connection."""
        old = self.hellos[0]
        if self.hellos[-1].id != old.id:
            header = protocol.encode(Welcome(old.id, self.epoch(), 1.0, {}))
            self.core.received((header, b""), self.now)
            assert not self.core.next_sends(self.now, 1) or self.connected
            assert not self.core._welcomed

    # Replies: right ones, doubled ones and late ones, of whatever attempt

    @precondition(lambda self: self.at_broker)
    @rule(
        pick=PICK,
        kind=st.sampled_from([Kind.OK, Kind.OK, Kind.ERROR, Kind.PARTIAL]),
        keep=st.booleans(),
    )
    def reply(self, pick: random.Random, kind: Kind, keep: bool) -> None:
        attempt = pick.choice(self.at_broker)
        if not keep:
            self.at_broker.remove(attempt)
        header = protocol.encode(Reply(attempt.id, kind, 10 * (kind == 2), {}))
        self.core.received((header, codec.encode_value(attempt.nonce)), self.now)
        self.take()

    # Time

    @rule(seconds=st.sampled_from([0.1, 0.5, 1.0]))
    def time_passes(self, seconds: float) -> None:
        """Without a tick: a loop may be late."""
        self.now += seconds

    @rule(noise=st.sampled_from([b"", b"\xc1", b"\x93\x01\x04\xa1x"]))
    def tick(self, noise: bytes) -> None:
        self.core.received((noise, b""), self.now)
        before = dict(self.calls)
        self.core.tick(self.now)
        self.take()
        assert self.core.wake_at() > self.now
        for nonce in before.keys() - self.calls.keys():
            lost = isinstance(self.ended[nonce].error, Unavailable)
            again = self.attempts.get(nonce) and self.idempotent(before[nonce])
            assert not (lost and self.welcomed and not again), "nothing was lost"
        if self.lost_at is not None and self.now >= self.lost_at + LOST_WINDOW:
            self.lost_at = None
            assert not self.core._calls.sent
        for nonce in self.calls:
            grace = GRACE if self.attempts.get(nonce) else 0.0
            assert self.now < self.limit[nonce] + grace, "a verdict is overdue"

    def take(self) -> None:
        for nonce, verdict in self.core.take_verdicts():
            call = self.calls.pop(nonce)
            assert nonce not in self.ended, "a second verdict"
            self.ended[nonce] = verdict
            if verdict.error is None:
                assert verdict.value() == nonce, "another call's reply"
            elif verdict.info:
                never = not self.attempts.get(nonce)
                told = verdict.error.started
                assert (told is Started.NO) == never or isinstance(
                    verdict.error, Internal
                )
            if verdict.error is not None and verdict.error.retry_safe:
                safe = not self.attempts.get(nonce) or self.idempotent(call)
                assert safe, "not safe to repeat"

    def idempotent(self, call: Outstanding) -> bool:
        if call.idempotent is not None:
            return call.idempotent
        return CATALOGUE.get(str(call.script), False)

    @invariant()
    def holds(self) -> None:
        self.core.check_invariants()
        assert self.core.outstanding == len(self.calls)

    @invariant()
    def handed_over_at_most_as_often_as_allowed(self) -> None:
        for nonce, call in self.calls.items():
            allowed = ATTEMPTS if self.idempotent(call) else 1
            assert self.attempts.get(nonce, 0) <= allowed, "started twice"

    def teardown(self) -> None:
        self.now += 1000.0
        self.core.tick(self.now)
        self.take()
        assert not self.calls, "a call without a verdict"


TestClientMachine = ClientMachine.TestCase
TestClientMachine.settings = settings(
    max_examples=200, stateful_step_count=40, deadline=None
)

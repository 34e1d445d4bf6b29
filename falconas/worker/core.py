"""A worker's side of the dialogue with the broker, without I/O.

One method for each thing that can happen; `now` comes in, messages to send come out
of `take_sends()`. The rules:

* The worker answers only between the WELCOME that answers its last READY and the loss
  of that connection, and takes requests only then: so nothing of an earlier epoch
  reaches a new broker, and nothing runs that a broker has taken back because a READY
  did not list it.
* Answers, REPLY or RETURN, are kept until a request proves that they arrived. Until
  then READY lists them as `holding`; after a WELCOME of the same epoch they are resent.
* What was not started and will not be goes back by RETURN, or is refused as late. What
  came ahead of its turn has a lease, and goes back when that is over. Deadlines and
  leases arrive on the broker's clock, see `Clock`.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from falconas.codec import encode_value
from falconas.errors import Cancelled, Code, DeadlineExceeded, FalconError
from falconas.messages import made
from falconas.protocol import (
    BUDGET_LIMIT,
    Cancel,
    Disconnect,
    Extras,
    Kind,
    Ready,
    Reply,
    Request,
    Return,
    Status,
    Welcome,
)
from falconas.worker.answers import Answer, Answers
from falconas.worker.clock import Clock, is_time

if TYPE_CHECKING:
    from falconas.protocol import Message

EPOCH_BYTES, DISPATCH_BYTES = 8, 16
RETRY_INTERVAL, WELCOME_TIMEOUT = 0.5, 10.0
STATUS_INTERVAL = 5.0


class Send(Struct):
    """A message to put on the wire."""

    message: Message
    body: Any


class Work(Struct):
    """A request to run now; `deadline` is on the local clock."""

    request: Request
    body: Any
    deadline: float


class WorkerCore:
    """State of one worker.

    Args:
        ready: The READY to introduce this worker with, whose extras hold its facts
            (pid, host, index); `ready`, `holding`, `reason` and `role` are added.
        name: The worker's name for people.
    """

    def __init__(self, ready: Ready, name: str) -> None:
        self.name = name
        self.epoch = b""
        self.welcomed = False
        self.sound = False
        self.draining = False
        self.drained = False
        self._able = False  # sound, and not draining
        self.counters: dict[str, int] = {}
        self._ready = ready
        self._introductions = 0
        self._introduction = b""
        self._reason = ""
        self._role = "unknown"
        self._announced = False
        self._waiting: dict[bytes, tuple[Request, Any]] = {}
        self._running = b""
        self._answers = Answers()
        self._clock = Clock()
        self._introduced_at = 0.0
        self._ready_at = inf
        self._status_at = inf
        self._sends: list[Send] = []

    # What happens to the connection

    def connected(self, now: float) -> None:
        """Introduce this worker: there is a broker, perhaps another than before."""
        self._silence()
        self._introductions += 1
        self._introduction = self._ready.worker + self._introductions.to_bytes(8, "big")
        holding = [self._running] if self._running else []
        holding += [answer.id for answer in self._answers]
        state = {"ready": self._able, "holding": holding, **self._why()}
        extras = {**self._ready.extras, "role": self._role, **state}
        self._announced = self._able
        self._ready_at = now + WELCOME_TIMEOUT
        self._introduced_at = now
        ready = self._ready._replace(id=self._introduction, extras=extras)
        self._send(ready, b"", now)

    def disconnected(self, now: float) -> None:
        """Be silent until there is a broker again."""
        self._silence()
        self._ready_at = now + RETRY_INTERVAL

    def unsent(self, now: float) -> None:
        """Note that a message could not be sent: there is no connection."""
        self._count("unsent")
        self.disconnected(now)

    def welcome(self, welcome: Welcome, now: float) -> None:
        """Take the broker's epoch and clock; under a foreign id, introduce again."""
        if welcome.id != self._introduction:
            if self.welcomed:
                self.connected(now)
            return
        if welcome.epoch != self.epoch:
            self.epoch = welcome.epoch
            self._answers.clear()
            self._clock = Clock()
        self._clock.sample(welcome.now, self._introduced_at, now)
        self.welcomed = True
        self._ready_at = inf
        for answer in self._answers:
            self._say(answer, now)
        self._announce(now)

    # What the broker wants

    def request(self, request: Request, body: Any, now: float) -> None:
        """Take a request in hand."""
        id_ = request.id
        if type(id_) is not bytes or len(id_) != DISPATCH_BYTES:
            self._count("malformed")
        elif not self.welcomed or id_[:EPOCH_BYTES] != self.epoch:
            self._count("strays")
        elif id_ in self._waiting or id_ == self._running:
            self._count("duplicates")
        else:
            unanswered = len(self._waiting) + bool(self._running)
            ahead = request.extras.get("ahead")
            heard_at = self._answers.confirm(ahead, unanswered)
            self._clock.sample(request.extras.get("now"), heard_at, now)
            self._waiting[id_] = (request, body)
            if not self._able:
                self._return_waiting(now)

    def cancel(self, cancel: Cancel, now: float) -> None:
        """Drop a request that was not started; what runs, runs on."""
        if isinstance(cancel.id, bytes) and cancel.id in self._waiting:
            del self._waiting[cancel.id]
            self._refuse(cancel.id, Cancelled(retry_safe=True), now)

    # What the worker does

    def take_work(self, now: float) -> Work | None:
        """Return the next request to run; it counts as started from here on."""
        while self._waiting and self._able and not self._running:
            id_ = next(iter(self._waiting))
            request, body = self._waiting.pop(id_)
            if self._lease(request) < now:
                self._answer(Return(id_, "its lease is over", {}), b"", now)
                continue
            deadline = now + BUDGET_LIMIT
            if request.budget is not None:
                deadline = self._clock.at_latest(request.budget)
            if deadline > now:
                self._running = id_
                return Work(request, body, deadline)
            self._count("late")
            late = f"the request reached its worker {now - deadline:.3f} s too late"
            self._refuse(id_, DeadlineExceeded(late, retry_safe=True), now)
        return None

    def relent(self, now: float) -> None:
        """Give back what waits behind a request that takes long."""
        self._return_waiting(now, "behind one that takes long")

    def replied(
        self, kind: Kind, code: Code, body: Any, extras: Extras, now: float
    ) -> None:
        """Answer the running request; call `connection` first if that broke."""
        id_, self._running = self._running, b""
        reply = made(Reply, (id_, kind, code, dict(extras, worker=self.name)))
        self._answer(reply, body, now)
        self._ended(now)

    def returned(self, reason: str, now: float, extras: Extras | None = None) -> None:
        """Give back the running request, whose script did not begin."""
        id_, self._running = self._running, b""
        self._answer(Return(id_, reason, extras or {}), b"", now)
        self._ended(now)

    def connection(
        self, *, sound: bool, now: float, reason: str = "", role: str = ""
    ) -> None:
        """Note whether the database connection is sound, and its node's role."""
        self.sound = sound
        self._able = sound and not self.draining
        self._role = role or self._role
        self._reason = "" if sound else reason
        if not self._running:  # else its answer says so
            self._announce(now)
        if not sound:
            self._return_waiting(now)

    def drain(self, now: float) -> None:
        """Finish the running request, give back the others, leave."""
        if not self.draining:
            self.draining = True
            self._able = False
            if not self._running:
                self._leave(now)

    # Time, and what comes out

    def tick(self, now: float) -> None:
        """Do what is due; call it at `wake_at()` at the latest."""
        if now >= self._ready_at:
            self.connected(now)
        elif self.welcomed and now >= self._status_at:
            # A broker that took this worker for lost answers "introduce yourself".
            self._status(now)

    def wake_at(self) -> float:
        """Return when `tick` has work next, if nothing happens before."""
        return min(self._ready_at, self._status_at if self.welcomed else inf)

    def take_sends(self) -> list[Send]:
        """Return the messages to send, in order, and forget them."""
        sends, self._sends = self._sends, []
        return sends

    def check_invariants(self) -> None:
        """Raise AssertionError unless the state is sound."""
        assert self._able == (self.sound and not self.draining)
        assert self._running not in self._waiting
        assert not self._waiting or (self.welcomed and self._able)
        assert not self.drained or (self.draining and not self._running)
        for send in self._sends:
            if isinstance(send.message, Reply | Return):
                assert _dispatch(send.message)[:EPOCH_BYTES] == self.epoch
            assert self.welcomed or isinstance(send.message, Ready | Disconnect)

    @property
    def has_work(self) -> bool:
        """There is something to start at once."""
        return bool(self._waiting) and self._able

    @property
    def ready(self) -> bool:
        """The broker knows this worker and may give it work."""
        return self.welcomed and self._able

    def _silence(self) -> None:
        """Stop speaking; what waits is dropped, for the next READY will not list it."""
        self.welcomed = False
        self._sends.clear()
        self._waiting.clear()

    def _announce(self, now: float) -> None:
        if self.welcomed and self._announced != self._able:
            self._status(now)

    def _status(self, now: float) -> None:
        self._announced = self._able
        self._send(Status(self._ready.worker, self._able, self._why()), b"", now)

    def _why(self) -> Extras:
        """Return the extra that says why this worker cannot serve, if so."""
        reason = "draining" if self.draining else self._reason
        return {"reason": reason} if reason else {}

    def _refuse(self, id_: bytes, error: FalconError, now: float) -> None:
        extras = {"worker": self.name, "node": self._ready.node}
        reply = Reply(id_, Kind.ERROR, error.code, extras)
        self._answer(reply, encode_value(error.body()), now)

    def _answer(self, answer: Reply | Return, body: Any, now: float) -> None:
        if _dispatch(answer)[:EPOCH_BYTES] != self.epoch:
            self._count("stale_answers")
            return
        said = Answer(answer, body, now)
        self._answers.add(said)
        if self.welcomed:
            self._say(said, now)

    def _say(self, answer: Answer, now: float) -> None:
        message = answer.message
        if not self._able:  # an answer can say so; that it can again, STATUS says
            message = message._replace(extras={**message.extras, "ready": False})
            self._announced = False
        self._send(message, answer.body, now)

    def _ended(self, now: float) -> None:
        if self.draining:
            self._leave(now)
        else:
            self._announce(now)  # an answer of an earlier epoch told nobody

    def _return_waiting(self, now: float, reason: str = "") -> None:
        if self.draining or not reason:
            reason = "draining" if self.draining else "no database connection"
        for id_ in list(self._waiting):  # one by one: it may be broken off
            self._answer(Return(id_, reason, {}), b"", now)
            self._waiting.pop(id_, None)

    def _lease(self, request: Request) -> float:
        """Return when it is too late to start what came ahead of its turn."""
        start_by = request.extras.get("start_by")
        return self._clock.at_earliest(start_by) if is_time(start_by) else inf

    def _leave(self, now: float) -> None:
        self._return_waiting(now)
        if self.welcomed or not self._answers:  # DISCONNECT says: I hold nothing
            self._send(Disconnect(self._ready.worker, {}), b"", now)
        self.drained = True

    def _send(self, message: Message, body: Any, now: float) -> None:
        self._status_at = now + STATUS_INTERVAL
        self._sends.append(Send(message, body))

    def _count(self, name: str) -> None:
        self.counters[name] = self.counters.get(name, 0) + 1


def _dispatch(answer: Reply | Return) -> bytes:
    assert isinstance(answer.id, bytes)
    return answer.id

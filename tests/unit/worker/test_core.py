from __future__ import annotations

from math import inf
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from falconas.codec import decode_value
from falconas.errors import Code
from falconas.protocol import (
    Cancel,
    Disconnect,
    Kind,
    Ready,
    Reply,
    Request,
    Return,
    Status,
    Welcome,
)
from falconas.worker.clock import DRIFT
from falconas.worker.core import (
    RETRY_INTERVAL,
    STATUS_INTERVAL,
    WELCOME_TIMEOUT,
    Send,
    WorkerCore,
)

WORKER = b"w" * 16
EPOCH = b"epoch..1"
OTHER = b"epoch..2"
NOW = 50.0
BROKER_AHEAD = 1000.0
HANDS, LEASE = 3, 0.005


def new_core() -> WorkerCore:
    ready = Ready(WORKER, WORKER, b"s" * 16, "default", "m1", "main", {"pid": 7})
    return WorkerCore(ready, "host/0")


def dispatch(number: int, epoch: bytes = EPOCH) -> bytes:
    return epoch + number.to_bytes(8, "big")


def request(number: int, left: float = 10.0, epoch: bytes = EPOCH) -> Request:
    now = NOW + BROKER_AHEAD
    return Request(dispatch(number, epoch), "echo", now + left, {"now": now})


def messages(core: WorkerCore) -> list[Any]:
    core.check_invariants()
    return [send.message for send in core.take_sends()]


def welcome(core: WorkerCore, epoch: bytes = EPOCH, now: float = NOW) -> None:
    """Answer the READY that is there to be sent."""
    ready = messages(core)[-1]
    assert isinstance(ready, Ready)
    core.welcome(Welcome(ready.id, epoch, now + BROKER_AHEAD, {}), now)


def serving() -> WorkerCore:
    core = new_core()
    core.connection(sound=True, now=NOW)
    core.connected(NOW)
    welcome(core)
    return core


def busy() -> WorkerCore:
    core = serving()
    core.request(request(1), b"params", NOW)
    assert core.take_work(NOW)
    return core


def answer(core: WorkerCore) -> None:
    core.replied(Kind.OK, Code.OK, b"result", {"node": "main"}, NOW)


def test_it_introduces_itself_with_its_facts() -> None:
    core = new_core()
    core.connection(sound=True, now=NOW)
    assert messages(core) == []
    core.connected(NOW)
    (ready,) = messages(core)
    assert ready.worker == WORKER
    assert ready.manifest == "m1"
    facts = {"pid": 7, "role": "unknown"}
    assert ready.extras == {**facts, "ready": True, "holding": []}


def test_it_tells_the_role_of_its_node_as_it_was_when_it_connected() -> None:
    core = new_core()
    for role, told in (("standby", "standby"), ("primary", "primary"), ("", "primary")):
        core.connection(sound=bool(role), now=NOW, role=role)
        core.connected(NOW)
        assert messages(core)[-1].extras["role"] == told


def test_without_a_database_connection_it_says_so_and_later_that_it_can_serve() -> None:
    core = new_core()
    core.connected(NOW)
    ready = core.take_sends()[0].message
    assert ready.extras["ready"] is False
    core.welcome(Welcome(ready.id, EPOCH, 0.0, {}), NOW)
    assert messages(core) == []
    core.connection(sound=True, now=NOW)
    assert messages(core) == [Status(WORKER, True, {})]
    core.connection(sound=False, now=NOW, reason="connection refused")
    assert messages(core) == [Status(WORKER, False, {"reason": "connection refused"})]
    core.connection(sound=False, now=NOW, reason="connection refused")
    assert messages(core) == []


def test_a_worker_that_cannot_serve_says_why_from_the_start() -> None:
    core = new_core()
    core.connection(sound=False, now=NOW, reason="connection refused")
    core.connected(NOW)
    assert messages(core)[-1].extras["reason"] == "connection refused"
    core.connection(sound=True, now=NOW)
    core.connected(NOW)
    assert "reason" not in messages(core)[-1].extras


def test_a_connection_that_came_between_ready_and_welcome_is_announced() -> None:
    core = new_core()
    core.connected(NOW)
    ready = core.take_sends()[0].message
    core.connection(sound=True, now=NOW)
    assert messages(core) == []
    core.welcome(Welcome(ready.id, EPOCH, 0.0, {}), NOW)
    assert messages(core) == [Status(WORKER, True, {})]


def test_a_request_is_run_and_answered() -> None:
    core = serving()
    core.request(request(1, left=10.0), b"params", NOW)
    work = core.take_work(NOW)
    assert work is not None
    assert work.body == b"params"
    assert work.deadline == pytest.approx(NOW + 10.0)
    assert core.take_work(NOW) is None
    answer(core)
    assert core.take_sends() == [
        Send(
            Reply(dispatch(1), Kind.OK, Code.OK, {"node": "main", "worker": "host/0"}),
            b"result",
        )
    ]


def test_a_request_without_a_deadline_gets_a_distant_one() -> None:
    core = serving()
    core.request(request(1)._replace(budget=None), b"", NOW)
    work = core.take_work(NOW)
    assert work is not None
    assert NOW + 1000 < work.deadline < float("inf")


def test_late_work_is_refused_and_not_started() -> None:
    core = serving()
    core.request(request(1, left=-0.5), b"", NOW)
    assert core.take_work(NOW) is None
    (send,) = core.take_sends()
    assert isinstance(send.message, Reply)
    assert send.message.code == Code.DEADLINE_EXCEEDED
    assert decode_value(send.body)["started"] == "no"
    assert core.counters["late"] == 1


def test_what_became_late_while_the_worker_was_stopped_is_refused() -> None:
    """The sample that came with the old request does not make the clock forget."""
    core = serving()
    later = NOW + 5.0
    core.request(request(1, left=1.0), b"", later)
    assert core.take_work(later) is None
    (reply,) = messages(core)
    assert reply.code == Code.DEADLINE_EXCEEDED


def test_the_clocks_distance_fades_slowly_so_that_drift_is_followed() -> None:
    core = serving()
    hour = 3600.0
    now, broker = NOW + hour, NOW + BROKER_AHEAD + hour - 0.3  # 83 ppm slower
    ask = Request(dispatch(1), "echo", broker + 1.0, {"now": broker})
    core.request(ask, b"", now)
    work = core.take_work(now)
    assert work is not None
    assert hour * DRIFT > 0.3
    assert work.deadline == pytest.approx(now + 1.0, abs=0.01)


def test_a_cancelled_request_is_not_started() -> None:
    core = serving()
    core.request(request(1), b"", NOW)
    core.cancel(Cancel(dispatch(1), {}), NOW)
    assert core.take_work(NOW) is None
    (send,) = core.take_sends()
    assert isinstance(send.message, Reply)
    assert send.message.code == Code.CANCELLED
    assert decode_value(send.body)["started"] == "no"


def test_what_runs_is_not_cancelled_here() -> None:
    core = busy()
    core.cancel(Cancel(dispatch(1), {}), NOW)
    core.cancel(Cancel(dispatch(9), {}), NOW)
    core.cancel(Cancel("foreign", {}), NOW)
    assert messages(core) == []


@pytest.mark.parametrize("id_", ["text", b"short", dispatch(1, OTHER)])
def test_requests_with_foreign_ids_are_dropped(id_: Any) -> None:
    core = serving()
    core.request(request(1)._replace(id=id_), b"", NOW)
    assert core.take_work(NOW) is None
    assert messages(core) == []


def test_the_same_request_is_taken_once() -> None:
    core = serving()
    core.request(request(1), b"", NOW)
    core.request(request(1), b"", NOW)
    assert core.take_work(NOW)
    core.request(request(1), b"", NOW)
    answer(core)
    assert core.take_work(NOW) is None
    assert core.counters["duplicates"] == 2


def test_without_a_connection_to_the_database_requests_go_back() -> None:
    core = serving()
    core.request(request(1), b"", NOW)
    core.connection(sound=False, now=NOW, reason="gone")
    status, returned = messages(core)
    assert status == Status(WORKER, False, {"reason": "gone"})
    assert returned == Return(dispatch(1), "no database connection", {"ready": False})
    core.request(request(2), b"", NOW)
    assert messages(core)[0].id == dispatch(2)
    assert core.take_work(NOW) is None


def test_a_request_that_the_runner_could_not_start_goes_back() -> None:
    core = busy()
    core.connection(sound=False, now=NOW, reason="gone")
    core.returned("connection lost", NOW)
    assert messages(core) == [
        Return(dispatch(1), "connection lost", {"ready": False}),
    ]
    core.connection(sound=True, now=NOW)
    assert messages(core) == [Status(WORKER, True, {})]


def test_a_reply_says_that_the_worker_cannot_serve_on() -> None:
    core = busy()
    core.connection(sound=False, now=NOW, reason="gone")
    assert messages(core) == []
    answer(core)
    (reply,) = messages(core)
    assert reply.extras["ready"] is False
    core.connection(sound=True, now=NOW)
    assert messages(core) == [Status(WORKER, True, {})]


def test_before_the_welcome_nothing_but_ready_is_sent_and_nothing_taken() -> None:
    core = new_core()
    core.connection(sound=True, now=NOW)
    core.connected(NOW)
    assert [type(m) for m in messages(core)] == [Ready]
    core.request(request(1), b"", NOW)
    assert core.take_work(NOW) is None
    assert messages(core) == []


def test_only_the_answer_to_the_last_ready_counts() -> None:
    """A request that came between two READYs was taken back by the broker."""
    core = new_core()
    core.connection(sound=True, now=NOW)
    core.connected(NOW)
    first = messages(core)[0]
    core.connected(NOW)
    second = messages(core)[0]
    assert first.id != second.id
    core.welcome(Welcome(first.id, EPOCH, 0.0, {}), NOW)
    core.request(request(1), b"", NOW)
    assert core.take_work(NOW) is None
    core.welcome(Welcome(second.id, EPOCH, 0.0, {}), NOW)
    core.request(request(2), b"", NOW)
    assert core.take_work(NOW)


def test_after_a_lost_connection_the_last_reply_is_held_and_sent_again() -> None:
    core = busy()
    answer(core)
    reply = messages(core)[0]
    core.disconnected(NOW)
    core.connected(NOW)
    ready = core.take_sends()[0].message
    assert ready.extras["holding"] == [dispatch(1)]
    core.welcome(Welcome(ready.id, EPOCH, 0.0, {}), NOW)
    assert messages(core) == [reply]


def test_a_reply_held_says_what_is_true_when_it_is_sent_again() -> None:
    core = busy()
    core.connection(sound=False, now=NOW)
    answer(core)
    core.connected(NOW)
    core.connection(sound=True, now=NOW)
    welcome(core)
    reply, status = messages(core)
    assert "ready" not in reply.extras
    assert isinstance(reply, Reply)
    assert status == Status(WORKER, True, {})


def test_the_next_request_ends_the_holding() -> None:
    core = busy()
    answer(core)
    core.request(request(2), b"", NOW)
    assert core.take_work(NOW)
    core.take_sends()
    core.connected(NOW)
    assert messages(core)[0].extras["holding"] == [dispatch(2)]


def test_a_busy_worker_introduces_itself_before_its_reply() -> None:
    core = busy()
    core.disconnected(NOW)
    core.connected(NOW)
    answer(core)
    ready = core.take_sends()
    assert [type(send.message) for send in ready] == [Ready]
    core.welcome(Welcome(ready[0].message.id, EPOCH, 0.0, {}), NOW)
    assert [type(m) for m in messages(core)] == [Reply]


@pytest.mark.parametrize("answered", ["before", "after"])
def test_a_reply_of_an_earlier_epoch_is_not_sent_to_a_new_broker(answered: str) -> None:
    core = busy()
    core.disconnected(NOW)
    core.connected(NOW)
    if answered == "before":
        answer(core)
    welcome(core, OTHER)
    if answered == "after":
        answer(core)
    assert messages(core) == []
    core.request(request(1, epoch=OTHER), b"", NOW)
    assert core.take_work(NOW)


def test_a_new_broker_hears_that_an_old_script_broke_the_connection() -> None:
    """Its reply is of an earlier epoch and tells nobody; a STATUS does."""
    core = busy()
    core.connected(NOW)
    welcome(core, OTHER)
    core.request(request(1, epoch=OTHER), b"", NOW)
    core.connection(sound=False, now=NOW, reason="gone")
    answer(core)
    returned, *rest = messages(core)
    assert returned == Return(
        dispatch(1, OTHER), "no database connection", {"ready": False}
    )
    assert rest == []
    assert core.take_work(NOW) is None


def test_without_a_request_waiting_that_takes_a_status() -> None:
    core = busy()
    core.connected(NOW)
    welcome(core, OTHER)
    core.connection(sound=False, now=NOW, reason="gone")
    answer(core)
    assert messages(core) == [Status(WORKER, False, {"reason": "gone"})]


def test_what_waits_is_dropped_with_its_connection() -> None:
    """The READY does not list it, so the broker gives it to somebody."""
    core = serving()
    core.request(request(1), b"", NOW)
    core.disconnected(NOW)
    core.connected(NOW)
    assert messages(core)[0].extras["holding"] == []
    assert core.take_work(NOW) is None


def test_a_broker_that_does_not_know_it_hears_ready_once() -> None:
    core = busy()
    answer(core)
    core.take_sends()
    core.welcome(Welcome(b"?", EPOCH, 0.0, {}), NOW)
    core.welcome(Welcome(b"?", EPOCH, 0.0, {}), NOW)
    (ready,) = messages(core)
    assert ready.extras["holding"] == [dispatch(1)]


def test_what_could_not_be_sent_is_followed_by_another_ready() -> None:
    core = busy()
    answer(core)
    core.take_sends()
    core.unsent(NOW)
    assert core.wake_at() == NOW + RETRY_INTERVAL
    core.tick(NOW + RETRY_INTERVAL)
    welcome(core)
    assert [type(m) for m in messages(core)] == [Reply]


def test_a_ready_without_an_answer_is_repeated() -> None:
    core = new_core()
    core.connected(NOW)
    assert len(messages(core)) == 1
    core.tick(NOW + WELCOME_TIMEOUT - 1)
    assert messages(core) == []
    core.tick(core.wake_at())
    assert [type(m) for m in messages(core)] == [Ready]


def test_an_idle_worker_says_its_status_now_and_then() -> None:
    core = serving()
    assert core.wake_at() == NOW + STATUS_INTERVAL
    core.tick(NOW + STATUS_INTERVAL)
    assert messages(core) == [Status(WORKER, True, {})]
    assert core.wake_at() == NOW + 2 * STATUS_INTERVAL


def test_an_idle_worker_leaves_at_once() -> None:
    core = serving()
    core.drain(NOW)
    core.drain(NOW)
    assert messages(core) == [Disconnect(WORKER, {})]
    assert core.drained


def test_a_busy_worker_finishes_gives_back_the_rest_and_leaves() -> None:
    core = busy()
    core.request(request(2), b"", NOW)
    core.drain(NOW)
    assert not core.drained
    answer(core)
    reply, returned, leave = messages(core)
    assert reply.extras["ready"] is False
    assert returned.id == dispatch(2)
    assert leave == Disconnect(WORKER, {})
    assert core.drained


def test_a_worker_that_was_not_welcomed_yet_takes_its_ready_back() -> None:
    core = new_core()
    core.connected(NOW)
    core.drain(NOW)
    assert [type(m) for m in messages(core)] == [Ready, Disconnect]


def test_a_worker_that_cannot_deliver_its_answer_does_not_say_it_holds_nothing() -> (
    None
):
    core = busy()
    core.disconnected(NOW)
    core.drain(NOW)
    core.returned("connection lost", NOW)
    assert messages(core) == []
    assert core.drained


class Lossy:
    """A worker, and a broker that may be restarted, over a connection that breaks.

    The broker believes a READY: what it does not list was not started. Nothing may
    run twice then, and each answer belongs to its request. Up to three requests go
    out ahead of their turn, and none of them may start when its lease is over, by the
    broker's own clock.
    """

    def __init__(self) -> None:
        self.core = new_core()
        self.now = NOW
        self.linked = False
        self.to_broker: list[Send] = []
        self.to_worker: list[tuple[Any, Any]] = []
        self.epoch = 0
        self.known = False
        self.ready = False
        self.hands: dict[bytes, int] = {}
        self.dispatched = 0
        self.nonces = 0
        self.todo: list[int] = []
        self.started: list[int] = []
        self.answered: list[int] = []
        self.unknown: list[int] = []
        self.running = 0
        self.core.connection(sound=True, now=NOW)
        self.connect()
        self.deliver(4)

    def flush(self) -> None:
        for send in self.core.take_sends():
            if not self.linked:
                self.core.unsent(self.now)
                return
            self.to_broker.append(send)

    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.core.tick(self.now)
        self.flush()

    def client_asks(self) -> None:
        self.nonces += 1
        self.todo.append(self.nonces)
        self.dispatch()

    def all_is_well(self) -> None:
        if not self.linked:
            self.connect()
        if not self.running:
            self.database_changes(True)
        self.deliver(20)

    def dispatch(self) -> None:
        if not (self.known and self.ready and self.todo) or len(self.hands) > HANDS:
            return
        nonce = self.todo.pop(0)
        self.dispatched += 1
        id_ = self.epoch.to_bytes(8, "big") + self.dispatched.to_bytes(8, "big")
        now = self.now + BROKER_AHEAD
        extras = {"now": now}
        if self.hands:
            extras |= {"ahead": len(self.hands), "start_by": now + LEASE}
        self.hands[id_] = nonce
        ask = Request(id_, "echo", now + 1000.0, extras)
        self.to_worker.append((ask, nonce))

    def say_welcome(self, id_: Any) -> None:
        epoch = self.epoch.to_bytes(8, "big")
        now = self.now + BROKER_AHEAD
        self.to_worker.append((Welcome(id_, epoch, now, {}), b""))

    def deliver(self, times: int) -> None:
        for _ in range(times):
            if self.to_broker:
                self.broker_receives()
            if self.to_worker:
                self.worker_receives()

    def broker_receives(self) -> None:
        send = self.to_broker.pop(0)
        message, body = send.message, send.body
        if isinstance(message, Ready):
            self.say_welcome(message.id)
            for id_ in self.hands.keys() - set(message.extras["holding"]):
                self.todo.insert(0, self.hands.pop(id_))
            self.known = True
            self.ready = message.extras["ready"]
        elif not self.known:
            self.say_welcome(b"?")
        elif isinstance(message, Status):
            self.ready = message.ready
        elif isinstance(message, Reply | Return):
            if message.id not in self.hands:
                return
            nonce = self.hands.pop(message.id)
            self.ready = self.ready and message.extras.get("ready") is not False
            if isinstance(message, Reply):
                assert body == nonce
                self.answered.append(nonce)
            else:
                self.todo.insert(0, nonce)
        self.dispatch()

    def worker_receives(self) -> None:
        message, body = self.to_worker.pop(0)
        if isinstance(message, Request):
            self.core.request(message, body, self.now)
        else:
            self.core.welcome(message, self.now)
        self.flush()

    def work(self) -> None:
        if self.running:
            self.worker_ends(False)
        else:
            self.worker_starts()

    def database_is_lost(self) -> None:
        if self.running:
            self.worker_ends(True)

    def worker_starts(self) -> None:
        work = self.core.take_work(self.now)
        if work is not None:
            self.running = work.body
            self.started.append(work.body)
            lease = work.request.extras.get("start_by", inf)
            assert self.now + BROKER_AHEAD <= lease, "started after its lease"
        self.flush()

    def relents(self) -> None:
        if self.running:
            self.core.relent(self.now)
            self.flush()
            assert not self.core.has_work

    def worker_ends(self, lost: bool) -> None:
        if lost:
            self.core.connection(sound=False, now=self.now)
        self.core.replied(Kind.OK, Code.OK, self.running, {}, self.now)
        self.running = 0
        self.flush()

    def database_changes(self, sound: bool) -> None:
        if not self.running:
            self.core.connection(sound=sound, now=self.now)
            self.flush()

    def reconnect(self, noticed: bool) -> None:
        self.disconnect(noticed)
        self.connect()

    def connect(self) -> None:
        if self.linked:
            return
        self.linked = True
        self.core.connected(self.now)
        self.flush()

    def disconnect(self, noticed: bool) -> None:
        """What is on the way is lost; the worker may learn of it later."""
        if not self.linked:
            return
        self.linked = False
        self.to_broker.clear()
        # What arrived before may still be read.
        if noticed:
            self.to_worker.clear()
            self.core.disconnected(self.now)
            self.flush()

    def broker_restarts(self) -> None:
        self.unknown += self.hands.values()
        self.epoch += 1
        self.linked, self.known, self.hands = False, False, {}
        self.to_broker.clear()
        self.to_worker.clear()
        self.core.disconnected(self.now)
        self.flush()

    def broker_loses_it(self) -> None:
        """The broker takes the worker for dead, and what it has for unknown."""
        self.unknown += self.hands.values()
        self.known, self.hands = False, {}

    def check(self) -> None:
        self.core.check_invariants()
        assert len(self.started) == len(set(self.started))
        assert len(self.answered) == len(set(self.answered))

    def settle(self) -> None:
        """In peace, each request that is not of unknown outcome is answered."""
        for _ in range(20 + 4 * self.nonces):
            self.all_is_well()
            self.work()
            self.all_is_well()
            self.work()
            self.time_passes(6.0)
        missing = set(range(1, self.nonces + 1)) - set(self.answered)
        assert missing <= set(self.unknown)
        self.check()


STEPS = {
    "ask": (12, Lossy.client_asks),
    "deliver": (20, lambda world: world.deliver(1)),
    "work": (14, Lossy.work),
    "all is well": (4, Lossy.all_is_well),
    "relents": (2, Lossy.relents),
    "moment": (4, lambda world: world.time_passes(0.002)),
    "time": (4, lambda world: world.time_passes(0.6)),
    "long time": (1, lambda world: world.time_passes(6.0)),
    "database gone": (1, lambda world: world.database_changes(False)),
    "database back": (2, lambda world: world.database_changes(True)),
    "database lost by the script": (1, Lossy.database_is_lost),
    "connection lost": (1, lambda world: world.disconnect(True)),
    "connection lost unnoticed": (1, lambda world: world.disconnect(False)),
    "connection replaced": (2, lambda world: world.reconnect(True)),
    "connection replaced unnoticed": (2, lambda world: world.reconnect(False)),
    "connection back": (2, Lossy.connect),
    "broker restarts": (1, Lossy.broker_restarts),
    "broker gives up": (1, Lossy.broker_loses_it),
}
WEIGHTED = [name for name, (weight, _) in STEPS.items() for _ in range(weight)]


@settings(max_examples=400)
@given(steps=st.lists(st.sampled_from(WEIGHTED), min_size=20, max_size=150))
def test_nothing_starts_twice_and_all_is_answered(steps: list[str]) -> None:
    world = Lossy()
    for step in steps:
        STEPS[step][1](world)
        world.check()
    world.settle()

from __future__ import annotations

import queue
import signal
import socket
import threading
import time
from contextlib import contextmanager, suppress
from math import inf
from typing import TYPE_CHECKING, Any

import pytest

from falconas.codec import encode_value
from falconas.database.session import ConnectFailed
from falconas.database.unserved import Behind
from falconas.errors import Code, Unimplemented
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
from falconas.worker.core import WorkerCore
from falconas.worker.dealer import Dealer
from falconas.worker.loop import WorkerLoop
from falconas.worker.runner import Outcome
from falconas.worker.slot import SlotTable, State

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE = 20.0
WORKER = b"w" * 16
OK = Outcome(Kind.OK, Code.OK, encode_value("done"), {"node": "main"})


class FakeConnection:
    """A connection that can be seen to die."""

    role = "standby"
    resetting = False

    def __init__(self) -> None:
        self.near, self.far = socket.socketpair()
        self.sound = True
        self.closed = False

    def fileno(self) -> int:
        return self.near.fileno()

    def check(self) -> bool:
        self.sound = bool(self.near.recv(100))
        return self.sound

    def close(self) -> None:
        self.closed = True
        self.near.close()
        self.far.close()


class Stage:
    """A worker loop in a thread, whose scripts and connections the test plays."""

    def __init__(self, endpoint: str) -> None:
        self.table = SlotTable.create(1)
        self.slot = self.table.slot(0)
        self.connections: list[FakeConnection] = []
        self.failures = 0
        self.resets = True
        self.alone = True
        self.result_bytes = 0
        self.relent_at = inf
        self.relent: Any = None
        self.runs: queue.Queue[Request] = queue.Queue()
        self.outcomes: queue.Queue[Outcome] = queue.Queue()
        self.before_outcome: list[Any] = []
        ready = Ready(WORKER, WORKER, b"s" * 16, "default", "m1", "main", {})
        self.core = WorkerCore(ready, "host/0")
        self.guarded: list[int] = []
        self.tidied: list[Any] = []
        self.measured = threading.Event()
        self.loop = WorkerLoop(
            self.core,
            Dealer(endpoint, 1000),
            self.slot,
            self.connect,
            self.serve_on,
            self,
            self.lend,
        )
        self.thread = threading.Thread(target=self.loop.run)

    def connect(self) -> FakeConnection:
        if self.failures:
            self.failures -= 1
            raise ConnectFailed("connection refused")
        self.connections.append(FakeConnection())
        return self.connections[-1]

    def serve_on(self, _connection: Any) -> Stage:
        return self

    def run(self, request: Request, _body: bytes, deadline: float) -> Outcome:
        assert isinstance(request.id, bytes)
        self.slot.enter(State.RUN, request.id, deadline)
        self.runs.put(request)
        outcome = self.outcomes.get(timeout=PATIENCE)
        while self.before_outcome:
            self.before_outcome.pop()()
        self.slot.enter(State.REPLY)
        return outcome

    def lend(self, relent_at: float, relent: Any) -> None:
        self.relent_at, self.relent = relent_at, relent

    def begin_reset(self) -> bool:
        self.slot.enter(State.IDLE)  # as a runner does when there is nothing to sweep
        return self.resets

    def finish_reset(self) -> bool:
        return self.resets

    def connected(self, fd: int) -> None:
        self.guarded.append(fd)

    def disconnected(self, fd: int) -> None:
        self.guarded.remove(fd)

    def tidy(self, request: Request) -> bool:
        self.tidied.append(request.id)
        return self.alone

    def measure(self) -> None:
        self.measured.set()

    def stop(self) -> None:
        self.loop.stop()
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()

    def close(self) -> None:
        if self.thread.is_alive():
            self.outcomes.put(OK)  # in case it still runs a script
            self.stop()
        self.table.close()


@pytest.fixture
def stage(broker: Any) -> Iterator[Stage]:
    stage = Stage(broker.backend_endpoint)
    yield stage
    stage.close()


def ready(stage: Stage, broker: Any) -> bytes:
    stage.thread.start()
    return bytes(broker.take(Ready)[0])


@contextmanager
def running(stage: Stage, broker: Any, peer: bytes) -> Iterator[bytes]:
    """While a script runs, which ends well afterwards."""
    id_ = broker.request(peer, "echo")
    stage.runs.get(timeout=PATIENCE)
    yield id_
    stage.outcomes.put(OK)


def test_a_request_is_run_and_answered(stage: Stage, broker: Any) -> None:
    peer = ready(stage, broker)
    with running(stage, broker, peer) as id_:
        assert stage.slot.read().state is State.RUN
    _, reply, body = broker.take(Reply)
    assert reply == Reply(id_, Kind.OK, Code.OK, {"node": "main", "worker": "host/0"})
    assert body == "done"
    stage.stop()
    last = stage.slot.read()
    assert last[:2] == (State.IDLE, id_)
    assert (last.served, last.errors) == (1, 0)


def test_an_idle_worker_measures_itself(stage: Stage, broker: Any) -> None:
    ready(stage, broker)
    stage.measured.clear()
    assert stage.measured.wait(PATIENCE)


def test_without_a_database_it_is_not_ready_until_it_is(
    stage: Stage, broker: Any
) -> None:
    stage.failures = 3
    stage.thread.start()
    _, message, _ = broker.take(Ready)
    assert message.extras["ready"] is False
    assert broker.take(Status)[1] == Status(WORKER, True, {})


def test_what_is_no_backend_is_named_and_the_right_one_greeted(
    stage: Stage, broker: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    broker.greets = False
    stage.thread.start()
    peer, message, _ = broker.take(Ready)
    error = Unimplemented("command 16", details={"commands": ["HELLO"]})
    reply = Reply(message.id, Kind.ERROR, error.code, {})
    broker.send(broker.backend, peer, reply, encode_value(error.body()))
    broker.greet(peer, message)
    with running(stage, broker, peer):
        pass
    broker.take(Reply)
    assert caplog.messages == [
        f"{broker.backend_endpoint} is not a broker's backend endpoint",
        f"connected to the broker at {broker.backend_endpoint}",
    ]


def test_a_broker_that_does_not_answer_is_missed(
    stage: Stage, broker: Any, caplog: pytest.LogCaptureFixture
) -> None:
    broker.greets = False
    stage.loop._watch._warn_at = 0.0
    stage.thread.start()
    broker.take(Ready)
    stage.stop()
    assert caplog.messages == [f"waiting for a broker at {broker.backend_endpoint}"]


def test_requests_that_come_meanwhile_go_back(stage: Stage, broker: Any) -> None:
    stage.failures = 10**6
    peer = ready(stage, broker)
    id_ = broker.request(peer, "echo")
    _, returned, _ = broker.take(Return)
    assert returned.id == id_
    assert returned.extras == {"ready": False}
    stage.failures = 0
    broker.take(Status, ready=True)


def test_a_connection_that_dies_while_idle_is_replaced_before_a_request(
    stage: Stage, broker: Any
) -> None:
    ready(stage, broker)
    stage.connections[0].far.close()
    _, status, _ = broker.take(Status, ready=False)
    assert status.extras == {"reason": "database connection lost"}
    peer, _, _ = broker.take(Status, ready=True)
    assert len(stage.connections) == 2
    assert stage.connections[0].closed
    with running(stage, broker, peer):
        pass
    broker.take(Reply)


def test_a_notice_while_idle_does_no_harm(stage: Stage, broker: Any) -> None:
    peer = ready(stage, broker)
    stage.connections[0].far.send(b"notice")
    with running(stage, broker, peer):
        pass
    broker.take(Reply)
    assert len(stage.connections) == 1


def test_a_connection_lost_in_a_script_is_said_with_the_reply(
    stage: Stage, broker: Any
) -> None:
    peer = ready(stage, broker)
    stage.resets = False
    with running(stage, broker, peer):
        stage.connections[0].sound = False
    _, reply, _ = broker.take(Reply)
    assert reply.extras["ready"] is False
    broker.take(Status, ready=True)
    assert stage.connections[0].closed


@pytest.mark.parametrize("what", ["resets", "alone"])
def test_a_failed_reset_replaces_the_connection(
    stage: Stage, broker: Any, what: str
) -> None:
    """So does a thread of the script that lives on."""
    peer = ready(stage, broker)
    setattr(stage, what, False)
    with running(stage, broker, peer):
        pass
    _, reply, _ = broker.take(Reply)
    assert "ready" not in reply.extras
    broker.take(Status, ready=False)
    broker.take(Status, ready=True)


def test_ready_tells_the_role_of_the_node(stage: Stage, broker: Any) -> None:
    stage.thread.start()
    _, message, _ = broker.take(Ready)
    assert message.extras["role"] == "standby"


def test_what_could_not_be_started_goes_back(stage: Stage, broker: Any) -> None:
    peer = ready(stage, broker)
    stage.resets = False
    stage.outcomes.put(OK._replace(unserved=Behind("later")))
    stage.before_outcome = [lambda: setattr(stage.connections[0], "sound", False)]
    id_ = broker.request(peer, "echo")
    _, returned, _ = broker.take(Return)
    assert returned.id == id_
    assert returned.reason == "behind"
    assert returned.extras == {"behind": True, "ready": False}
    broker.take(Status, ready=True)


def test_a_late_request_is_refused(stage: Stage, broker: Any) -> None:
    peer = ready(stage, broker)
    id_ = broker.request(peer, "echo", left=-1.0)
    _, reply, body = broker.take(Reply)
    assert reply.id == id_
    assert reply.code == Code.DEADLINE_EXCEEDED
    assert body["started"] == "no"
    assert stage.runs.empty()


def test_a_cancel_behind_a_running_script_is_applied_before_the_start(
    stage: Stage, broker: Any
) -> None:
    peer = ready(stage, broker)
    with running(stage, broker, peer):
        second = broker.request(peer, "echo")
        broker.send(broker.backend, peer, Cancel(second, {}))
        third = broker.request(peer, "echo")
        stage.before_outcome = [lambda: wait_for_messages(stage, 3)]
    stage.outcomes.put(OK)
    assert broker.take(Reply, code=Code.CANCELLED)[1].id == second
    broker.take(Reply, id=third)
    assert stage.runs.qsize() == 1


@pytest.mark.parametrize("waits", [True, False])
def test_only_what_came_alone_starts_before_all_is_read(
    stage: Stage, broker: Any, monkeypatch: pytest.MonkeyPatch, waits: bool
) -> None:
    """After a wait there is hardly more to read; without one a cancel may be there."""
    monkeypatch.setattr("falconas.worker.loop.WAIT", -inf if waits else inf)
    monkeypatch.setattr("falconas.worker.loop.LISTEN", inf)  # which reads all, too
    peer = ready(stage, broker)
    with running(stage, broker, peer):
        pass
    broker.take(Reply)
    wait = stage.loop._dealer.wait
    idle = threading.Event()

    def wait_for_both(timeout: float) -> set[Any]:
        idle.set()
        found = wait(timeout)
        if stage.loop._dealer.socket in found:
            wait_for_messages(stage, 2)
        return found

    stage.loop._dealer.wait = wait_for_both  # type: ignore[method-assign]
    stage.loop._waker.send(b"\0")
    assert idle.wait(PATIENCE)
    id_ = broker.request(peer, "echo")
    broker.send(broker.backend, peer, Cancel(id_, {}))
    stage.outcomes.put(OK)
    _, reply, _ = broker.take(Reply)
    assert reply.id == id_
    assert reply.code == (Code.OK if waits else Code.CANCELLED)
    assert stage.runs.qsize() == int(waits)


def test_what_waits_behind_a_long_script_is_given_back(
    stage: Stage, broker: Any
) -> None:
    peer = ready(stage, broker)
    broker.request(peer, "echo", ahead=0)
    stage.runs.get(timeout=PATIENCE)
    assert stage.relent_at < time.monotonic() + 1.0
    second = broker.request(peer, "echo", ahead=1, lease=20.0)
    third = broker.request(peer, "echo", ahead=2, lease=20.0)
    broker.send(broker.backend, peer, Welcome(b"?", broker.epoch, 0.0, {}))

    def relent() -> None:
        assert stage.loop._dealer.socket.poll(int(PATIENCE * 1000))
        while len(stage.loop._put_off) < 1:  # the last one is for later
            stage.relent()

    seen = threading.Event()
    stage.before_outcome = [lambda: seen.wait(PATIENCE), relent]
    stage.outcomes.put(OK)
    assert broker.take(Return)[1].id == second  # while the first one runs
    assert broker.take(Return)[1].id == third
    seen.set()
    broker.take(Reply)
    broker.take(Ready)


def test_a_script_that_nothing_can_follow_is_left_alone(
    stage: Stage, broker: Any
) -> None:
    peer = ready(stage, broker)
    with running(stage, broker, peer):
        assert stage.relent_at == inf


def test_what_has_lost_its_lease_is_given_back(stage: Stage, broker: Any) -> None:
    peer = ready(stage, broker)
    lapsed = broker.request(peer, "echo", ahead=1, lease=-0.1)
    assert broker.take(Return)[1].id == lapsed
    assert stage.runs.empty()


def test_an_idle_worker_introduces_itself_to_a_new_broker(
    stage: Stage, broker: Any
) -> None:
    ready(stage, broker)
    broker.restart()
    peer, _, _ = broker.take(Ready)
    with running(stage, broker, peer):
        pass
    broker.take(Reply)


@pytest.mark.parametrize("same", [True, False])
def test_a_busy_worker_introduces_itself_before_its_reply(
    stage: Stage, broker: Any, same: bool
) -> None:
    """A new broker hears nothing of a request that an earlier one dispatched."""
    peer = ready(stage, broker)
    with running(stage, broker, peer) as id_:
        broker.restart(epoch=broker.epoch if same else None)
        stage.before_outcome = [lambda: wait_for_connection(stage)]
    peer, message, _ = broker.take(Ready)
    assert message.extras["holding"] == [id_]
    if same:
        broker.take(Reply, id=id_)
    with running(stage, broker, peer) as second:
        pass
    _, reply, _ = broker.take(Reply)
    assert reply.id == second


def wait_for_connection(stage: Stage) -> None:
    """Wait, as a long script would, until there is news of loss and reconnection."""
    dealer = stage.loop._dealer
    read = dealer.take_news
    news: list[bool] = []
    while not any(news):
        assert dealer.monitor.poll(int(PATIENCE * 1000))
        news.extend(read())

    def give_back() -> list[bool]:
        dealer.take_news = read  # type: ignore[method-assign]
        return news

    dealer.take_news = give_back  # type: ignore[method-assign]


def wait_for_messages(stage: Stage, count: int) -> None:
    """Wait until so many messages have arrived, all of which are then found at once."""
    dealer = stage.loop._dealer
    read = dealer.messages
    there: list[tuple[Any, bytes]] = []
    while len(there) < count:
        assert dealer.socket.poll(int(PATIENCE * 1000))
        there.extend(read(frozenset({Request, Cancel})))

    def give_back(_accept: Any) -> Iterator[tuple[Any, bytes]]:
        while there:
            yield there.pop(0)
        dealer.messages = read  # type: ignore[method-assign]

    dealer.messages = give_back  # type: ignore[assignment]


def test_a_broker_that_forgot_it_is_reminded(stage: Stage, broker: Any) -> None:
    peer = ready(stage, broker)
    broker.send(broker.backend, peer, Welcome(b"?", broker.epoch, 0.0, {}))
    broker.take(Ready)


def test_the_brokers_limit_of_results_is_the_workers(stage: Stage, broker: Any) -> None:
    broker.greets = False
    stage.thread.start()
    peer, message, _ = broker.take(Ready)
    limits = {"limits": {"result_bytes": 77}}
    broker.send(broker.backend, peer, Welcome(message.id, broker.epoch, 0.0, limits))
    with running(stage, broker, peer):
        pass
    broker.take(Reply)
    assert stage.result_bytes == 77


def test_its_slot_says_whether_it_can_be_given_work(stage: Stage, broker: Any) -> None:
    stage.failures = 2
    peer = ready(stage, broker)
    broker.take(Status, ready=True)
    with running(stage, broker, peer):
        assert stage.slot.read().ready
    broker.take(Reply)
    stage.stop()
    assert not stage.slot.read().ready


def test_it_tidies_up_after_the_reply_and_guards_its_connection(
    stage: Stage, broker: Any
) -> None:
    peer = ready(stage, broker)
    with running(stage, broker, peer) as id_:
        assert stage.guarded == [stage.connections[0].fileno()]
        assert stage.tidied == []
    broker.take(Reply, id=id_)
    stage.stop()
    assert stage.tidied == [id_]


def test_stopping_never_raises(stage: Stage, broker: Any) -> None:
    """It is a signal's handler: a script may be running, and the waker be full."""
    ready(stage, broker)
    with suppress(BlockingIOError):
        while True:
            stage.loop._waker.send(b"\0" * 4096)
    stage.loop.stop(signal.SIGTERM, None)
    stage.thread.join(PATIENCE)
    assert not stage.thread.is_alive()
    stage.loop.stop()


def test_told_to_stop_it_leaves(stage: Stage, broker: Any) -> None:
    ready(stage, broker)
    stage.stop()
    assert broker.take(Disconnect)[1].id == WORKER
    assert stage.connections[0].closed


def test_told_to_stop_while_busy_it_answers_first(stage: Stage, broker: Any) -> None:
    peer = ready(stage, broker)
    with running(stage, broker, peer) as id_:
        stage.loop.stop()
    _, reply, _ = broker.take(Reply)
    assert reply.id == id_
    assert reply.extras["ready"] is False
    broker.take(Disconnect)
    stage.thread.join(PATIENCE)
    assert not stage.thread.is_alive()


def test_told_to_stop_without_a_broker_it_ends(tmp_path: Any) -> None:
    stage = Stage(f"ipc://{tmp_path}/nobody")
    stage.thread.start()
    stage.close()

from __future__ import annotations

import dataclasses
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
import zmq

from falconas.broker.loop import NAP, BrokerLoop
from falconas.broker.prefetch import REST
from falconas.codec import decode_value, encode_params, encode_value
from falconas.config import StartError
from falconas.errors import Code
from falconas.protocol import (
    COMMANDS,
    Cancel,
    Catalogue,
    Disconnect,
    Drain,
    Heartbeat,
    Hello,
    Inspect,
    Kind,
    Lost,
    Ping,
    Pong,
    Ready,
    Register,
    Reload,
    Reply,
    Request,
    Return,
    Status,
    Welcome,
    decode,
    encode,
)
from falconas.settings import Broker, Settings

TIMEOUT = 10_000
EVERYTHING = frozenset(COMMANDS)
SUPERVISOR, WORKER, SESSION = b"s" * 16, b"w" * 16, b"c" * 16
MANIFEST = {
    "scripts": {
        "echo": {"idempotent": True, "budget": None, "error": None},
        "order": {"idempotent": False, "budget": 2.0, "error": None},
    }
}


class Peer:
    """A DEALER that speaks the protocol."""

    def __init__(self, socket: Any) -> None:
        self.socket = socket

    def send(self, message: Any, body: bytes = b"") -> None:
        self.socket.send_multipart([encode(message), body])

    def receive(self, wanted: type[Any]) -> tuple[Any, Any]:
        """Return the next message of a type; others are passed over."""
        while True:
            assert self.socket.poll(TIMEOUT), f"no {wanted.__name__}"
            header, body = self.socket.recv_multipart()
            message = decode(header, EVERYTHING)
            if isinstance(message, wanted):
                return message, decode_value(body)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    broker = Broker(
        frontend=f"ipc://{tmp_path}/frontend",
        backend=f"ipc://{tmp_path}/backend",
        control=f"ipc://{tmp_path}/control",
        worker_wait=0.05,
        start_wait=0.0,
    )
    return dataclasses.replace(Settings(), broker=broker)


@pytest.fixture
def context() -> Iterator[zmq.Context[Any]]:
    with zmq.Context() as fresh:
        yield fresh


@pytest.fixture
def broker(settings: Settings) -> Iterator[BrokerLoop]:
    loop = BrokerLoop(settings)
    thread = threading.Thread(target=loop.run)
    thread.start()
    yield loop
    if thread.is_alive():
        with zmq.Context() as fresh:
            peer = dial(fresh, settings.broker.control)
            peer.send(Drain(b"end", {}))
            thread.join()
            peer.socket.close(linger=0)
    loop.close()


def dial(context: zmq.Context[Any], endpoint: str, kind: int = zmq.DEALER) -> Peer:
    socket = context.socket(kind)
    socket.linger = 1000
    socket.connect(endpoint)
    return Peer(socket)


@pytest.fixture
def peers(
    broker: BrokerLoop, settings: Settings, context: zmq.Context[Any]
) -> Iterator[tuple[Peer, Peer, Peer]]:
    """A client, a worker that is ready, and its supervisor."""
    control = dial(context, settings.broker.control)
    control.send(
        Register(SUPERVISOR, SUPERVISOR, "host", "m1", {"pid": 1}),
        encode_value(MANIFEST),
    )
    control.receive(Welcome)
    worker = dial(context, settings.broker.backend)
    facts = {"host": "host", "index": 0, "pid": 2}
    worker.send(Ready(WORKER, WORKER, SUPERVISOR, "default", "m1", "main", facts))
    worker.receive(Welcome)
    client = dial(context, settings.broker.frontend)
    yield client, worker, control
    for peer in (client, worker, control):
        peer.socket.close(linger=0)


def test_a_request_goes_to_the_worker_and_its_answer_back(
    peers: tuple[Peer, Peer, Peer],
) -> None:
    client, worker, _ = peers
    client.send(Hello(b"h", SESSION, {}))
    welcome, owed = client.receive(Welcome)
    assert (welcome.id, owed) == (b"h", [])

    client.send(Request(b"1", "echo", 5.0, {"a": 1}), encode_params({"value": 7}))
    request, params = worker.receive(Request)
    assert (request.script, params) == ("echo", {"value": 7})
    assert request.extras["origin"] == b"1"
    assert request.extras["a"] == 1
    assert request.id[:8] == welcome.epoch

    large = "x" * 500_000
    worker.send(Reply(request.id, Kind.OK, Code.OK, {}), encode_value(large))
    reply, value = client.receive(Reply)
    assert (reply.id, reply.kind, reply.code) == (b"1", Kind.OK, Code.OK)
    assert value == large


def test_it_rests_while_its_worker_has_enough(
    peers: tuple[Peer, Peer, Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    naps: list[float] = []
    monkeypatch.setattr("falconas.broker.loop.sleep", naps.append)
    for patience in ("SILENCE", "MARGIN"):  # of a machine that is slow
        monkeypatch.setattr(f"falconas.broker.prefetch.{patience}", 60.0)
    client, worker, _ = peers

    def ask(*names: bytes) -> list[bytes]:
        for name in names:
            client.send(Request(name, "echo", 5.0, {}), encode_params({}))
        return [worker.receive(Request)[0].id for _ in names]

    def answer(id_: bytes) -> None:
        worker.send(Reply(id_, Kind.OK, Code.OK, {"run_us": 450}), b"\x80")
        client.receive(Reply)
        client.send(Ping(b"p", {}))  # answered after what came before it was over
        client.receive(Pong)

    for id_ in ask(b"alone"):
        answer(id_)
    first, second, third = ask(b"1", b"2", b"3")
    assert not naps, "it was idle, or has just one in hand"
    answer(first)
    assert len(naps) == 1, "it has two of half a millisecond"
    assert NAP <= naps[0] <= REST
    answer(second)
    answer(third)
    assert len(naps) == 1, "it has one, and then none"


def test_a_slow_client_gets_the_rest_when_it_reads_and_not_with_the_next_message(
    broker: BrokerLoop,
    settings: Settings,
    context: zmq.Context[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hour = monotonic() + 3600.0
    monkeypatch.setattr(broker.core, "wake_at", lambda: hour)
    socket = context.socket(zmq.DEALER)
    socket.rcvhwm = 1
    socket.connect(settings.broker.frontend)
    client = Peer(socket)
    large = "x" * 4000
    try:
        for number in range(600):
            client.send(Catalogue(b"%d" % number, {"pad": large}))
        for number in range(600):
            assert client.receive(Reply)[0].id == b"%d" % number
    finally:
        socket.close(linger=0)


def test_a_req_socket_is_served_with_and_without_correlation(
    peers: tuple[Peer, Peer, Peer], settings: Settings, context: zmq.Context[Any]
) -> None:
    _, worker, _ = peers
    for correlate in (0, 1):
        req = dial(context, settings.broker.frontend, zmq.REQ)
        req.socket.setsockopt(zmq.REQ_CORRELATE, correlate)
        req.send(Request("text id", "echo", 5.0, {}), encode_params({}))
        request, _params = worker.receive(Request)
        worker.send(Reply(request.id, Kind.OK, Code.OK, {}), encode_value("yes"))
        reply, value = req.receive(Reply)
        assert (reply.id, value) == ("text id", "yes")
        req.socket.close()


def test_the_little_commands(peers: tuple[Peer, Peer, Peer]) -> None:
    client, worker, control = peers
    for peer in peers:
        peer.send(Ping(b"p", {}))
        assert peer.receive(Pong)[0].id == b"p"
    client.send(Catalogue(b"c", {}))
    assert client.receive(Reply)[1] == MANIFEST
    client.send(Catalogue(b"b", {"brief": True}))
    brief = {"scripts": {"echo": True, "order": False}}
    assert client.receive(Reply)[1] == brief
    main = ["main", "main", "standby", True, 0.5, 83, 0, ""]
    beat = encode_value({"workers": [WORKER], "nodes": [main]})
    control.send(Heartbeat(SUPERVISOR, SUPERVISOR, {}), beat)
    assert "now" in control.receive(Heartbeat)[0].extras
    worker.send(Status(WORKER, False, {"reason": "no database"}))
    worker.send(Ping(b"q", {}))
    worker.receive(Pong)
    control.send(Inspect(b"i", {}))
    report = control.receive(Reply)[1]
    (listed,) = report["workers"]
    assert (listed["state"], listed["reason"]) == ("unready", "no database")
    assert report["supervisors"][0]["workers"] == 1
    (node,) = report["nodes"]
    assert (node["role"], node["lag"], node["lsn"]) == ("standby", 0.5, 83)
    assert (node["workers"], node["ready"]) == (1, 0)


def test_what_a_worker_returns_is_handed_out_again(
    peers: tuple[Peer, Peer, Peer],
) -> None:
    client, worker, _ = peers
    client.send(Request(b"1", "order", 5.0, {}), encode_params({}))
    request, _ = worker.receive(Request)

    worker.send(Return(request.id, "not now", {}))
    again, _ = worker.receive(Request)

    assert again.id != request.id
    assert again.extras["attempt"] == 1


def test_a_cancel_reaches_the_worker_and_is_not_undone_by_a_return(
    peers: tuple[Peer, Peer, Peer],
) -> None:
    client, worker, _ = peers
    client.send(Request(b"1", "order", 5.0, {}), encode_params({}))
    request, _ = worker.receive(Request)
    client.send(Cancel(b"1", {}))
    assert worker.receive(Cancel)[0].id == request.id

    worker.send(Return(request.id, "cancelled", {}))
    reply, error = client.receive(Reply)

    assert reply.code == Code.CANCELLED
    assert error["started"] == "no"


def test_a_cancel_reaches_the_supervisor_of_who_runs_it(
    peers: tuple[Peer, Peer, Peer],
) -> None:
    client, worker, control = peers
    client.send(Request(b"1", "order", 5.0, {}), encode_params({}))
    request, _ = worker.receive(Request)

    client.send(Cancel(b"1", {}))

    told = Cancel(request.id, {"worker": WORKER})
    assert control.receive(Cancel)[0] == told
    error = encode_value({"message": "interrupted", "started": "yes"})
    worker.send(Reply(request.id, Kind.ERROR, Code.CANCELLED, {}), error)
    reply, fields = client.receive(Reply)
    assert (reply.code, fields["started"]) == (Code.CANCELLED, "yes")


def test_a_client_that_goes_takes_its_requests_with_it(
    peers: tuple[Peer, Peer, Peer], settings: Settings, context: zmq.Context[Any]
) -> None:
    _, worker, control = peers
    wish = {"cancel_on_disconnect": True}
    req = dial(context, settings.broker.frontend, zmq.REQ)
    req.send(Request(b"1", "echo", 5.0, wish), encode_params({}))
    first, _ = worker.receive(Request)
    client = dial(context, settings.broker.frontend)
    client.send(Request(b"2", "order", 5.0, wish), encode_params({}))

    assert client.receive(Ping)[0] == Ping(b"there?", {})
    # The REQ, which cannot be asked, keeps its connection, and gets its answer.
    worker.send(Reply(first.id, Kind.OK, Code.OK, {}), encode_value("yes"))
    assert req.receive(Reply)[1] == "yes"
    second, _ = worker.receive(Request)
    client.socket.close(linger=0)

    assert worker.receive(Cancel)[0].id == second.id
    assert control.receive(Cancel)[0].id == second.id
    req.socket.close()


def test_a_reload_goes_to_the_supervisors_and_is_seen(
    peers: tuple[Peer, Peer, Peer], settings: Settings, context: zmq.Context[Any]
) -> None:
    _, _, control = peers
    operator = dial(context, settings.broker.control)
    operator.send(Reload(b"r1", {}))
    assert operator.receive(Reply)[1] == {"hosts": ["host"]}
    assert control.receive(Reload)[0] == Reload(b"r1", {})
    told = {"id": b"r1", "state": "failed", "reason": "SyntaxError"}
    beat = Heartbeat(SUPERVISOR, SUPERVISOR, {"draining": True, "reload": told})
    control.send(beat, encode_value({"workers": [WORKER]}))
    control.receive(Heartbeat)

    operator.send(Inspect(b"i", {}))

    (seen,) = operator.receive(Reply)[1]["supervisors"]
    assert (seen["manifest"], seen["draining"]) == ("m1", True)
    assert seen["reload"] == {**told, "id": b"r1".hex()}
    operator.socket.close(linger=0)


def test_a_host_is_drained_and_the_broker_goes_on(
    peers: tuple[Peer, Peer, Peer],
) -> None:
    client, _, control = peers
    control.send(Drain(b"d1", {"host": "host"}))
    assert control.receive(Drain)[0] == Drain(b"d1", {"host": "host"})
    assert control.receive(Reply)[1] == {"hosts": ["host"]}

    client.send(Ping(b"p", {}))
    assert client.receive(Pong)[0].id == b"p"


def test_a_script_that_kills_its_workers_is_named_and_quarantined(
    peers: tuple[Peer, Peer, Peer], caplog: pytest.LogCaptureFixture
) -> None:
    client, worker, control = peers
    for number in range(3):
        if number:
            ready = Ready(WORKER, WORKER, SUPERVISOR, "default", "m1", "main", {})
            worker.send(ready)
            worker.receive(Welcome)
        client.send(Request(b"1", "order", 5.0, {}), encode_params({}))
        request, _ = worker.receive(Request)
        control.send(Lost(request.id, WORKER, "RUN", "signal 11", {"crash": True}))
        assert client.receive(Reply)[0].code == Code.UNAVAILABLE

    client.send(Request(b"2", "order", 5.0, {}), encode_params({}))

    assert client.receive(Reply)[0].code == Code.FAILED_PRECONDITION
    control.send(Inspect(b"i", {}))
    (quarantined,) = control.receive(Reply)[1]["quarantined"]
    assert (quarantined["script"], quarantined["manifest"]) == ("order", "m1")
    assert "lost with script order: signal 11" in caplog.text
    assert "script order is quarantined" in caplog.text


def test_the_service_manager_is_told(
    settings: Settings,
    context: zmq.Context[Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(TIMEOUT / 1000)
        manager.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        loop = BrokerLoop(settings)
        thread = threading.Thread(target=loop.run)
        thread.start()
        assert manager.recv(999) == b"READY=1"
        assert manager.recv(999) == b"STATUS=0 workers, 0 requests waiting"
        client, control = (
            dial(context, endpoint)
            for endpoint in (settings.broker.frontend, settings.broker.control)
        )
        client.send(Request(b"1", "echo", 5.0, {}), b"")
        client.receive(Reply)
        control.send(Drain(b"end", {}))
        thread.join()
        loop.close()
        assert manager.recv(999) == b"STOPPING=1"
        assert manager.recv(999).startswith(b"EXTEND_TIMEOUT_USEC=")
        for peer in (client, control):
            peer.socket.close(linger=0)


def test_a_lost_worker_is_told_of_at_once(peers: tuple[Peer, Peer, Peer]) -> None:
    client, worker, control = peers
    client.send(Request(b"1", "order", 5.0, {}), encode_params({}))
    request, _ = worker.receive(Request)

    control.send(Lost(request.id, WORKER, "COMMIT", "killed by a test", {}))
    reply, error = client.receive(Reply)

    assert (reply.id, reply.code) == (b"1", Code.UNAVAILABLE)
    assert error["started"] == "unknown"
    assert "killed by a test" in error["message"]


def test_a_worker_that_leaves_is_given_nothing(peers: tuple[Peer, Peer, Peer]) -> None:
    client, worker, _ = peers
    worker.send(Disconnect(WORKER, {}))
    worker.send(Ping(b"q", {}))
    worker.receive(Pong)

    client.send(Request(b"1", "echo", 5.0, {}), encode_params({}))
    reply, error = client.receive(Reply)

    assert reply.code == Code.UNAVAILABLE
    assert error["retry_safe"]


def test_what_is_malformed_is_answered_or_counted(
    peers: tuple[Peer, Peer, Peer],
) -> None:
    client, _, control = peers
    client.socket.send_multipart([b"\xc1", b""])
    client.socket.send_multipart([b"x", encode(Ping(b"1", {})), b""])
    client.socket.send_multipart([b""] * 20)
    client.send(Inspect(b"i", {}))
    reply, _ = client.receive(Reply)
    assert (reply.id, reply.code) == (b"i", Code.UNIMPLEMENTED)

    control.send(Inspect(b"i", {}))
    assert control.receive(Reply)[1]["counters"]["malformed"] == 4


def test_a_fault_of_the_broker_is_one_error_and_not_its_end(
    peers: tuple[Peer, Peer, Peer], broker: BrokerLoop, caplog: pytest.LogCaptureFixture
) -> None:
    client, worker, _ = peers

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    broker._handlers[Catalogue] = fail
    client.send(Catalogue(b"c", {}))
    assert client.receive(Reply)[0].code == Code.INTERNAL

    client.send(Request(b"1", "echo", 5.0, {}), encode_params({}))
    request, _ = worker.receive(Request)
    worker.send(Reply(request.id, Kind.OK, Code.OK, {}), encode_value(1))
    assert client.receive(Reply)[1] == 1
    assert "internal error at Catalogue" in caplog.text


def test_what_was_sent_before_its_end_was_heard_is_refused_and_not_dropped(
    settings: Settings, context: zmq.Context[Any]
) -> None:
    loop = BrokerLoop(settings)
    client = dial(context, settings.broker.frontend)
    try:
        for name in (b"1", b"2", b"3"):
            client.send(Request(name, "echo", 5.0, {}), encode_params({}))
        assert loop._sockets[0].poll(TIMEOUT)
        loop.core.drain(0.0)
        loop.run()  # nothing is open: it does not even begin a turn
        for name in (b"1", b"2", b"3"):
            reply, fields = client.receive(Reply)
            assert (reply.id, reply.code) == (name, Code.UNAVAILABLE)
            assert (fields["started"], fields["retry_safe"]) == ("no", True)
    finally:
        client.socket.close(linger=0)
        loop.close()


def test_a_broker_that_drains_answers_first_and_then_ends(
    peers: tuple[Peer, Peer, Peer],
) -> None:
    client, worker, control = peers
    client.send(Request(b"1", "echo", 5.0, {}), encode_params({}))
    request, _ = worker.receive(Request)
    control.send(Drain(b"d", {}))
    assert control.receive(Reply)[0].id == b"d"

    client.send(Request(b"2", "echo", 5.0, {}), encode_params({}))
    reply, _ = client.receive(Reply)
    assert (reply.id, reply.code) == (b"2", Code.UNAVAILABLE)

    worker.send(Reply(request.id, Kind.OK, Code.OK, {}), encode_value(1))
    assert client.receive(Reply)[0].id == b"1"


def test_a_second_broker_is_refused_and_the_first_one_unharmed(
    peers: tuple[Peer, Peer, Peer], settings: Settings
) -> None:
    client, _, _ = peers

    with pytest.raises(StartError, match="is in use"):
        BrokerLoop(settings)

    client.send(Ping(b"p", {}))
    assert client.receive(Pong)[0].id == b"p"


def test_each_broker_has_an_epoch_of_its_own(settings: Settings) -> None:
    epochs = set()
    for _ in range(2):
        loop = BrokerLoop(settings)
        epochs.add(loop.core.flow.epoch)
        loop.close()

    assert len(epochs) == 2

from __future__ import annotations

import os
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import pytest

from falconas.codec import encode_value
from falconas.errors import InvalidArgument, Unimplemented
from falconas.protocol import (
    Disconnect,
    Heartbeat,
    Kind,
    Lost,
    Ping,
    Register,
    Reply,
    Welcome,
)
from falconas.worker.control import WELCOME_WAIT, Control, Watch
from falconas.worker.dealer import Dealer
from falconas.worker.herald import NodeRow

if TYPE_CHECKING:
    from collections.abc import Iterator

SUPERVISOR = b"s" * 16
WORKER = b"w" * 16
MANIFEST: dict[str, Any] = {"scripts": {}}
DISPATCH = b"d" * 16


@pytest.fixture
def control(broker: Any) -> Iterator[Control]:
    control = Control(broker.control_endpoint, SUPERVISOR, "here", {"pid": 1})
    yield control
    if not control.dealer.socket.closed:
        control.close()


def tend(control: Control, broker: Any, until: Any) -> Any:
    """Let both sides work until `until` returns something."""
    end = monotonic() + 20
    while monotonic() < end:
        control.dealer.wait(0.02)
        control.tend(monotonic())
        if broker.backend.closed:
            continue
        while broker.control.poll(0):
            broker.poll(0, "")
        if (found := until()) is not None:
            return found
    raise AssertionError(f"in vain; {broker.inbox}")


def take(control: Control, broker: Any, kind: type[Any]) -> Any:
    def found() -> Any:
        if any(isinstance(message, kind) for _, message, _ in broker.inbox):
            return broker.take(kind)
        return None

    return tend(control, broker, found)


def register(control: Control, broker: Any) -> bytes:
    control.offer("m1", encode_value(MANIFEST))
    peer, _, _ = take(control, broker, Register)
    tend(control, broker, lambda: control.epoch == broker.epoch or None)
    return bytes(peer)


def test_it_registers_with_its_facts_and_its_scripts(
    control: Control, broker: Any
) -> None:
    control.offer("m1", encode_value(MANIFEST))
    _, message, body = take(control, broker, Register)
    assert message.supervisor == SUPERVISOR
    assert message.host == "here"
    assert message.manifest == "m1"
    assert message.extras == {"pid": 1}
    assert body == MANIFEST


def node(name: str, role: str, *, up: bool = True, lsn: int = 1) -> NodeRow:
    return NodeRow(name, "main", role, up, None, lsn, 0, "")


def test_heartbeats_list_the_living_workers_and_the_nodes(
    control: Control, broker: Any
) -> None:
    control.show({"draining": False}, [WORKER], [node("n1", "primary")])
    _, message, body = take(control, broker, Heartbeat)
    assert message.supervisor == SUPERVISOR
    assert message.extras == {"draining": False}
    nodes = [["n1", "main", "primary", True, None, 1, 0, ""]]
    assert body == {"workers": [WORKER], "nodes": nodes}


def test_who_takes_writes_and_who_is_down_is_told_at_once(
    control: Control, broker: Any
) -> None:
    register(control, broker)
    control.show({}, [], [node("n1", "primary"), node("n2", "standby")])
    while not broker.take(Heartbeat)[2]["nodes"]:
        pass
    for rows in (
        [node("n1", "primary", up=False), node("n2", "standby", lsn=2)],
        [node("n1", "primary", up=False), node("n2", "primary", lsn=3)],
        [node("n2", "primary", lsn=4)],
    ):
        control.show({}, [], [row._replace(lsn=0) for row in rows])
        control.show({}, [], rows)  # no news
    seen = [broker.take(Heartbeat)[2]["nodes"] for _ in range(3)]
    assert [[row[2:4] for row in rows] for rows in seen] == [
        [["primary", False], ["standby", True]],
        [["primary", False], ["primary", True]],
        [["primary", True]],
    ]
    control.lost(WORKER, b"", "IDLE", "a mark", {})
    broker.take(Lost)
    assert not [m for _, m, _ in broker.inbox if isinstance(m, Heartbeat)]


def test_a_new_broker_hears_of_the_nodes_at_once(
    control: Control, broker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("falconas.worker.control.HEARTBEAT_INTERVAL", 3600.0)
    register(control, broker)
    control.show({}, [WORKER], [node("n1", "primary")])
    broker.restart()
    while not take(control, broker, Heartbeat)[2]["nodes"]:
        pass


def test_a_dead_worker_is_reported_at_once(control: Control, broker: Any) -> None:
    register(control, broker)
    control.lost(WORKER, DISPATCH, "RUN", "was killed", {})
    _, message, _ = broker.take(Lost)
    assert message == Lost(DISPATCH, WORKER, "RUN", "was killed", {})


def test_an_unknown_supervisor_registers_again(control: Control, broker: Any) -> None:
    peer = register(control, broker)
    welcome = Welcome(b"?", broker.epoch, 0.0, {})
    broker.send(broker.control, peer, welcome)
    _, message, body = take(control, broker, Register)
    assert message.manifest == "m1"
    assert body == MANIFEST


def test_a_new_broker_hears_of_all_manifests_in_use(
    control: Control, broker: Any
) -> None:
    register(control, broker)
    control.offer("m2", encode_value(MANIFEST))
    control.offer("m3", encode_value(MANIFEST))
    control.retain({"m1", "m3"})
    broker.restart()
    first = take(control, broker, Register)[1]
    second = take(control, broker, Register)[1]
    assert [first.manifest, second.manifest] == ["m1", "m3"]


@pytest.mark.parametrize("same", [True, False])
def test_a_report_waits_for_the_broker_but_not_for_another_one(
    control: Control, broker: Any, same: bool
) -> None:
    register(control, broker)
    epoch = broker.epoch
    broker.shut()
    tend_until_lost(control)
    control.lost(WORKER, DISPATCH, "RUN", "was killed", {})
    broker.epoch = epoch if same else b"another!"
    broker.open()
    take(control, broker, Register)
    tend(control, broker, lambda: control.epoch == broker.epoch or None)
    control.lost(WORKER, b"", "IDLE", "later", {})
    found = [take(control, broker, Lost)[1].reason]
    if same:
        found.append(take(control, broker, Lost)[1].reason)
    assert found == (["was killed", "later"] if same else ["later"])


def tend_until_lost(control: Control) -> None:
    end = monotonic() + 20
    while control._welcomed:
        assert monotonic() < end
        control.dealer.wait(0.02)
        control.tend(monotonic())


def test_it_says_goodbye(control: Control, broker: Any) -> None:
    register(control, broker)
    control.close()
    _, message, _ = broker.take(Disconnect)
    assert message.id == SUPERVISOR


def test_a_refusal_is_logged(
    control: Control, broker: Any, caplog: pytest.LogCaptureFixture
) -> None:
    peer = register(control, broker)
    error = InvalidArgument("manifest: too odd")
    reply = Reply(SUPERVISOR, Kind.ERROR, error.code, {})
    broker.send(broker.control, peer, reply, encode_value(error.body()))
    tend(control, broker, lambda: "too odd" in caplog.text or None)


def test_what_is_no_control_endpoint_is_named_once(
    control: Control, broker: Any, caplog: pytest.LogCaptureFixture
) -> None:
    broker.greets = False
    control.offer("m1", encode_value(MANIFEST))
    peer, _, _ = take(control, broker, Register)
    for command in (32, 33, 33):
        error = Unimplemented(f"command {command}", details={"commands": ["HELLO"]})
        reply = Reply(SUPERVISOR, Kind.ERROR, error.code, {})
        broker.send(broker.control, peer, reply, encode_value(error.body()))
    broker.send(broker.control, peer, Welcome(SUPERVISOR, b"an epoch", 0.0, {}))
    tend(control, broker, lambda: control.epoch or None)
    named = f"{broker.control_endpoint} is not a broker's control endpoint"
    assert caplog.messages == [named]


def test_a_broker_that_stays_away_is_missed_once_and_its_return_told(
    control: Control, broker: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    control.offer("m1", encode_value(MANIFEST))
    control.tend(100.0)
    assert caplog.messages == []
    for later in (0.0, 0.1):
        control.tend(100.0 + WELCOME_WAIT + later)
    register(control, broker)
    assert caplog.messages == [
        f"waiting for a broker at {broker.control_endpoint}",
        f"registered with the broker at {broker.control_endpoint}",
    ]


def test_a_broker_is_not_missed_before_there_are_scripts(
    control: Control, caplog: pytest.LogCaptureFixture
) -> None:
    for now in (100.0, 200.0):
        control.tend(now)
    assert caplog.messages == []


def test_a_broker_that_is_gone_again_is_missed_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    watch = Watch("tcp://there", "backend")
    for start in (100.0, 200.0):
        watch.missing(start)
        assert watch.wake_at() == start + WELCOME_WAIT
        watch.missing(watch.wake_at())
        watch.missing(start + 50.0)
        watch.welcomed()
    assert caplog.messages == ["waiting for a broker at tcp://there"] * 2


def test_what_is_not_of_the_protocol_is_dropped(
    control: Control, broker: Any, caplog: pytest.LogCaptureFixture
) -> None:
    peer = register(control, broker)
    for frames in ([b"one"], [b"not", b"msgpack"], [b"1", b"2", b"3"]):
        broker.control.send_multipart([peer, *frames])
    tend(control, broker, lambda: caplog.text.count("dropped") == 3 or None)
    broker.send(broker.control, peer, Welcome(b"?", broker.epoch, 0.0, {}))
    take(control, broker, Register)


def test_without_a_broker_nothing_blocks(tmp_path: Any) -> None:
    control = Control(f"ipc://{tmp_path}/nobody", SUPERVISOR, "here", {})
    control.offer("m1", b"")
    control.lost(WORKER, b"", "RUN", "was killed", {})
    control.tend(monotonic())
    control.close()


def test_what_is_no_endpoint_is_named() -> None:
    with pytest.raises(ValueError, match="cannot connect to nonsense"):
        Dealer("nonsense", 1000)


def test_watched_files_wake_it(control: Control) -> None:
    reader, writer = os.pipe()
    control.dealer.watch(reader)
    os.write(writer, b"x")
    while reader not in control.dealer.wait(20.0):
        control.tend(monotonic())
    control.dealer.unwatch(reader)
    control.dealer.unwatch(reader)
    os.close(reader)
    os.close(writer)


def test_a_large_message_needs_no_thread(broker: Any) -> None:
    """A worker with a thread that it did not have before gives its connection up."""
    dealer = Dealer(broker.backend_endpoint, 1000)
    try:
        assert dealer.monitor.poll(20_000)
        threads = len(list(Path("/proc/self/task").iterdir()))
        assert dealer.send(Ping(b"p", {}), encode_value("x" * (1 << 20)))
        broker.take(Ping)
        assert len(list(Path("/proc/self/task").iterdir())) == threads
    finally:
        dealer.close()

"""Broker and workers apart: over TCP, in any order, on several hosts, restarted."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import pytest

from falconas.errors import FalconError, Started, Unavailable
from tests.acceptance.stack import PATIENCE, Stack, is_alive, kill, wait_for

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "workers"


def free_ports() -> dict[str, str]:
    sockets = [socket.socket() for _ in range(3)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    keys = ("frontend", "backend", "control")
    return {k: f"tcp://127.0.0.1:{p}" for k, p in zip(keys, ports, strict=True)}


def test_clients_and_workers_may_start_before_the_broker(
    tmp_path: Path, database: str
) -> None:
    stack = Stack(tmp_path, database, SCRIPTS, endpoints=free_ports())
    with stack, stack.client() as client:
        call = client.submit("echo", {"value": 1}, budget=PATIENCE)
        stack.start_workers(1)
        stack.start_broker()
        assert call.result() == 1


def test_two_hosts_serve_one_broker(tmp_path: Path, database: str) -> None:
    with Stack(tmp_path, database, SCRIPTS, endpoints=free_ports()) as stack:
        stack.start_broker()
        stack.start_workers(1, FALCONAS_WORKER__GROUP="left")
        stack.start_workers(1, FALCONAS_WORKER__GROUP="right")
        groups = {worker["group"] for worker in stack.await_workers(2)}
        assert groups == {"left", "right"}
        with stack.client() as client:
            served = set()
            for number in range(4):
                call = client.submit("echo", {"value": number})
                assert call.result() == number
                served.add(call.info["worker"])
        pids = {worker["pid"]: worker["served"] for worker in stack.workers()}
        assert list(pids.values()) == [2, 2], "least recently used first"


def test_a_restarted_broker_gets_its_workers_and_clients_back(
    tmp_path: Path, database: str
) -> None:
    with Stack(tmp_path, database, SCRIPTS, endpoints=free_ports()) as stack:
        broker = stack.start_broker()
        stack.start_workers(2)
        pids = {worker["pid"] for worker in stack.await_workers(2)}
        with stack.client() as client:
            assert client.call("echo", {"value": 1}) == 1
            broker.send_signal(signal.SIGTERM)
            assert broker.wait(PATIENCE) == 0
            stack.start_broker()
            assert {worker["pid"] for worker in stack.await_workers(2)} == pids
            assert client.call("echo", {"value": 2}) == 2


def test_a_lost_host_answers_and_leaves_no_process(
    tmp_path: Path, database: str
) -> None:
    with Stack(tmp_path, database, SCRIPTS) as stack:
        stack.start_broker()
        supervisor = stack.start_workers(2)
        pids = [worker["pid"] for worker in stack.await_workers(2)]
        supervisor.kill()
        supervisor.wait()
        for pid in pids:
            wait_for(lambda pid=pid: not is_alive(pid), f"the end of worker {pid}")  # type: ignore[misc]
        with stack.client() as client, pytest.raises(Unavailable) as caught:
            client.call("echo", {"value": 1}, budget=PATIENCE)
        # Unknown if it was sent before the end of the connections was seen.
        assert caught.value.started is not Started.YES
        assert caught.value.retry_safe


def test_a_drained_worker_finishes_its_request(tmp_path: Path, database: str) -> None:
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    fifo = tmp_path / "fifo"
    (scripts / "held.py").write_text(
        "import os\n"
        "def run(ctx):\n"
        f"    os.mkfifo({str(fifo)!r})\n"
        f"    return open({str(fifo)!r}).read()\n"
    )
    with Stack(tmp_path, database, scripts) as stack, stack.client() as client:
        stack.start_broker()
        supervisor = stack.start_workers(1)
        stack.await_workers(1)
        call = client.submit("held", budget=PATIENCE)
        wait_for(fifo.exists, "the script")
        supervisor.send_signal(signal.SIGTERM)
        wait_for(lambda: "stopping" in stack.logs(), "the drain")
        fifo.write_text("done")
        assert call.result() == "done"
        assert supervisor.wait(PATIENCE) == 0


def test_a_drained_broker_answers_what_it_has(tmp_path: Path, database: str) -> None:
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    fifo = tmp_path / "fifo"
    (scripts / "held.py").write_text(
        "import os\n"
        "def run(ctx):\n"
        f"    os.mkfifo({str(fifo)!r})\n"
        f"    return open({str(fifo)!r}).read()\n"
    )
    with Stack(tmp_path, database, scripts) as stack, stack.client() as client:
        broker = stack.start_broker()
        stack.start_workers(1)
        stack.await_workers(1)
        call = client.submit("held", budget=PATIENCE)
        wait_for(fifo.exists, "the script")
        broker.send_signal(signal.SIGTERM)
        wait_for(lambda: "draining" in stack.logs(), "the drain")
        with pytest.raises(Unavailable, match="draining"):
            client.call("held")
        fifo.write_text("done")
        assert call.result() == "done"
        assert broker.wait(PATIENCE) == 0


def test_a_request_past_its_deadline_gets_its_verdict_from_the_broker(
    tmp_path: Path, database: str
) -> None:
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    (scripts / "stuck.py").write_text(
        "import signal\ndef run(ctx):\n    signal.pause()\n"
    )
    with Stack(tmp_path, database, scripts) as stack, stack.client() as client:
        stack.start_broker()
        stack.start_workers(1)
        (worker,) = stack.await_workers(1)
        call = client.submit("stuck", budget=0.3)
        with pytest.raises(FalconError) as caught:
            call.result()
        assert caught.value.code.name == "DEADLINE_EXCEEDED"
        assert client.stats().get("last_resort", 0) == 0
        assert kill(worker["pid"])
        stack.await_workers(1)

"""Real processes and real `kill -9`; a supervisor reaps, so it has its own process."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import psycopg
import pytest

from falconas.errors import Code
from falconas.protocol import (
    Disconnect,
    Heartbeat,
    Lost,
    Ready,
    Register,
    Reply,
    Status,
)
from falconas.worker.supervisor import describe

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE = 20.0
MAIN = """
import sys, msgspec
from falconas import logs
from falconas.config import Settings
from falconas.worker.supervisor import main
logs.setup("info", "json")
sys.exit(main(msgspec.json.decode(sys.stdin.buffer.read(), type=Settings)))
"""
SCRIPTS = {
    "echo": "def run(ctx, value: str):\n    return value\n",
    # Says that it runs, and then waits for the test to say something.
    "wait": (
        "import socket\n"
        "def run(ctx, path: str):\n"
        "    with socket.socket(socket.AF_UNIX) as test:\n"
        "        test.connect(path)\n"
        "        test.recv(1)\n"
    ),
    "leave": "import os\ndef run(ctx):\n    os._exit(0)\n",
    "child": (
        "import subprocess, sys\n"
        "def run(ctx):\n"
        "    sleep = 'import time; time.sleep(60)'\n"
        "    return subprocess.Popen([sys.executable, '-c', sleep]).pid\n"
    ),
}


class Host:
    """A supervisor in a process of its own."""

    def __init__(self, folder: Path, broker: Any, dsn: str, count: int = 2) -> None:
        self.folder = folder
        scripts = folder / "scripts"
        if not scripts.exists():
            scripts.mkdir()
            for name, text in SCRIPTS.items():
                (scripts / f"{name}.py").write_text(text)
        settings = {
            "worker": {
                "backend": broker.backend_endpoint,
                "control": broker.control_endpoint,
                "count": count,
                "scripts": str(scripts),
            },
            "database": {"dsn": dsn},
        }
        self.process = subprocess.Popen(
            [sys.executable, "-c", MAIN],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self.process.stdin is not None
        with self.process.stdin as stdin:
            stdin.write(msgspec.json.encode(settings))
        self.errors = b""

    def signal(self, signum: int) -> None:
        self.process.send_signal(signum)

    def wait(self) -> int:
        assert self.process.stderr is not None
        self.process.wait(PATIENCE)
        self.errors = self.process.stderr.read()
        return self.process.returncode

    def zygote(self) -> int:
        """Return the supervisor's first child."""
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return min(map(int, children))

    def close(self) -> None:
        self.process.kill()  # nobody survives that
        self.process.wait()
        assert self.process.stderr is not None
        self.process.stderr.close()


@pytest.fixture
def host(tmp_path: Path, broker: Any, database: str) -> Iterator[Host]:
    host = Host(tmp_path, broker, database)
    yield host
    host.close()


class Running:
    """A request whose script runs until `finish`."""

    def __init__(self, broker: Any, peer: bytes) -> None:
        with socket.socket(socket.AF_UNIX) as listener:
            path = Path(broker.backend_endpoint.removeprefix("ipc://")).parent / "wait"
            path.unlink(missing_ok=True)
            listener.bind(str(path))
            listener.listen()
            listener.settimeout(PATIENCE)
            self.id = broker.request(peer, "wait", path=str(path))
            self.script, _ = listener.accept()

    def finish(self) -> None:
        self.script.close()


def workers(broker: Any, count: int = 2) -> list[tuple[bytes, Ready]]:
    found = []
    for _ in range(count):
        peer, message, _ = broker.take(Ready)
        assert message.extras["ready"] is True
        found.append((peer, message))
    return sorted(found, key=lambda pair: pair[1].extras["index"])


def test_it_registers_and_fills_its_places(host: Host, broker: Any) -> None:
    _, register, manifest = broker.take(Register)
    assert set(manifest["scripts"]) == set(SCRIPTS)
    assert register.extras["pid"] == host.process.pid
    assert register.extras["count"] == 2
    first, second = [ready for _, ready in workers(broker)]
    assert first.extras["index"] == 0
    assert second.extras["index"] == 1
    assert first.manifest == second.manifest == register.manifest
    assert first.supervisor == register.supervisor
    alive = {first.worker, second.worker}
    while set(broker.take(Heartbeat)[2]) != alive:
        pass


def test_a_worker_killed_while_idle_is_reported_and_replaced(
    host: Host, broker: Any
) -> None:
    _, ready = workers(broker)[1]
    os.kill(ready.extras["pid"], signal.SIGKILL)
    _, lost, _ = broker.take(Lost)
    assert lost.worker == ready.worker
    assert lost.id == b""
    assert lost.state == "IDLE"
    assert lost.reason == "was killed by signal 9 (Killed)"
    _, successor, _ = broker.take(Ready)
    assert successor.extras["index"] == 1
    assert successor.worker != ready.worker


def test_a_worker_killed_in_mid_script_names_what_it_had_started(
    host: Host, broker: Any
) -> None:
    peer, ready = workers(broker)[0]
    running = Running(broker, peer)
    os.kill(ready.extras["pid"], signal.SIGKILL)
    _, lost, _ = broker.take(Lost)
    assert (lost.worker, lost.id, lost.state) == (ready.worker, running.id, "RUN")
    running.finish()
    peer, _, _ = broker.take(Ready)
    id_ = broker.request(peer, "echo", value="again")
    assert broker.take(Reply, id=id_)[2] == "again"


def test_a_reply_that_may_have_died_with_its_worker_is_named_too(
    host: Host, broker: Any
) -> None:
    """Idle again, but ZeroMQ may not have sent the reply: it was not `not started`."""
    peer, ready = workers(broker)[0]
    id_ = broker.request(peer, "echo", value="x")
    broker.take(Reply, id=id_)
    os.kill(ready.extras["pid"], signal.SIGKILL)
    assert broker.take(Lost)[1].id == id_


def test_a_script_that_exits_its_process_is_a_lost_worker(
    host: Host, broker: Any
) -> None:
    peer, _ = workers(broker)[0]
    id_ = broker.request(peer, "leave")
    _, lost, _ = broker.take(Lost)
    assert (lost.id, lost.state) == (id_, "RUN")
    assert lost.reason == "exited with code 0"
    broker.take(Ready)


def test_what_a_script_started_ends_with_its_worker(
    host: Host, broker: Any, gone: Any
) -> None:
    peer, ready = workers(broker)[0]
    id_ = broker.request(peer, "child")
    child = broker.take(Reply, id=id_)[2]
    os.kill(ready.extras["pid"], signal.SIGKILL)
    assert gone(child)


def test_a_killed_zygote_is_replaced_and_its_workers_serve_on(
    host: Host, broker: Any
) -> None:
    (peer, first), (_, second) = workers(broker)
    running = Running(broker, peer)
    os.kill(host.zygote(), signal.SIGKILL)
    broker.take(Register)
    broker.take(Register)  # by the new zygote
    os.kill(second.extras["pid"], signal.SIGKILL)
    _, third, _ = broker.take(Ready)
    assert third.extras["index"] == 1
    running.finish()
    assert broker.take(Reply, id=running.id)
    broker.inbox.clear()
    assert first.worker in broker.take(Heartbeat)[2]


def test_no_worker_survives_its_supervisor(host: Host, broker: Any, gone: Any) -> None:
    (peer, first), (_, second) = workers(broker)
    running = Running(broker, peer)
    zygote = host.zygote()
    host.process.kill()
    for pid in (first.extras["pid"], second.extras["pid"], zygote):
        assert gone(pid)
    running.finish()


def test_a_new_broker_gets_to_know_everybody(host: Host, broker: Any) -> None:
    before = {ready.worker for _, ready in workers(broker)}
    broker.restart()
    broker.take(Register)
    assert {ready.worker for _, ready in workers(broker)} == before


@pytest.mark.parametrize(("signum", "code"), [("SIGTERM", 0), ("SIGINT", 130)])
def test_a_signal_drains(host: Host, broker: Any, signum: str, code: int) -> None:
    (busy, _), (_, idle) = workers(broker)
    running = Running(broker, busy)
    host.signal(signal.Signals[signum])
    assert broker.take(Lost)[1].worker == idle.worker
    running.finish()
    _, reply, _ = broker.take(Reply, id=running.id)
    assert reply.code == Code.OK
    assert reply.extras["ready"] is False
    assert host.wait() == code
    broker.take(Disconnect, id=idle.worker)
    broker.take(Disconnect, id=idle.supervisor)
    assert b"warning" not in host.errors


def test_a_second_signal_ends_it_at_once(host: Host, broker: Any, gone: Any) -> None:
    (busy, ready), (_, idle) = workers(broker)
    running = Running(broker, busy)
    host.signal(signal.SIGTERM)
    assert broker.take(Lost)[1].worker == idle.worker
    host.signal(signal.SIGTERM)
    assert host.wait() == 0
    assert gone(ready.extras["pid"])
    running.finish()


def test_a_lost_database_makes_workers_unready_and_a_new_one_ready(
    host: Host, broker: Any, postgres: Any, database: str
) -> None:
    workers(broker)
    with psycopg.connect(database, autocommit=True) as own:
        own.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    for _ in range(2):
        broker.take(Status, ready=False)
    peer, _, _ = broker.take(Status, ready=True)
    id_ = broker.request(peer, "echo", value="x")
    assert broker.take(Reply, id=id_)[1].code == Code.OK


def start_in_vain(folder: Path, broker: Any, dsn: str = "") -> tuple[int, str]:
    host = Host(folder, broker, dsn)
    try:
        return host.wait(), host.errors.decode()
    finally:
        host.close()


def test_a_missing_folder_ends_it_with_one_line(tmp_path: Path, broker: Any) -> None:
    (tmp_path / "scripts").write_text("not a folder")
    code, errors = start_in_vain(tmp_path, broker)
    assert code == 3
    (line,) = [line for line in errors.splitlines() if '"level": "error"' in line]
    assert "is not a folder" in line
    assert "Traceback" not in errors


def test_a_malformed_dsn_ends_it_with_one_line(tmp_path: Path, broker: Any) -> None:
    code, errors = start_in_vain(tmp_path, broker, "nonsense")
    assert code == 3
    assert errors.count("the DSN is malformed") == 1
    assert "Traceback" not in errors


def test_a_zygote_that_dies_at_import_ends_it(tmp_path: Path, broker: Any) -> None:
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "bad.py").write_text("import os\nos._exit(9)\n")
    code, errors = start_in_vain(tmp_path, broker)
    assert code == 3
    assert "cannot start: the zygote exited with code 9" in errors


def test_how_a_process_ended_is_said_in_words() -> None:
    assert describe(0) == "exited with code 0"
    assert describe(-11) == "was killed by signal 11 (Segmentation fault)"
    assert describe(-35).startswith("was killed by signal 35 (")

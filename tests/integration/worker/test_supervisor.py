"""Real processes and real `kill -9`; a supervisor reaps, so it has its own process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from falconas.database.topology import Node
from falconas.errors import Code
from falconas.listing import environ_of
from falconas.protocol import (
    Cancel,
    Disconnect,
    Drain,
    Heartbeat,
    Lost,
    Ready,
    Register,
    Reload,
    Reply,
    Status,
)
from falconas.settings import Database, Settings, Worker
from falconas.settings import Node as NodeSettings
from falconas.worker.supervisor import Supervisor
from tests.integration.worker.host import PATIENCE, SCRIPTS, Host, Running, workers

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def host(tmp_path: Path, broker: Any, database: str) -> Iterator[Host]:
    host = Host(tmp_path, broker, database)
    yield host
    host.close()


def test_it_registers_and_fills_its_places(host: Host, broker: Any) -> None:
    _, register, manifest = broker.take(Register)
    assert set(manifest["scripts"]) == set(SCRIPTS)
    assert register.extras["pid"] == host.process.pid
    assert register.extras["count"] == 2
    assert register.extras["groups"] == {"default": 2}
    first, second = [ready for _, ready in workers(broker)]
    assert first.extras["index"] == 0
    assert second.extras["index"] == 1
    assert first.manifest == second.manifest == register.manifest
    assert first.supervisor == register.supervisor
    alive = {first.worker, second.worker}
    while set(broker.take(Heartbeat)[2]["workers"]) != alive:
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
    assert first.worker in broker.take(Heartbeat)[2]["workers"]


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
    assert b"warning" not in host.errors, host.errors.decode()


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
    host.signal(signal.SIGTERM)
    assert host.wait() == 0
    told = [json.loads(line) for line in host.errors.splitlines()]
    lost = [line for line in told if line["event"] == "database connection lost"]
    assert sorted(line["index"] for line in lost) == [0, 1]
    assert {(line["node"], line["group"]) for line in lost} == {("main", "default")}


# Deadlines and cancels


def test_a_worker_that_ignores_its_deadline_is_killed(host: Host, broker: Any) -> None:
    peer, ready = workers(broker)[0]
    running = Running(broker, peer, "stubborn", 0.5)
    _, lost, _ = broker.take(Lost)
    assert (lost.worker, lost.id, lost.state) == (ready.worker, running.id, "RUN")
    assert lost.extras == {"why": "deadline"}
    assert lost.reason == (
        "was killed 0.4 s after its deadline, which it ignored; it was on node main"
    )
    running.finish()
    assert broker.take(Ready)[1].extras["index"] == 0


def test_a_worker_that_ignores_a_cancel_is_killed(host: Host, broker: Any) -> None:
    control, _, _ = broker.take(Register)
    peer, ready = workers(broker)[0]
    running = Running(broker, peer, "stubborn")
    cancel = Cancel(running.id, {"worker": ready.worker})
    broker.send(broker.control, control, cancel)
    _, lost, _ = broker.take(Lost)
    assert lost.id == running.id
    assert lost.extras == {"why": "cancel"}
    running.finish()


@pytest.mark.parametrize(
    ("id_", "worker"), [(b"short", None), ("text", None), (b"d" * 16, b"?" * 16)]
)
def test_a_cancel_that_means_nobody_hits_nobody(
    host: Host, broker: Any, id_: Any, worker: Any
) -> None:
    control, _, _ = broker.take(Register)
    peer, ready = workers(broker)[0]
    cancel = Cancel(id_, {"worker": worker or ready.worker})
    broker.send(broker.control, control, cancel)
    id_ = broker.request(peer, "echo", value="x")
    assert broker.take(Reply, id=id_)[2] == "x"


def test_a_script_that_crashes_is_to_blame_and_its_trace_is_logged(
    host: Host, broker: Any
) -> None:
    peer, _ = workers(broker)[0]
    id_ = broker.request(peer, "crash")
    _, lost, _ = broker.take(Lost)
    assert lost.id == id_
    assert lost.extras == {"crash": True}
    broker.take(Ready)
    host.signal(signal.SIGTERM)
    assert host.wait() == 0
    lines = [json.loads(line) for line in host.errors.splitlines()]
    told = [line["event"] for line in lines if line.get("dispatch") == id_.hex()]
    assert told[0].startswith("worker was killed by signal 11")
    assert "crash.py" in told[1]
    assert len(told) == 2


def test_a_worker_killed_from_outside_is_nobodys_fault(host: Host, broker: Any) -> None:
    peer, ready = workers(broker)[0]
    running = Running(broker, peer)
    os.kill(ready.extras["pid"], signal.SIGKILL)
    assert broker.take(Lost)[1].extras == {}
    running.finish()


def ignored(pid: int) -> set[int]:
    """Return the signals that a process ignores."""
    status = Path(f"/proc/{pid}/status").read_text()
    (bits,) = [line[7:] for line in status.splitlines() if line.startswith("SigIgn:")]
    return {number for number in range(1, 65) if int(bits, 16) >> (number - 1) & 1}


def test_a_log_that_nobody_reads_does_not_stop_the_supervisor(
    tmp_path: Path, broker: Any, database: str
) -> None:
    (tmp_path / "echo.py").write_text(SCRIPTS["echo"])
    worker = Worker(broker.backend_endpoint, broker.control_endpoint, 1, str(tmp_path))
    settings = Settings(worker=worker, database=Database(database))
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, b"." * 4096)
    os.set_blocking(writer, True)
    supervisor = subprocess.Popen(
        [sys.executable, "-P", "-m", "falconas.cli", "worker"],
        env={**os.environ, **environ_of(settings)},
        stderr=writer,
    )
    try:
        pid = broker.take(Ready)[1].extras["pid"]
        assert signal.SIGHUP not in ignored(pid)
        os.kill(pid, signal.SIGKILL)
        broker.take(Lost)
        assert broker.take(Ready)[1].extras["pid"] != pid
        supervisor.terminate()
        assert supervisor.wait(PATIENCE) == 0
    finally:
        supervisor.kill()
        supervisor.wait()
        os.close(reader)
        os.close(writer)


# Reload, recycling and drain by the broker


def ends(broker: Any, id_: bytes | None = None) -> dict[str, Any]:
    """Wait for the end of a reload."""
    while True:
        extras = broker.take(Heartbeat)[1].extras
        reload = extras.get("reload", {"state": ""})
        if reload["state"] in ("done", "failed") and id_ in (None, reload["id"]):
            assert isinstance(reload, dict)
            return reload


def test_a_hangup_replaces_every_worker_by_one_with_the_new_scripts(
    host: Host, broker: Any
) -> None:
    old = broker.take(Register)[1]
    before = {ready.worker for _, ready in workers(broker)}
    host.write("echo", "def run(ctx, value: str):\n    return value + '!'\n")
    host.signal(signal.SIGHUP)
    new = broker.take(Register)[1]
    assert old.manifest != new.manifest
    assert "fresh" not in old.extras
    assert new.extras["fresh"] is True
    for peer, ready in workers(broker):
        assert ready.manifest == new.manifest
        id_ = broker.request(peer, "echo", value="x")
        assert broker.take(Reply, id=id_)[2] == "x!"
    assert ends(broker)["state"] == "done"
    assert {broker.take(Lost)[1].worker, broker.take(Lost)[1].worker} == before
    assert broker.take(Heartbeat)[1].extras["manifest"] == new.manifest


def test_a_reload_waits_for_what_runs_and_says_how_it_gets_on(
    host: Host, broker: Any
) -> None:
    control, _, _ = broker.take(Register)
    peer, _ = workers(broker)[0]
    running = Running(broker, peer)
    host.write("bad", "def run(n: int): ...\n")
    broker.send(broker.control, control, Reload(b"r" * 16, {}))
    states = []
    while "rolling" not in states:
        reload = broker.take(Heartbeat)[1].extras.get("reload")
        states += [reload["state"]] if reload else []
    assert states[0] == "loading"
    running.finish()
    assert broker.take(Reply, id=running.id)[1].code == Code.OK
    said = "1 script does not load: bad"
    assert ends(broker, b"r" * 16) == {"id": b"r" * 16, "state": "done", "reason": said}


def test_scripts_that_do_not_load_any_more_are_refused(host: Host, broker: Any) -> None:
    control, _, _ = broker.take(Register)
    peer, ready = workers(broker)[0]
    host.write("echo", "def run(ctx\n")
    broker.send(broker.control, control, Reload(b"r" * 16, {}))
    reload = ends(broker, b"r" * 16)
    assert reload["state"] == "failed"
    assert "script echo does not load" in reload["reason"]
    id_ = broker.request(peer, "echo", value="x")
    assert broker.take(Reply, id=id_)[2] == "x"
    os.kill(ready.extras["pid"], signal.SIGKILL)
    assert broker.take(Ready)[1].manifest == ready.manifest


def test_a_zygote_that_dies_loading_fails_the_reload(host: Host, broker: Any) -> None:
    control, _, _ = broker.take(Register)
    workers(broker)
    host.write("bad", "import os\nos._exit(9)\n")
    broker.send(broker.control, control, Reload(b"r" * 16, {}))
    assert ends(broker, b"r" * 16)["reason"] == "the zygote exited with code 9"


def test_a_worn_worker_is_replaced_before_it_ends(
    tmp_path: Path, broker: Any, database: str
) -> None:
    host = Host(tmp_path, broker, database, count=1, recycle_requests=1)
    try:
        ((peer, ready),) = workers(broker, 1)
        id_ = broker.request(peer, "echo", value="x")
        broker.take(Reply, id=id_)
        assert broker.take(Ready)[1].extras["index"] == 1
        assert not [m for _, m, _ in broker.inbox if isinstance(m, Lost)]
        assert broker.take(Lost)[1].worker == ready.worker
    finally:
        host.close()


def test_the_broker_drains_a_host(host: Host, broker: Any) -> None:
    control, _, _ = broker.take(Register)
    workers(broker)
    broker.send(broker.control, control, Drain(b"d" * 16, {}))
    while not broker.take(Heartbeat)[1].extras["draining"]:
        pass
    assert host.wait() == 0


# Nodes that are found


def test_workers_of_a_node_that_is_another_server_now_are_replaced(
    broker: Any,
) -> None:
    settings = Settings(
        worker=Worker(control=broker.control_endpoint, count=1),
        nodes={"pg": NodeSettings(patroni=("http://127.0.0.1:1",))},
    )
    supervisor = Supervisor(settings)
    nodes, policy = supervisor._outlook.nodes, supervisor._policy
    place = policy.places[0]

    def state() -> tuple[tuple[str, ...], str]:
        return policy.roster.groups["default"].nodes, place.worn

    try:
        supervisor._regroup(nodes.update([Node("pg/a", "host=one")]))
        assert state() == (("pg/a",), "")
        place.worker, place.node = b"w" * 16, "pg/a"
        heavier = Node("pg/a", "host=one", weight=2.0)
        supervisor._regroup(nodes.update([heavier, Node("pg/b", "host=two")]))
        assert state() == (("pg/a", "pg/b"), "")
        supervisor._regroup(nodes.update([Node("pg/a", "host=three")]))
        assert state() == (("pg/a",), "pg/a is another server now")
    finally:
        supervisor._end()


# What keeps it from starting


def start_in_vain(
    folder: Path, broker: Any, dsn: str = "", **worker: Any
) -> tuple[int, str]:
    host = Host(folder, broker, dsn, **worker)
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


def test_strict_wants_every_script_to_load(tmp_path: Path, broker: Any) -> None:
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "bad.py").write_text("def run(ctx\n")
    code, errors = start_in_vain(tmp_path, broker, strict=True)
    assert code == 3
    assert "cannot start: script bad does not load: " in errors


def test_workers_that_do_not_come_up_end_it(tmp_path: Path, broker: Any) -> None:
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "bad.py").write_text(
        "import os\n"
        "from falconas.worker import main\n"
        "main.main = lambda *_, **__: os._exit(5)\n"
        "def run(ctx): ...\n"
    )
    code, errors = start_in_vain(tmp_path, broker)
    assert code == 3
    assert "no worker comes up (the last one exited with code 5)" in errors

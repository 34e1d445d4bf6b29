from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from falconas.codec import decode_value
from falconas.config import Database, Settings, Worker
from falconas.protocol import Ready, Reply, Return
from falconas.settings import Group
from falconas.worker import capture
from falconas.worker.channel import Channel
from falconas.worker.slot import SlotTable
from falconas.worker.supervisor import PR_SET_CHILD_SUBREAPER, become_subreaper
from falconas.worker.zygote import (
    Boot,
    Failed,
    Manifest,
    Message,
    Spawn,
    Spawned,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE = 20.0
SECRET = "opensesame"
NOWHERE = f"host=/nowhere password={SECRET}"
SUPERVISOR = b"s" * 16
WORKER = b"w" * 16


@pytest.fixture
def subreaper() -> Iterator[None]:
    become_subreaper()
    yield
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


class Nursery:
    """A zygote whose supervisor is this test."""

    def __init__(self, scripts: Path, endpoint: str, dsn: str) -> None:
        self.slots = SlotTable.create(2)
        self.outputs = capture.make(2)
        self.channel, theirs = Channel[Message].pair(Message)
        self.workers: list[int] = []
        fds = (theirs.fileno(), self.slots.fd)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "falconas.worker.zygote", *map(str, fds)],
                pass_fds=(*fds, *self.outputs),
                process_group=0,
                stderr=subprocess.DEVNULL,
            )
        settings = Settings(
            worker=Worker(backend=endpoint, scripts=str(scripts)),
            database=Database(dsn=dsn),
            groups={"reports": Group(statement_timeout=5.0)},
        )
        self.channel.send(Boot(settings, SUPERVISOR, os.getpid(), 2, self.outputs))

    def receive(self) -> Any:
        poller = select.poll()
        poller.register(self.channel.fileno(), select.POLLIN)
        assert poller.poll(PATIENCE * 1000)
        return self.channel.receive()

    def manifest(self) -> dict[str, Any]:
        message = self.receive()
        assert isinstance(message, Manifest), message
        manifest: dict[str, Any] = decode_value(message.body)
        return manifest

    def spawn(self, place: int = 0, dsn: str = NOWHERE) -> int:
        self.channel.send(Spawn(place, WORKER, "reports", "n2", dsn))
        message = self.receive()
        assert isinstance(message, Spawned)
        assert message.worker == WORKER
        self.workers.append(message.pid)
        return message.pid

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for pid in self.workers:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        self.channel.close()
        self.slots.close()
        for fd in self.outputs:
            os.close(fd)


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    folder = tmp_path / "scripts"
    folder.mkdir()
    (folder / "echo.py").write_text("def run(ctx, value: str):\n    return value\n")
    (folder / "timeout.py").write_text(
        "def run(ctx):\n"
        "    return ctx.db.execute('SHOW statement_timeout').fetchone()[0]\n"
    )
    return folder


@pytest.fixture
def nursery(subreaper: None, scripts: Path, broker: Any) -> Iterator[Nursery]:
    nursery = Nursery(scripts, broker.backend_endpoint, NOWHERE)
    yield nursery
    nursery.close()


def failure(scripts: Path, dsn: str = "") -> str:
    nursery = Nursery(scripts, "ipc:///nowhere", dsn)
    try:
        message = nursery.receive()
        assert isinstance(message, Failed)
        assert nursery.receive() is None
        assert nursery.process.wait(PATIENCE) == 1
        return message.reason
    finally:
        nursery.close()


def children() -> set[int]:
    own = os.getpid()
    return set(map(int, Path(f"/proc/{own}/task/{own}/children").read_text().split()))


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_it_tells_what_scripts_there_are(nursery: Nursery) -> None:
    entries = nursery.manifest()["scripts"]
    assert {name: entry["group"] for name, entry in entries.items()} == {
        "echo": "reports", "timeout": "reports"
    }  # fmt: skip


def test_a_large_manifest_arrives_whole(
    subreaper: None, scripts: Path, broker: Any
) -> None:
    for number in range(40):
        text = f'def run(ctx):\n    """{"long " * 1000}"""\n'
        (scripts / f"script{number}.py").write_text(text)
    nursery = Nursery(scripts, broker.backend_endpoint, "")
    try:
        assert len(nursery.manifest()["scripts"]) == 42
    finally:
        nursery.close()


def test_a_worker_is_the_supervisors_child_in_a_group_of_its_own(
    nursery: Nursery,
) -> None:
    nursery.manifest()
    pid = nursery.spawn(1)
    assert parent(pid) == os.getpid()
    assert os.getpgid(pid) == pid
    assert nursery.slots.slot(1).read().pid == pid
    assert nursery.slots.slot(0).read().pid == 0


def test_a_worker_introduces_itself_to_the_broker(
    nursery: Nursery, broker: Any
) -> None:
    nursery.manifest()
    pid = nursery.spawn(1)
    _, ready, _ = broker.take(Ready)
    assert ready.worker == WORKER
    assert ready.supervisor == SUPERVISOR
    assert ready.extras["pid"] == pid
    assert ready.extras["index"] == 1
    assert (ready.group, ready.node) == ("reports", "n2")
    assert ready.extras["ready"] is False  # there is no database


def test_a_worker_connects_where_it_is_told_to_as_its_group_wants_it(
    nursery: Nursery, broker: Any, database: str
) -> None:
    nursery.manifest()
    nursery.spawn(dsn=database)
    peer, ready, _ = broker.take(Ready)
    assert ready.extras["ready"] is True
    id_ = broker.request(peer, "timeout")
    _, reply, body = broker.take(Reply, id=id_)
    assert reply.extras["node"] == "n2"
    assert body == "5s"


def test_workers_of_one_zygote_connect_apart(nursery: Nursery, broker: Any) -> None:
    nursery.manifest()
    nursery.spawn(0)
    nursery.spawn(1)
    first, second = broker.take(Ready), broker.take(Ready)
    assert first[0] != second[0]


def test_no_secret_is_in_arguments_or_environment(nursery: Nursery) -> None:
    nursery.manifest()
    for pid in (nursery.process.pid, nursery.spawn()):
        for name in ("cmdline", "environ"):
            assert SECRET.encode() not in Path(f"/proc/{pid}/{name}").read_bytes()


def test_it_has_one_thread(nursery: Nursery) -> None:
    nursery.manifest()
    nursery.spawn()
    tasks = Path(f"/proc/{nursery.process.pid}/task")
    assert len(list(tasks.iterdir())) == 1


def test_workers_outlive_it(nursery: Nursery, broker: Any) -> None:
    nursery.manifest()
    pid = nursery.spawn()
    peer, _, _ = broker.take(Ready)
    nursery.process.kill()
    nursery.process.wait()
    id_ = broker.request(peer, "echo", value="x")
    assert broker.take(Return)[1].id == id_
    assert parent(pid) == os.getpid()


def test_a_worker_can_be_told_to_leave_as_soon_as_it_is_known(
    nursery: Nursery,
) -> None:
    nursery.manifest()
    pid = nursery.spawn()
    os.kill(pid, signal.SIGTERM)
    nursery.workers.remove(pid)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_it_ends_with_its_supervisor(nursery: Nursery, gone: Any) -> None:
    nursery.manifest()
    nursery.channel.finish()
    assert nursery.process.wait(PATIENCE) == 0


def test_nobody_comes_alive_after_the_channel_was_finished(nursery: Nursery) -> None:
    """A worker that cannot make itself known ends."""
    nursery.manifest()
    before = children()
    os.kill(nursery.process.pid, signal.SIGSTOP)
    nursery.channel.send(Spawn(0, WORKER, "reports", "n2", NOWHERE))
    assert nursery.channel.finish() == []
    os.kill(nursery.process.pid, signal.SIGCONT)
    assert nursery.process.wait(PATIENCE) == 0
    for pid in children() - before:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
    assert nursery.slots.slot(0).read().state.name == "BOOT"


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    assert "scripts folder /nowhere does not exist" in failure(Path("/nowhere"))


def test_a_malformed_dsn_is_refused_without_being_quoted(scripts: Path) -> None:
    reason = failure(scripts, f"hots=localhost password={SECRET}")
    assert "the DSN has no keyword hots: did you mean host?" in reason
    assert SECRET not in reason


def test_scripts_that_start_threads_when_imported_are_refused(scripts: Path) -> None:
    (scripts / "bad.py").write_text(
        "import threading, time\n"
        "threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
        "def run(ctx): ...\n"
    )
    assert "the scripts started 1 thread(s)" in failure(scripts)


def test_a_script_that_does_not_load_keeps_no_other_from_being_served(
    subreaper: None, scripts: Path, broker: Any
) -> None:
    (scripts / "broken.py").write_text("def run(ctx:\n")
    nursery = Nursery(scripts, broker.backend_endpoint, "host=/nowhere")
    try:
        entries = nursery.manifest()["scripts"]
        assert entries["echo"]["error"] is None
        assert "SyntaxError" in entries["broken"]["error"]
        nursery.spawn()
    finally:
        nursery.close()

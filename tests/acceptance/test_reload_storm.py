"""Scripts are loaded anew and workers are restarted under load: no request fails."""

from __future__ import annotations

import signal
import subprocess
import threading
from collections import Counter
from pathlib import Path
from time import monotonic
from typing import Any, Self

import psycopg
import pytest

from falconas.client.sync import Client
from falconas.errors import FalconError
from tests.acceptance.stack import COMMAND, PATIENCE, Stack, wait_for

WORKERS = 4
CLIENTS = 6
DEPTH = 4
CALLS = 1000

VERSION = """
from falconas import script

VERSION = {version}

@script(access="read")
def run(ctx, nonce: str):
    return [nonce, VERSION]
"""
WRITE = """
def run(ctx, nonce: str):
    ctx.db.execute("INSERT INTO effects VALUES (%s)", [nonce])
    return [nonce, 0]
"""
BROKEN = "def run(:\n"

COUNTS = pytest.mark.parametrize(
    "count",
    [
        pytest.param(2, id="quick"),
        pytest.param(50, id="full", marks=pytest.mark.campaign),
    ],
)


class Busy:
    """Clients that never stop asking; every verdict but OK is kept."""

    def __init__(self, frontend: str) -> None:
        self.done = 0
        self.errors: list[FalconError | BaseException] = []
        self.written: list[str] = []
        self.versions: Counter[int] = Counter()
        self._frontend = frontend
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=[number])
            for number in range(CLIENTS)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def await_calls(self, goal: int) -> None:
        wait_for(lambda: self.done >= goal or self.errors, f"{goal} calls")

    def _run(self, number: int) -> None:
        try:
            with Client(self._frontend) as client:
                turn = 0
                while not self._stop.is_set():
                    turn += 1
                    self._round(client, f"{number}-{turn}")
        except BaseException as error:
            self.errors.append(error)

    def _round(self, client: Client, name: str) -> None:
        calls = []
        for place in range(DEPTH):
            script, nonce = "write" if place == 0 else "version", f"{name}-{place}"
            call = client.submit(script, {"nonce": nonce}, budget=20.0)
            calls.append((script, nonce, call))
        for script, nonce, call in calls:
            try:
                answer, version = call.result()
                assert answer == nonce, "somebody else's answer"
            except BaseException as error:
                self.errors.append(error)
                continue
            with self._lock:
                self.done += 1
                self.versions[version] += 1
                if script == "write":
                    self.written.append(nonce)


@pytest.fixture
def scripts(tmp_path: Path, database: str) -> Path:
    folder = tmp_path / "scripts"
    folder.mkdir()
    (folder / "version.py").write_text(VERSION.format(version=0))
    (folder / "write.py").write_text(WRITE)
    with psycopg.connect(database) as connection:
        connection.execute("CREATE TABLE effects (nonce text)")
    return folder


def _check(busy: Busy, dsn: str) -> None:
    assert busy.errors == []
    with psycopg.connect(dsn) as connection:
        rows = connection.execute("SELECT nonce FROM effects").fetchall()
    assert sorted(nonce for (nonce,) in rows) == sorted(busy.written)


def _supervisor(stack: Stack) -> dict[str, Any]:
    (supervisor,) = stack.inspect()["supervisors"]
    found: dict[str, Any] = supervisor
    return found


def _reload_state(stack: Stack) -> tuple[str | None, str | None]:
    reload = _supervisor(stack).get("reload") or {}
    return reload.get("id"), reload.get("state")


def _reload(stack: Stack, supervisor: subprocess.Popen[bytes]) -> str:
    """Send SIGHUP and return what became of the reload."""
    before, _ = _reload_state(stack)
    supervisor.send_signal(signal.SIGHUP)

    def ended() -> str | None:
        id_, state = _reload_state(stack)
        return state if id_ != before and state in ("done", "failed") else None

    state: str = wait_for(ended, "the end of the reload")
    return state


@COUNTS
def test_no_request_fails_while_scripts_are_changed(
    tmp_path: Path, database: str, scripts: Path, count: int
) -> None:
    """The version asked for after a reload is the new one."""
    took = []
    with Stack(tmp_path, database, scripts) as stack:
        stack.start_broker()
        supervisor = stack.start_workers(WORKERS)
        stack.await_workers(WORKERS)
        with Busy(stack.endpoints["frontend"]) as busy, stack.client() as client:
            for version in range(1, count + 1):
                goal = busy.done + CALLS
                (scripts / "version.py").write_text(VERSION.format(version=version))
                began = monotonic()
                assert _reload(stack, supervisor) == "done"
                took.append(monotonic() - began)
                for _ in range(2 * WORKERS):
                    assert client.call("version", {"nonce": "n"}) == ["n", version]
                busy.await_calls(goal)
                assert not busy.errors, stack.logs()
        _all_of_the_new_manifest(stack)
    _check(busy, database)
    assert set(busy.versions) >= set(range(count))
    print(f"\nreloads {count}, calls {busy.done}, took at most {max(took):.2f} s")


def _all_of_the_new_manifest(stack: Stack) -> None:
    manifest = _supervisor(stack)["manifest"]
    workers = stack.await_workers(WORKERS)
    assert {worker["manifest"] for worker in workers} == {manifest}


@COUNTS
def test_no_request_fails_while_workers_are_replaced_one_by_one(
    tmp_path: Path, database: str, scripts: Path, count: int
) -> None:
    """A reload of scripts that are as before; by the command."""
    with Stack(tmp_path, database, scripts) as stack:
        stack.start_broker()
        stack.start_workers(WORKERS)
        pids = {worker["pid"] for worker in stack.await_workers(WORKERS)}
        with Busy(stack.endpoints["frontend"]) as busy:
            for _ in range(count):
                goal = busy.done + CALLS
                done = subprocess.run(
                    [COMMAND, "reload"],
                    env=stack.environ,
                    capture_output=True,
                    text=True,
                    timeout=PATIENCE,
                    check=False,
                )
                assert done.returncode == 0, done
                workers = {worker["pid"] for worker in stack.await_workers(WORKERS)}
                assert not workers & pids, "an old worker is left"
                pids = workers
                busy.await_calls(goal)
                assert not busy.errors, stack.logs()
    _check(busy, database)
    print(f"\nrestarts {count}, calls {busy.done}")


@COUNTS
def test_no_request_fails_while_hosts_are_restarted_in_turn(
    tmp_path: Path, database: str, scripts: Path, count: int
) -> None:
    with Stack(tmp_path, database, scripts) as stack:
        stack.start_broker()
        hosts = [stack.start_workers(2), stack.start_workers(2)]
        stack.await_workers(WORKERS)
        with Busy(stack.endpoints["frontend"]) as busy:
            for number in range(count):
                goal = busy.done + CALLS
                host = hosts.pop(0)
                host.send_signal(signal.SIGTERM)
                assert wait_for(lambda host=host: host.poll() is not None, "drain")  # type: ignore[misc]
                assert host.returncode == 0
                hosts.append(stack.start_workers(2))
                stack.await_workers(WORKERS)
                busy.await_calls(goal)
                assert not busy.errors, f"after {number + 1}: {stack.logs()}"
    _check(busy, database)
    print(f"\nrestarts of a host {count}, calls {busy.done}")


def test_scripts_that_do_not_load_any_more_are_refused_and_the_old_serve_on(
    tmp_path: Path, database: str, scripts: Path
) -> None:
    with Stack(tmp_path, database, scripts) as stack:
        stack.start_broker()
        supervisor = stack.start_workers(2)
        pids = {worker["pid"] for worker in stack.await_workers(2)}
        with Busy(stack.endpoints["frontend"]) as busy, stack.client() as client:
            (scripts / "version.py").write_text(BROKEN)
            assert _reload(stack, supervisor) == "failed"
            assert "version" in _supervisor(stack)["reload"]["reason"]
            assert client.call("version", {"nonce": "n"}) == ["n", 0]
            assert {worker["pid"] for worker in stack.workers()} == pids
            busy.await_calls(busy.done + CALLS)

            (scripts / "version.py").write_text(VERSION.format(version=1))
            assert _reload(stack, supervisor) == "done"
            assert client.call("version", {"nonce": "n"}) == ["n", 1]
        assert not {worker["pid"] for worker in stack.await_workers(2)} & pids
    _check(busy, database)


def test_no_request_fails_while_workers_are_recycled(
    tmp_path: Path, database: str, scripts: Path
) -> None:
    environ = {"FALCONAS_WORKER__RECYCLE_REQUESTS": "50"}
    with Stack(tmp_path, database, scripts) as stack:
        stack.start_broker()
        stack.start_workers(WORKERS, **environ)
        pids = {worker["pid"] for worker in stack.await_workers(WORKERS)}
        least = len(pids)
        with Busy(stack.endpoints["frontend"]) as busy:
            while busy.done < CALLS and not busy.errors:
                workers = stack.workers()
                pids |= {worker["pid"] for worker in workers}
                least = min(least, sum(w["state"] != "unready" for w in workers))
    _check(busy, database)
    assert len(pids) > WORKERS, "nobody was replaced"
    assert least >= WORKERS, "the replacement is ready before the old one leaves"

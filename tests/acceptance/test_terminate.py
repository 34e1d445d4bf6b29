"""Backends are ended under the workers: nobody idle is blamed, who is busy is told."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import psycopg
import pytest

from falconas.client.sync import Call, Client
from falconas.errors import FalconError, Started, Unavailable
from tests.acceptance.activity import Observer
from tests.acceptance.figures import show
from tests.acceptance.stack import Stack, wait_for

WORKERS = 4
# Who is thrown out again at once tries less and less often: let it be steady before.
STEADY = """
SELECT count(*) FROM pg_stat_activity WHERE pid = ANY(%s)
AND backend_start < clock_timestamp() - interval '1.1 s'
"""
BUSY = """
SELECT count(*) FROM pg_stat_activity WHERE pid = ANY(%s)
AND (state = 'active' AND query LIKE '%%pg_sleep%%'
    OR state = 'idle in transaction' AND query LIKE '%%thinking%%')
"""
SCRIPTS = {
    "backend": """
from falconas import script

@script(access="read")
def run(ctx):
    return ctx.db.execute("SELECT pg_backend_pid()").fetchone()[0]
""",
    "insert": """
def run(ctx, mark: str):
    ctx.db.execute("INSERT INTO traces VALUES (%s)", [mark])
    return ctx.db.execute("SELECT pg_backend_pid()").fetchone()[0]
""",
    "busy_writing": """
def run(ctx, mark: str):
    ctx.db.execute("INSERT INTO traces VALUES (%s)", [mark])
    ctx.db.execute("SELECT pg_sleep(60)")
""",
    "busy_reading": """
from falconas import script

@script(access="read", idempotent=False)  # else another worker is tried
def run(ctx, mark: str):
    ctx.db.execute("SELECT pg_sleep(60)")
""",
    "busy_thinking": """
import os

def run(ctx, mark: str, gate: str):
    ctx.db.execute("INSERT INTO traces VALUES (%s) /* thinking */", [mark])
    with open(gate):  # until somebody opens the FIFO's other end
        pass
    ctx.db.execute("SELECT 1")
""",
}


# The server's last words may be lost, and psycopg's pipeline, in which a read's first
# statement travels, drops them.
STATES = {"57P01", None}


class Terminator:
    """Workers, and one who ends their backends."""

    def __init__(self, stack: Stack, client: Client, observer: Observer) -> None:
        self.client = client
        self.observer = observer
        self._stack = stack
        self.reconnects: list[float] = []

    def backends(self) -> list[int]:
        """Return the backends of the workers once each has its own and is ready."""
        self._stack.await_workers(WORKERS)

        def all_of_them() -> list[int] | None:
            found = self.observer.backends()
            return list(found) if len(found) == WORKERS else None

        found: list[int] = wait_for(all_of_them, f"{WORKERS} backends")
        return found

    def await_count(self, query: str, pids: list[int], what: str) -> None:
        wait_for(lambda: self.observer.execute(query, pids)[0][0] == WORKERS, what)

    def terminate(self, pids: list[int]) -> float:
        """End the backends, and return when that was done."""
        done = self.observer.execute(
            "SELECT pg_terminate_backend(pid) FROM unnest(%s) AS pid", pids
        )
        assert done == [(True,)] * len(pids)
        return monotonic()

    def await_answers(self, old: list[int], since: float) -> None:
        """Call until each worker has answered from a new backend; all succeed."""
        heard: set[str] = set()
        give_up = monotonic() + 30
        while len(heard) < WORKERS:
            call = self.client.submit("backend")
            assert call.result() not in old
            if call.info["worker"] not in heard:
                heard.add(call.info["worker"])
                self.reconnects.append(monotonic() - since)
            assert monotonic() < give_up, f"only {heard} came back"

    def is_written(self, mark: str) -> bool:
        found = self.observer.execute("SELECT 1 FROM traces WHERE mark = %s", mark)
        return bool(found)


@pytest.fixture
def terminator(tmp_path: Path, postgres: Any, database: str) -> Iterator[Terminator]:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE TABLE traces (mark text)")
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    for name, text in SCRIPTS.items():
        (scripts / f"{name}.py").write_text(text)
    with Stack(tmp_path, database, scripts) as stack:
        stack.start_broker()
        stack.start_workers(WORKERS)
        with stack.client() as client, Observer(database) as observer:
            yield Terminator(stack, client, observer)


def rounds(quick: int, full: int) -> pytest.MarkDecorator:
    """Each round ends the backends of all workers."""
    return pytest.mark.parametrize(
        "count",
        [
            pytest.param(quick, id="quick"),
            pytest.param(full, id="full", marks=pytest.mark.campaign),
        ],
    )


@rounds(3, 125)
def test_who_calls_when_idle_backends_were_ended_notices_nothing(
    terminator: Terminator, count: int
) -> None:
    requests = 0
    for number in range(count):
        old = terminator.backends()
        terminator.await_count(STEADY, old, "steady connections")
        marks = [f"idle {number} {n}" for n in range(WORKERS)]
        ended = terminator.terminate(old)
        reads = [terminator.client.submit("backend") for _ in marks]
        writes = [terminator.client.submit("insert", {"mark": mark}) for mark in marks]
        for call in (*reads, *writes):
            assert call.result() not in old
        terminator.await_answers(old, ended)
        assert all(terminator.is_written(mark) for mark in marks)
        requests += len(reads) + len(writes)
    figures = f"{count * WORKERS} idle backends ended, {requests} requests, 0 failed"
    show(figures, reconnect=terminator.reconnects)


@rounds(3, 125)
def test_who_is_busy_when_his_backend_is_ended_is_told(
    terminator: Terminator, tmp_path: Path, count: int
) -> None:
    dice = random.Random(count)
    kinds = Counter[str]()
    for number in range(count):
        old = terminator.backends()
        calls = [
            _begin(terminator.client, dice, f"[{number} {place}]", tmp_path / "gate")
            for place in range(WORKERS)
        ]
        terminator.await_count(BUSY, old, "busy workers")
        ended = terminator.terminate(old)
        for script, mark, call, gate in calls:
            if script == "busy_thinking":
                gate.open("w").close()
            verdict = _verdict(call)
            assert isinstance(verdict, Unavailable), verdict
            assert (verdict.started, verdict.retry_safe) == (Started.YES, True)
            assert verdict.sqlstate in STATES, (script, verdict)
            assert not terminator.is_written(mark)
            kinds[f"{script} {verdict.sqlstate}"] += 1
        terminator.await_answers(old, ended)
    figures = f"{kinds.total()} busy backends ended, all errors typed, {dict(kinds)}"
    show(figures, reconnect=terminator.reconnects)


def _begin(
    client: Client, dice: random.Random, mark: str, gates: Path
) -> tuple[str, str, Call, Path]:
    """Keep a worker busy, in one of three ways."""
    script = dice.choice(["busy_writing", "busy_reading", "busy_thinking"])
    params = {"mark": mark}
    gate = gates.with_name(f"gate{mark}")
    if script == "busy_thinking":
        gate.unlink(missing_ok=True)
        os.mkfifo(gate)
        params["gate"] = str(gate)
    return script, mark, client.submit(script, params), gate


def _verdict(call: Call) -> FalconError:
    with pytest.raises(FalconError) as caught:
        call.result()
    return caught.value

"""Cancels at random moments: one verdict each, true to what was done."""

from __future__ import annotations

import random
import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import psycopg
import pytest

from falconas.client.sync import Client
from falconas.errors import Cancelled, FalconError, Started
from tests.acceptance.stack import Stack, wait_for

WORKERS = 4
CLIENTS = 4
DEPTH = 2
LATEST = 0.02
SCRIPTS = ("toil", "ask", "write")

WITNESSES = """
import os
from contextlib import contextmanager

FILE = os.open(os.environ["FALCONAS_WITNESS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

@contextmanager
def witness(nonce):
    def say(event):
        os.write(FILE, f"{event} {nonce}\\n".encode())
    say("start")
    try:
        yield
    except BaseException:
        say("interrupt")
        raise
    say("end")
"""
TOIL = """
import _witnesses
from falconas import script

@script(access="read", idempotent=False)
def run(ctx, nonce: str, turns: int):
    with _witnesses.witness(nonce):
        for turn in range(turns):
            str(turn) * 3
    return nonce
"""
ASK = """
import _witnesses
from falconas import script

@script(access="read", idempotent=False)
def run(ctx, nonce: str, turns: int):
    with _witnesses.witness(nonce):
        ctx.db.execute("SELECT pg_sleep(%s)", [turns / 4e6])
        row = ctx.db.execute("SELECT %s::text", [nonce]).fetchone()
    return row[0]
"""
WRITE = """
import _witnesses

def run(ctx, nonce: str, turns: int):
    with _witnesses.witness(nonce):
        ctx.db.execute("INSERT INTO effects VALUES (%s)", [nonce])
        with ctx.db.transaction():
            ctx.db.execute("SELECT pg_sleep(%s)", [turns / 8e6])
        row = ctx.db.execute("SELECT nonce FROM effects WHERE nonce = %s", [nonce])
    return row.fetchone()[0]
"""


@dataclass
class Outcome:
    """One call: what was asked for, and what it came to."""

    script: str
    cancelled: bool
    error: FalconError | None
    value: Any
    took: float


@dataclass
class Storm:
    """Clients that call and cancel, and what they were told."""

    frontend: str
    goal: int
    seed: int
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    cancels: int = 0
    failures: list[BaseException] = field(default_factory=list)
    last_resorts: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self) -> None:
        threads = [
            threading.Thread(target=self._client, args=[number])
            for number in range(CLIENTS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self.failures:
            raise self.failures[0]

    def _client(self, number: int) -> None:
        dice = random.Random(self.seed * 100 + number)
        try:
            with Client(self.frontend) as client:
                turn = 0
                while self.cancels < self.goal and not self.failures:
                    turn += 1
                    self._round(client, dice, f"{number}-{turn}")
                with self.lock:
                    self.last_resorts += client.stats().get("last_resort", 0)
        except BaseException as failure:
            self.failures.append(failure)

    def _round(self, client: Client, dice: random.Random, name: str) -> None:
        """Submit a few, cancel about half of them, each at a moment of its own."""
        calls, moments = [], []
        began = monotonic()
        for place in range(DEPTH):
            script, nonce = dice.choice(SCRIPTS), f"{name}-{place}"
            turns = dice.randrange(1000, 100_000)
            call = client.submit(script, {"nonce": nonce, "turns": turns}, budget=20.0)
            doomed = dice.random() < 0.5
            calls.append((nonce, script, doomed, call))
            if doomed:
                moments.append((dice.random() * LATEST, call))
        for moment, call in sorted(moments, key=lambda pair: pair[0]):
            while monotonic() < began + moment:
                pass
            call.cancel()
        for nonce, script, doomed, call in calls:
            error, value = None, None
            try:
                value = call.result()
            except FalconError as failure:
                error = failure
            took = monotonic() - began
            with self.lock:
                assert nonce not in self.outcomes
                self.outcomes[nonce] = Outcome(script, doomed, error, value, took)
                self.cancels += doomed


def _read_witness(path: Path) -> dict[str, Counter[str]]:
    events: dict[str, Counter[str]] = {}
    for line in path.read_text().splitlines():
        event, nonce = line.split()
        events.setdefault(nonce, Counter())[event] += 1
    return events


def _check(storm: Storm, witness: Path, committed: Counter[str]) -> Counter[str]:
    events = _read_witness(witness)
    figures: Counter[str] = Counter()
    for nonce, outcome in storm.outcomes.items():
        seen, error = events.get(nonce, Counter()), outcome.error
        case = f"{nonce} {outcome} {dict(seen)}"
        assert seen["start"] <= 1, case
        assert seen["interrupt"] <= 1, case
        assert committed[nonce] <= 1, case
        if error is None:
            assert outcome.value == nonce, case
            assert seen == Counter(start=1, end=1), case
            assert committed[nonce] == (outcome.script == "write"), case
        else:
            assert isinstance(error, Cancelled), case
            assert outcome.cancelled, f"a neighbour was hit: {case}"
            assert committed[nonce] == 0, case
            assert error.started is not Started.UNKNOWN, case
            assert error.started is Started.YES or not seen, case
        verdict = "ok" if error is None else f"cancelled_{error.started}"
        figures[verdict if outcome.cancelled else f"neighbour_{verdict}"] += 1
        figures["interrupts"] += seen["interrupt"]
    return figures


@pytest.mark.parametrize(
    "cancels",
    [
        pytest.param(1000, id="full"),
        pytest.param(20_000, id="long", marks=pytest.mark.campaign),
    ],
)
def test_every_request_gets_one_true_verdict_while_others_are_cancelled(
    tmp_path: Path, database: str, cancels: int
) -> None:
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    sources = {"_witnesses": WITNESSES, "toil": TOIL, "ask": ASK, "write": WRITE}
    for name, text in sources.items():
        (scripts / f"{name}.py").write_text(text)
    with psycopg.connect(database) as connection:
        connection.execute("CREATE TABLE effects (nonce text)")
    witness = tmp_path / "witness"
    witness.touch()
    seed = random.randrange(10_000)
    print(f"\nseed {seed}")
    with Stack(tmp_path, database, scripts, FALCONAS_WITNESS=str(witness)) as stack:
        stack.start_broker()
        stack.start_workers(WORKERS)
        pids = {worker["pid"] for worker in stack.await_workers(WORKERS)}
        storm = Storm(stack.endpoints["frontend"], cancels, seed)
        began = monotonic()
        storm.run()
        took = monotonic() - began
        wait_for(lambda: _all_idle(stack), "idle workers")
        _all_serve(stack)
        kept = pids & {worker["pid"] for worker in stack.workers()}
        with psycopg.connect(database) as connection:
            rows = connection.execute("SELECT nonce FROM effects").fetchall()
    figures = _check(storm, witness, Counter(nonce for (nonce,) in rows))
    assert storm.last_resorts == 0
    assert figures["cancelled_yes"] > 0
    assert figures["cancelled_no"] > 0
    slowest = max(outcome.took for outcome in storm.outcomes.values())
    print(
        f"cancels {storm.cancels} in {took:.1f} s, workers kept {len(kept)} of"
        f" {WORKERS}, slowest verdict {slowest:.3f} s, {dict(figures)}"
    )
    assert len(kept) == WORKERS, "a worker was stuck"


def _all_idle(stack: Stack) -> bool:
    states = [worker["state"] for worker in stack.workers()]
    return states == ["idle"] * WORKERS


def _all_serve(stack: Stack) -> None:
    served = {worker["worker"]: worker["served"] for worker in stack.workers()}
    with stack.client() as client:
        for number in range(WORKERS):
            client.call("toil", {"nonce": f"at-the-end-{number}", "turns": 1})
    for worker in stack.workers():
        assert worker["served"] == served[worker["worker"]] + 1, "it does not serve"

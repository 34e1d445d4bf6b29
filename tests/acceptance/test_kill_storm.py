"""Workers die by kill -9 under load, and every guarantee holds."""

from __future__ import annotations

import random
from pathlib import Path
from time import monotonic

import pytest

from tests.acceptance.stack import Stack, kill
from tests.acceptance.storm import History, Load, make_scripts

WORKERS = 4
CLIENTS = 8


@pytest.mark.parametrize(
    ("kills", "in_script"),
    [
        pytest.param(6, 4, id="quick"),
        pytest.param(60, 40, id="full", marks=pytest.mark.campaign),
    ],
)
def test_every_request_gets_one_true_verdict_while_workers_are_killed(
    tmp_path: Path, tpch: str, kills: int, in_script: int
) -> None:
    witness = tmp_path / "witness"
    witness.touch()
    history = History(witness, tpch)
    seed = 20260 + kills
    dice = random.Random(seed)
    scripts = make_scripts(tmp_path)
    with Stack(tmp_path, tpch, scripts, FALCONAS_WITNESS=str(witness)) as stack:
        stack.start_broker()
        stack.start_workers(WORKERS)
        stack.await_workers(WORKERS)
        killed: list[tuple[int, float]] = []
        caught = 0
        with Load(history, stack.endpoints["frontend"], CLIENTS, seed) as load:
            while not load.stopping.is_set():
                if len(killed) >= kills and caught >= in_script:
                    break
                ready = stack.await_workers(WORKERS)
                load.await_calls(20)
                pid = _victim(witness, [w["pid"] for w in ready], dice)
                if kill(pid):
                    killed.append((pid, monotonic()))
                    caught = _caught(witness, {pid for pid, _ in killed})
            stack.await_workers(WORKERS)
        figures = history.check()
    assert figures["errors"] <= len(killed), "more errors than requests in hand"
    print(f"\nkills {len(killed)}, in mid-script {caught}, {dict(figures)}")


def _victim(witness: Path, pids: list[int], dice: random.Random) -> int:
    """Return a worker that is in a script right now, if one is seen in time."""
    if dice.random() < 0.2:
        return dice.choice(pids)
    for _ in range(200):
        running: dict[int, bool] = {}
        for line in witness.read_bytes()[-4000:].split(b"\n")[1:-1]:
            event, _nonce, pid, _script = line.split()
            running[int(pid)] = event == b"start"
        busy = [
            pid for pid, is_running in running.items() if is_running and pid in pids
        ]
        if busy:
            return dice.choice(busy)
    return dice.choice(pids)


def _caught(witness: Path, killed: set[int]) -> int:
    """Count the killed workers whose last line is a start without an end."""
    last: dict[int, str] = {}
    for line in witness.read_text().splitlines():
        event, _nonce, pid, _script = line.split()
        last[int(pid)] = event
    return sum(last.get(pid) == "start" for pid in killed)

"""What a worker costs in memory, and what forking it from a zygote saves.

PSS is a process's own pages and its share of those that it has in common with others
(`/proc/PID/smaps_rollup`). Both sides are eight workers that have served the same
requests: FalconAS' own, forked from one zygote; and the same program, each started as
an interpreter of its own that loads the same scripts. Beside PSS stands what is private
to each process: it is what one more worker costs.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.stack import ROOT, falconas, processes

WORKERS = 8
REQUESTS = 20

# What a worker has in its process: all scripts, a database connection, a ZeroMQ socket.
SPAWNED = """
import socket, sys
from pathlib import Path
import zmq
from falconas.database.session import Session
import falconas.worker.loop, falconas.worker.zygote
from falconas.protocol import Request
from falconas.worker.runner import Runner
from falconas.worker.slot import NoSlot
from falconas.worker.scripts import load
from falconas.codec import encode_params

library = load(Path(sys.argv[1]))
session = Session.connect(sys.argv[2])
runner = Runner(library, session, NoSlot())
dealer = zmq.Context().socket(zmq.DEALER)
dealer.connect(sys.argv[3])
from time import monotonic
for number in range(int(sys.argv[4])):
    request = Request(number.to_bytes(16, "big"), "echo", 30.0, {})
    outcome = runner.run(request, encode_params({"value": number}), monotonic() + 30)
    assert outcome.code == 0, outcome
    runner.reset()
print("ready", flush=True)
sys.stdin.read()
"""


def run(workers: int = WORKERS) -> list[dict[str, Any]]:
    """Measure both; return a row for each."""
    with (
        tempfile.TemporaryDirectory(prefix="falconas-") as name,
        falconas(Path(name), workers) as stack,
    ):
        with stack.client() as client:
            # Least recently used first: each worker gets its share.
            for number in range(REQUESTS * workers):
                client.call("echo", {"value": number})
        forked = _row("forked from the zygote", stack.ready())
        spawned = _spawned(stack.dsn, stack.endpoints["backend"], workers)
    ratio = {
        key: round(forked[key] / spawned[key], 2) if spawned[key] else None
        for key in forked
        if key not in ("workers", "count")
    }
    return [forked, spawned, {"workers": "ratio", "count": "", **ratio}]


def _spawned(dsn: str, endpoint: str, workers: int) -> dict[str, Any]:
    command = [sys.executable, "-c", SPAWNED, str(ROOT / "workers"), dsn]
    silent = f"{endpoint}-nobody"
    with processes() as started:
        for _ in range(workers):
            started.append(
                subprocess.Popen(
                    [*command, silent, str(REQUESTS)],
                    cwd=ROOT,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                )
            )
        for process in started:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
        row = _row("spawned", [process.pid for process in started])
        for process in started:
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                pipe.close()
    return row


def _row(name: str, pids: Iterable[int]) -> dict[str, Any]:
    figures = [_rollup(pid) for pid in pids]
    row: dict[str, Any] = {"workers": name, "count": len(figures)}
    for key, label in (("Pss", "pss_mb"), ("Private", "private_mb"), ("Rss", "rss_mb")):
        row[label] = round(statistics.mean(f[key] for f in figures) / 1024, 1)
    return row


def _rollup(pid: int) -> dict[str, int]:
    """Return kB by name."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = {
        k: int(v) for k, v in re.findall(r"^(\w+):\s+(\d+) kB", text, re.MULTILINE)
    }
    found["Private"] = found["Private_Clean"] + found["Private_Dirty"]
    return found

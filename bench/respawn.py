"""How long a killed worker's place is empty: from `kill -9` to READY at the broker.

One worker after the other is killed. The end is when the broker reports as many ready
workers as before, the killed one not among them; the supervisor's and the broker's own
clocks are not asked.
"""

from __future__ import annotations

import os
import signal
import tempfile
from math import ceil
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from bench.stack import falconas

KILLS = 100
WORKERS = 2
PAUSE = 0.002  # between two questions, which would take the processors otherwise


def run(kills: int = KILLS) -> list[float]:
    """Kill workers and return how many seconds each took to be replaced."""
    took = []
    with (
        tempfile.TemporaryDirectory(prefix="falconas-") as name,
        falconas(Path(name), WORKERS) as stack,
        stack.client() as client,
    ):
        for number in range(kills):
            for turn in range(WORKERS):  # one that had served is replaced at once
                client.call("echo", {"value": turn})
            pid = stack.ready()[number % WORKERS]
            began = monotonic()
            os.kill(pid, signal.SIGKILL)
            while len(set(stack.ready()) - {pid}) < WORKERS:
                sleep(PAUSE)
            took.append(monotonic() - began)
    return sorted(took)


def table(took: list[float]) -> list[dict[str, Any]]:
    """Return the figures in milliseconds."""
    count = len(took)
    return [
        {
            "kills": count,
            "p50_ms": round(took[count // 2] * 1e3, 1),
            "p99_ms": round(took[ceil(count * 0.99) - 1] * 1e3, 1),
            "max_ms": round(took[-1] * 1e3, 1),
        }
    ]

"""What a request costs: counted, not timed, so that it is always the same.

Of the broker what `bench.rehearsal` feeds is counted: header decoded, decided, encoded,
for a whole request: REQUEST in and out, REPLY in and out. Of a worker, its statements.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any
from unittest.mock import patch

from bench.rehearsal import HELD, Rehearsal, Scale
from tests.guard import statements
from tests.guard.opcodes import Opcodes

ROOT = Path(__file__).parents[2]
WARM = 200
STEPS = 100
BUILTIN = "builtin "
CYCLE = 2000  # steps; longer than the timers need to come round
BASE = Scale()
LONG = replace(BASE, waiting=2_000)  # more than fits into the workers' hands
# `direct`: a worker is idle whenever a request comes; `queued`: each one waits.
SCENARIOS = {"direct": BASE, "queued": LONG}
FEW = replace(BASE, outstanding=10)
GROWTH = {
    "workers": (BASE, replace(BASE, workers=1_000)),
    "clients": (replace(FEW, clients=10), replace(FEW, clients=2_000)),
    "held": (BASE, replace(BASE, held=5_000)),
    "waiting": (LONG, replace(BASE, waiting=8_000)),
    "scripts": (BASE, replace(BASE, scripts=2_000)),
}


@contextmanager
def around(
    rehearsal: Rehearsal, begin: Callable[[], None], end: Callable[[], None]
) -> Iterator[None]:
    """Surround what the broker does by something, but not what its peers do."""

    def surrounded(work: Callable[..., Any]) -> Callable[..., Any]:
        def surround(*message: Any) -> Any:
            begin()
            try:
                return work(*message)
            finally:
                end()

        return surround

    feed, tick = surrounded(rehearsal.feed), surrounded(rehearsal.tick)
    with patch.multiple(rehearsal, feed=feed, tick=tick):
        yield


def calls(rehearsal: Rehearsal, steps: int = STEPS) -> Counter[str]:
    """Count the calls of so many requests by function, Python's and built-in ones."""
    found: Counter[str] = Counter()

    def profile(frame: FrameType, event: str, what: Any) -> None:
        if event == "call":
            code = frame.f_code
            found[f"{Path(code.co_filename).stem}.{code.co_qualname}"] += 1
        elif event == "c_call" and what is not sys.setprofile:
            found[f"{BUILTIN}{what.__qualname__}"] += 1

    def begin() -> None:
        sys.setprofile(profile)

    def end() -> None:
        sys.setprofile(None)

    with around(rehearsal, begin, end):
        for _ in range(steps):
            rehearsal.step()
    del found[f"counts.{calls.__qualname__}.<locals>.{end.__name__}"]
    return found


def instructions(rehearsal: Rehearsal, steps: int = STEPS) -> int:
    """Count the bytecode instructions of so many requests."""
    opcodes = Opcodes()
    with around(rehearsal, opcodes.begin, opcodes.end):
        for _ in range(steps):
            rehearsal.step()
    return opcodes.count


def a_second(rehearsal: Rehearsal) -> int:
    """Count those of a second: of heartbeats, and of what the clock brings."""
    rehearsal.second()  # the first news of a node are more than the usual ones
    with patch.object(rehearsal, "step", rehearsal.second):
        return instructions(rehearsal, 1)


def news(rehearsal: Rehearsal) -> int:
    """Count those of news of workers that nothing of what waits has to move for."""
    rehearsal.news()
    with patch.object(rehearsal, "step", rehearsal.news):
        return instructions(rehearsal, 1)


def waiting_bytes(rehearsal: Rehearsal, count: int = 1000) -> int:
    """Return what the broker keeps of a request that waits; bodies are shared here."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(count):
            rehearsal.ask(HELD)
        return (tracemalloc.get_traced_memory()[0] - before) // count
    finally:
        tracemalloc.stop()


def blocks_grown(rehearsal: Rehearsal) -> int:
    """Return how many more blocks of memory a long run takes than the one before.

    Time passes, so that timers come round and each second's work is done.
    """
    marks = []
    for _ in range(3):
        most = 0
        for number in range(CYCLE):
            rehearsal.now += 0.01
            if number % 100 == 0:
                rehearsal.second()
            rehearsal.step()
            most = max(most, sys.getallocatedblocks())
        marks.append(most)
    return marks[2] - marks[1]


def warm(scale: Scale) -> Rehearsal:
    """Return a rehearsal in which each script has been asked for."""
    rehearsal = Rehearsal(scale)
    for _ in range(max(WARM, scale.scripts)):
        rehearsal.step()
    return rehearsal


def measure() -> dict[str, float]:
    """Return all counts by name."""
    found: dict[str, float] = {}
    for name, scale in SCENARIOS.items():
        rehearsal = warm(scale)
        by_function = calls(rehearsal)
        builtin = sum(n for f, n in by_function.items() if f.startswith(BUILTIN))
        found[f"{name}.calls"] = (by_function.total() - builtin) / STEPS
        found[f"{name}.builtin_calls"] = builtin / STEPS
        found[f"{name}.instructions"] = instructions(rehearsal) / STEPS
        found[f"{name}.blocks_grown"] = blocks_grown(rehearsal)
    found["waiting_bytes"] = waiting_bytes(warm(replace(BASE, held=100)))
    for name, scales in GROWTH.items():
        small, large = map(warm, scales)
        found[f"growth.{name}"] = _ratio(instructions, small, large)
        found[f"growth_of_a_second.{name}"] = _ratio(a_second, small, large)
    few, many = (Rehearsal(replace(FEW, held=held)) for held in (5, 5_000))
    found["growth_of_news.held"] = _ratio(news, few, many)
    return found | statements.measure()


def _ratio(
    count: Callable[[Rehearsal], int], small: Rehearsal, large: Rehearsal
) -> float:
    return round(count(large) / count(small), 3)


def measured() -> dict[str, float]:
    """Measure in a process of its own, in which nothing else traces or hashes."""
    environ = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.guard.counts"]
    done = subprocess.run(
        command, env=environ, cwd=ROOT, check=True, stdout=subprocess.PIPE
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    print(json.dumps(measure()))

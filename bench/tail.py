"""Does the tail pay for what is handed out ahead? A mix of short and long requests.

99 of 100 take 0.2 ms, the others 100 ms; nobody knows which before they run. They come
at random moments, at a rate that keeps the workers busy for the given part of the time,
whatever has been answered by then. Three brokers take turns, one hands short work out
ahead, two do not and so show the noise; all have four workers.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
from contextlib import ExitStack
from pathlib import Path
from time import monotonic
from typing import Any

from bench.stack import ROOT, Stack, postgres, served
from falconas import AsyncClient

WORKERS = 4
SHORT, LONG, LONG_SHARE = 0.0002, 0.1, 0.01
MEAN = LONG * LONG_SHARE + SHORT * (1 - LONG_SHARE) + 0.0002  # and what is around it
LOADS = (0.3, 0.5)
ROUNDS = 3
SECONDS = 5.0
AHEAD = {"4 ms ahead": "4ms", "nothing ahead": "0s", "nothing, again": "0s"}

Taken = list[tuple[bool, float]]


def run(rounds: int = ROUNDS) -> dict[tuple[float, str], Taken]:
    """Return for each load and each broker whether a request was long, and its time."""
    found: dict[tuple[float, str], Taken] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench")))
        server = stack.enter_context(postgres(folder / "postgres"))
        brokers: dict[str, Stack] = {}
        for number, (name, ahead) in enumerate(AHEAD.items()):
            endpoints = {
                k: f"ipc://{folder}/{k}{number}"
                for k in ("frontend", "backend", "control")
            }
            more = {
                "FALCONAS_BROKER__AHEAD": ahead,
                "FALCONAS_BROKER__CLIENT_REQUESTS": "10000",
            }
            scripts = ROOT / "bench/scripts"
            running = served(server.dsn(), endpoints, WORKERS, scripts, **more)
            brokers[name] = stack.enter_context(running)
        for number in range(rounds):
            for load in LOADS:
                for name, broker in brokers.items():
                    print(f"round {number + 1} of {rounds}: {load:.0%}, {name}")
                    calls = _calls(broker.endpoints["frontend"], load, number)
                    found.setdefault((load, name), []).extend(asyncio.run(calls))
    return found


async def _calls(endpoint: str, load: float, seed: int) -> Taken:
    dice, taken = random.Random(seed), []  # all brokers get the same

    async def call(client: AsyncClient, *, long: bool) -> None:
        began = monotonic()
        await client.call("mixed", {"seconds": LONG if long else SHORT})
        taken.append((long, monotonic() - began))

    async with AsyncClient(endpoint, outstanding=10_000) as client:
        for _ in range(100):
            await client.call("mixed", {"seconds": SHORT})
        async with asyncio.TaskGroup() as tasks:
            due = began = monotonic()
            while due < began + SECONDS:
                due += dice.expovariate(load * WORKERS / MEAN)
                await asyncio.sleep(max(0.0, due - monotonic()))
                tasks.create_task(call(client, long=dice.random() < LONG_SHARE))
    return taken


def table(found: dict[tuple[float, str], Taken]) -> list[dict[str, Any]]:
    """Return the quantiles of the short requests and of all, in milliseconds."""
    rows = []
    for (load, name), taken in found.items():
        row: dict[str, Any] = {"load": f"{load:.0%}", "broker": name}
        short = sorted(took for long, took in taken if not long)
        every = sorted(took for _, took in taken)
        row["requests"] = len(every)
        for label, times in (("short", short), ("all", every)):
            for q in (0.5, 0.99, 0.999):
                row[f"{label} p{q * 100:g}"] = round(
                    times[int(len(times) * q)] * 1e3, 2
                )
        rows.append(row)
    return rows

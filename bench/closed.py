"""Load from tasks of one event loop, each of which waits for its answer."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from time import monotonic
from typing import Any

from bench.job import Call, Job, Tally, say
from bench.pieces import ROWS
from bench.works import ECHOES, Mismatch, check, payload

Connect = Callable[[str, int, AsyncExitStack], Awaitable[list[Call]]]


def tasks(job: Job, connect: Connect) -> dict[str, Any]:
    """Call from tasks of one event loop, the fastest that there is."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_tasks(job, connect))


async def _tasks(job: Job, connect: Connect) -> dict[str, Any]:
    tally, keys, over = Tally(), random.Random(job.outstanding), False
    work, echo = job.work, job.work in ECHOES

    async def client(call: Call) -> None:
        while not over:
            key = keys.randrange(ROWS)
            begun = monotonic()
            value = await call(work, key)
            tally.add(begun, monotonic())
            if not echo:
                check(work, key, value)
            elif value != payload(work, key):
                raise Mismatch(f"echo gave {value[:50]!r}")

    async def pause(least: float, requests: int) -> None:
        """Wait until both have passed; many slow clients need longer."""
        requests += len(tally.took)
        await asyncio.sleep(least)
        # Looked at now and then: to be told of each request would cost more.
        while len(tally.took) < requests:  # noqa: ASYNC110
            await asyncio.sleep(0.02)

    async with AsyncExitStack() as stack:
        calls = await connect(job.endpoint, job.outstanding, stack)
        async with asyncio.TaskGroup() as group:
            for call in calls:
                group.create_task(client(call))
            await pause(job.warm, job.outstanding)
            begun = say("begin")
            await pause(job.seconds, 2 * job.outstanding)
            ended = say("end")
            over = True
    return tally.figures(begun, ended)

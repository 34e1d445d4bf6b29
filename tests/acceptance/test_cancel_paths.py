"""Each way in which a user gives up ends the work on the server."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from falconas import AsyncClient
from tests.acceptance.activity import Observer
from tests.acceptance.stack import COMMAND, PATIENCE, Stack, wait_for

WORKERS = 2
NAP = """
import os

def run(ctx, mark: str, seconds: float = 60.0):
    ctx.db.execute("SELECT pg_sleep(" + str(seconds) + ") /* " + mark + " */")
    open(os.environ["FALCONAS_WITNESS"], "a").write(mark + "\\n")
    return mark
"""
CALLER = """
import sys
from falconas.client.sync import Client

frontend, mark, seconds, given_up = sys.argv[1:]
options = {"cancel_on_disconnect": True} if given_up == "True" else {}
client = Client(frontend, **options)
client.call("nap", {"mark": mark, "seconds": float(seconds)}, budget=60.0)
"""


@pytest.fixture(scope="module")
def dsn(postgres: Any) -> Iterator[str]:
    yield postgres.create_database("cancel_paths")
    postgres.drop_database("cancel_paths")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, dsn: str) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("cancel_paths")
    scripts = folder / "scripts"
    scripts.mkdir()
    (scripts / "nap.py").write_text(NAP)
    witness = folder / "witness"
    witness.touch()
    with Stack(folder, dsn, scripts, FALCONAS_WITNESS=str(witness)) as stack:
        stack.start_broker()
        stack.start_workers(WORKERS)
        stack.await_workers(WORKERS)
        yield stack


@pytest.fixture
def observer(dsn: str) -> Iterator[Observer]:
    with Observer(dsn) as observer:
        yield observer


def _witnesses(stack: Stack) -> list[str]:
    return Path(stack.environ["FALCONAS_WITNESS"]).read_text().split()


def _all_idle(stack: Stack) -> bool:
    return [worker["state"] for worker in stack.workers()] == ["idle"] * WORKERS


def test_ctrl_c_of_a_call(stack: Stack, observer: Observer) -> None:
    caller = subprocess.Popen(
        [COMMAND, "call", "nap", "mark=ctrl-c"],
        env=stack.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    backend = observer.await_running("ctrl-c")

    caller.send_signal(signal.SIGINT)
    _, said = caller.communicate(timeout=PATIENCE)

    assert caller.returncode == 130, said
    assert "Traceback" not in said
    observer.last_seen("ctrl-c", backend)
    wait_for(lambda: _all_idle(stack), "idle workers")
    assert "ctrl-c" not in _witnesses(stack)


def test_a_cancelled_task(stack: Stack, observer: Observer) -> None:
    async def main() -> None:
        async with AsyncClient(stack.endpoints["frontend"]) as client:
            task = asyncio.create_task(client.call("nap", {"mark": "task"}))
            backend = await asyncio.to_thread(observer.await_running, "task")
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.to_thread(observer.last_seen, "task", backend)

    asyncio.run(main())
    wait_for(lambda: _all_idle(stack), "idle workers")
    assert "task" not in _witnesses(stack)


def test_a_closed_client(stack: Stack, observer: Observer) -> None:
    client = stack.client()
    client.submit("nap", {"mark": "closed"})
    backend = observer.await_running("closed")

    client.close()

    observer.last_seen("closed", backend)
    assert "closed" not in _witnesses(stack)


@pytest.mark.parametrize("given_up", [True, False])
def test_a_killed_client(stack: Stack, observer: Observer, given_up: bool) -> None:
    """With `cancel_on_disconnect` its work ends with it, otherwise it is finished."""
    mark = f"killed-{given_up}"
    seconds = "60" if given_up else "5"
    frontend = stack.endpoints["frontend"]
    caller = subprocess.Popen(
        [sys.executable, "-c", CALLER, frontend, mark, seconds, str(given_up)],
        env=dict(os.environ),
    )
    backend = observer.await_running(mark)

    caller.kill()
    caller.wait(PATIENCE)

    observer.last_seen(mark, backend)
    wait_for(lambda: _all_idle(stack), "idle workers")
    assert (mark in _witnesses(stack)) is not given_up

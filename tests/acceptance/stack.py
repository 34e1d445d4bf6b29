"""A broker and workers as the operator starts them: the installed command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep
from typing import Any, Self

from falconas.client.operator import Operator
from falconas.client.sync import Client
from falconas.errors import Unavailable

PATIENCE = 30.0
COMMAND = Path(sys.executable).with_name("falconas")


class Stack:
    """Processes of one test; leaving it ends them all, by pid."""

    def __init__(
        self,
        folder: Path,
        dsn: str,
        scripts: Path,
        *,
        endpoints: dict[str, str] | None = None,
        **environ: str,
    ) -> None:
        self.folder = folder
        self.endpoints = endpoints or {
            key: f"ipc://{folder}/{key}" for key in ("frontend", "backend", "control")
        }
        kept = {k: v for k, v in os.environ.items() if not k.startswith("FALCONAS_")}
        self.environ = {
            **kept,
            **{f"FALCONAS_BROKER__{k.upper()}": v for k, v in self.endpoints.items()},
            "FALCONAS_DATABASE__DSN": dsn,
            "FALCONAS_WORKER__SCRIPTS": str(scripts),
            **environ,
        }
        self.broker: subprocess.Popen[bytes] | None = None
        self.processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait(PATIENCE)

    def start(self, *arguments: str, **environ: str) -> subprocess.Popen[bytes]:
        """Start `falconas ARGUMENTS` with its log in the test's folder."""
        name = f"{len(self.processes)}-{arguments[0]}.log"
        with (self.folder / name).open("wb") as log:
            process = subprocess.Popen(
                [COMMAND, *arguments],
                env={**self.environ, **environ},
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.processes.append(process)
        return process

    def start_broker(self, **environ: str) -> subprocess.Popen[bytes]:
        self.broker = self.start("broker", **environ)
        return self.broker

    def start_workers(self, count: int, **environ: str) -> subprocess.Popen[bytes]:
        return self.start("worker", "--count", str(count), **environ)

    def client(self, **options: Any) -> Client:
        return Client(self.endpoints["frontend"], **options)

    def inspect(self) -> dict[str, Any]:
        return Operator(self.endpoints["control"]).inspect()

    def workers(self) -> list[dict[str, Any]]:
        workers: list[dict[str, Any]] = self.inspect()["workers"]
        return workers

    def await_workers(self, count: int) -> list[dict[str, Any]]:
        """Wait until `count` workers are ready and return them."""

        def ready() -> list[dict[str, Any]] | None:
            try:
                workers = self.workers()
            except Unavailable:
                return None
            able = [w for w in workers if w["state"] != "unready"]
            return able if len(able) == count else None

        try:
            able: list[dict[str, Any]] = wait_for(ready, f"{count} workers")
        except AssertionError as error:
            raise AssertionError(f"{error}, logs:\n{self.logs()}") from None
        return able

    def logs(self) -> str:
        return "".join(
            f"--- {path.name}\n{path.read_text(errors='replace')[-4000:]}"
            for path in sorted(self.folder.glob("*.log"))
        )


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    """Poll until the condition holds and return its value.

    The pauses are short beside the wait so far: looking costs those who are waited for.
    """
    began = now = monotonic()
    while now < began + PATIENCE:
        value = condition()
        if value:
            return value
        now = monotonic()
        sleep(min((now - began) / 20, 0.05))
    raise AssertionError(f"waited {PATIENCE} s for {what}")


def is_alive(pid: int) -> bool:
    """Tell whether a process runs; one that was not reaped yet does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def kill(pid: int, number: int = signal.SIGKILL) -> bool:
    """Send a signal; False if the process was gone already."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True

"""Puts a worker together, in the process that the zygote forked for it."""

from __future__ import annotations

import os
import signal
import socket
from functools import partial
from typing import TYPE_CHECKING, Any

from falconas.database.session import Session
from falconas.protocol import HEADER_LIMIT, Ready
from falconas.worker.control import Dealer
from falconas.worker.core import WorkerCore
from falconas.worker.forks import Forks
from falconas.worker.interrupt import Interrupts
from falconas.worker.loop import WorkerLoop
from falconas.worker.runner import Runner
from falconas.worker.upkeep import Upkeep

if TYPE_CHECKING:
    from falconas.config import Settings
    from falconas.settings import Database
    from falconas.worker.capture import Output
    from falconas.worker.scripts import Library
    from falconas.worker.slot import Slot

PARAMS_BYTES = 64 << 20  # at least; the broker decides what it lets through


def main(
    settings: Settings,
    library: Library,
    slot: Slot,
    *,
    worker: bytes,
    supervisor: bytes,
    place: int,
    output: Output | None = None,
) -> int:
    """Be the worker `worker` until SIGTERM; return the exit code."""
    host = socket.gethostname()
    name = f"{host}/{place}"
    node = settings.database.node
    facts = {"pid": os.getpid(), "host": host, "index": place, "name": name}
    group = settings.worker.group
    ready = Ready(worker, worker, supervisor, group, library.hash, node, facts)
    frame_bytes = max(PARAMS_BYTES, settings.broker.params_bytes, HEADER_LIMIT)

    interrupts, forks = Interrupts(slot.is_cancelled), Forks()
    forks.in_child(interrupts.stop)
    tools: dict[str, Any] = {"interrupts": interrupts, "forks": forks}
    limit = settings.broker.result_bytes

    def serve_on(session: Any) -> Runner:
        return Runner(library, session, slot, node=node, result_bytes=limit, **tools)

    loop = WorkerLoop(
        WorkerCore(ready, name),
        Dealer(settings.worker.backend, frame_bytes),
        slot,
        partial(connect, settings.database, f"falconas/{name}"),
        serve_on,
        Upkeep(slot, forks, output),
    )

    take_signals(loop, interrupts)
    loop.run()
    return 0


def connect(database: Database, application: str) -> Session:
    """Open the worker's connection."""
    return Session.connect(
        database.dsn, application_name=application, reset=database.reset
    )


def take_signals(loop: WorkerLoop, interrupts: Interrupts) -> None:
    """Let SIGTERM end the loop and SIGALRM a script."""
    interrupts.install()
    interrupts.shield(loop.stop)
    signal.signal(signal.SIGTERM, loop.stop)
    signal.set_wakeup_fd(loop.wakeup_fd, warn_on_full_buffer=False)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})

"""Puts a worker together, in the process that the zygote forked for it."""

from __future__ import annotations

import os
import signal
import socket
from functools import partial
from typing import TYPE_CHECKING

from falconas.database.inventory import groups_of, session_parameters
from falconas.database.session import Session
from falconas.protocol import HEADER_LIMIT, Ready
from falconas.worker.core import WorkerCore
from falconas.worker.dealer import Dealer
from falconas.worker.forks import Forks
from falconas.worker.interrupt import Interrupts
from falconas.worker.loop import WorkerLoop
from falconas.worker.runner import Runner
from falconas.worker.upkeep import Upkeep

if TYPE_CHECKING:
    from falconas.config import Settings
    from falconas.settings import Group
    from falconas.worker.capture import Output
    from falconas.worker.scripts import Library
    from falconas.worker.slot import Slot
    from falconas.worker.zygote import Spawn

PARAMS_BYTES = 64 << 20  # at least; the broker decides what it lets through


def main(
    settings: Settings,
    library: Library,
    slot: Slot,
    spawn: Spawn,
    *,
    supervisor: bytes,
    output: Output | None = None,
) -> int:
    """Be the worker that `spawn` says until SIGTERM; return the exit code."""
    group = groups_of(settings)[spawn.group]
    ready = introduction(spawn, supervisor, library.hash)
    name = str(ready.extras["name"])
    frame_bytes = max(PARAMS_BYTES, settings.broker.params_bytes, HEADER_LIMIT)

    interrupts, forks = Interrupts(slot.is_cancelled), Forks()
    forks.in_child(interrupts.stop)
    serve_on = partial(
        Runner,
        library,
        slot=slot,
        result_bytes=settings.broker.result_bytes,
        interrupts=interrupts,
        forks=forks,
        node=spawn.node,
        database=group.database,
        autocommit=group.autocommit,
    )

    loop = WorkerLoop(
        WorkerCore(ready, name),
        Dealer(settings.worker.backend, frame_bytes),
        slot,
        partial(connect, spawn.dsn, group, f"falconas/{name}", settings.database.reset),
        serve_on,
        Upkeep(slot, forks, output),
        interrupts.lend,
    )
    take_signals(loop, interrupts)
    loop.run()
    return 0


def introduction(spawn: Spawn, supervisor: bytes, manifest: str) -> Ready:
    """Say who this process is."""
    host, index, worker = socket.gethostname(), spawn.place, spawn.worker
    name = f"{host}/{index}"
    facts = {"pid": os.getpid(), "host": host, "index": index, "name": name}
    return Ready(worker, worker, supervisor, spawn.group, manifest, spawn.node, facts)


def connect(dsn: str, group: Group, application: str, reset: str) -> Session:
    """Open the worker's connection, with the session that its group asks for."""
    return Session.connect(
        dsn,
        application_name=application,
        settings=session_parameters(group),
        reset=reset,
    )


def take_signals(loop: WorkerLoop, interrupts: Interrupts) -> None:
    """Let SIGTERM end the loop and SIGALRM a script."""
    interrupts.install()
    interrupts.shield(loop.stop)
    signal.signal(signal.SIGTERM, loop.stop)
    signal.set_wakeup_fd(loop.wakeup_fd, warn_on_full_buffer=False)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})

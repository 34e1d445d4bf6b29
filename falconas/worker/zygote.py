"""The process that workers are forked from.

It has the scripts loaded and nothing else: no thread, no connection, no ZeroMQ
context, for none of these survives a fork. It forks twice, so that the worker's parent
is the supervisor, which reaps it; a worker lives on when its zygote ends.

Only messages travel between the two, over a socket pair; the configuration too, for
it may hold a password and arguments are public.
"""

from __future__ import annotations

import faulthandler
import gc
import logging
import os
import resource
import select
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from falconas import logs
from falconas.codec import encode_value
from falconas.config import Settings
from falconas.heap import keep_freed
from falconas.stderr import Stderr
from falconas.worker.capture import Output
from falconas.worker.channel import Channel, bind_life_to
from falconas.worker.slot import SlotTable

if TYPE_CHECKING:
    from typing import NoReturn

    from falconas.worker.scripts import Library

LOG_PATIENCE = 1.0  # seconds that a worker's line waits for a log reader

log = logging.getLogger(__name__)


class Boot(msgspec.Struct, tag=True, frozen=True):
    """Supervisor to zygote, first: what to be."""

    settings: Settings
    supervisor: bytes
    pid: int
    count: int
    outputs: list[int]


class Spawn(msgspec.Struct, tag=True, frozen=True):
    """Supervisor to zygote: fork a worker into the slot at `place`.

    Attributes:
        place: Which slot.
        worker: Its uuid.
        group: The group whose scripts it serves, in the sessions it asks for.
        node: The name of its node.
        dsn: How to connect to that.
    """

    place: int
    worker: bytes
    group: str
    node: str
    dsn: str


class Manifest(msgspec.Struct, tag=True, frozen=True):
    """Zygote to supervisor: what scripts there are, as the broker is to hear it."""

    hash: str
    body: bytes


class Failed(msgspec.Struct, tag=True, frozen=True):
    """Zygote to supervisor: it cannot load the scripts."""

    reason: str


class Spawned(msgspec.Struct, tag=True, frozen=True):
    """Worker to supervisor, over the zygote's channel: I am, and you reap me."""

    worker: bytes
    pid: int


Message = Boot | Spawn | Manifest | Failed | Spawned


class ZygoteProcess(NamedTuple):
    """What a zygote needs to fork workers."""

    channel: Channel[Message]
    boot: Boot
    loaded: Library
    slots: SlotTable


def main(channel_fd: int, slots_fd: int) -> int:
    """Load the scripts and fork workers until the supervisor is gone."""
    for fd in (channel_fd, slots_fd):
        os.set_inheritable(fd, False)
    # The supervisor decides when to end. A worker takes SIGTERM once it can.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    channel = Channel[Message](socket.socket(fileno=channel_fd), Message)
    boot = channel.receive()
    if not isinstance(boot, Boot) or not bind_life_to(boot.pid):
        return 1
    for fd in boot.outputs:
        os.set_inheritable(fd, False)
    logs.setup(boot.settings.log.level, boot.settings.log.format, Stderr())
    try:
        library = prepare(boot.settings)
    except ValueError as error:
        channel.send(Failed(str(error)))
        return 1
    channel.send(Manifest(library.hash, encode_value(library.manifest())))
    slots = SlotTable.attach(slots_fd, boot.count)
    gc.collect()
    gc.freeze()  # what is here is here to stay; untouched pages remain shared
    zygote = ZygoteProcess(channel, boot, library, slots)
    while (message := channel.receive()) is not None:
        assert isinstance(message, Spawn)
        fork_worker(zygote, message)
    return 0


def prepare(settings: Settings) -> Library:
    """Load the scripts, and all modules that a worker will need.

    Raises:
        ValueError: Workers could not be forked from here; one line says why.
    """
    # These pull in psycopg, which the supervisor does without.
    from falconas.database.inventory import groups_of, nodes_of, sources_of
    from falconas.worker import main as worker_main  # noqa: F401
    from falconas.worker.scripts import load

    nodes_of(settings)  # raises where a DSN is malformed, as does the next
    sources_of(settings)
    groups = settings.groups or groups_of(settings)  # also those of other hosts
    library = load(Path(settings.worker.scripts)).assign(groups)
    for name, error in library.errors.items():
        log.error("script %s does not load: %s", name, error)
    threads = count_threads()
    if threads > 1:
        raise ValueError(
            f"the scripts started {threads - 1} thread(s) while they were imported;"
            " threads do not survive the fork, start them in run()"
        )
    return library


def fork_worker(zygote: ZygoteProcess, spawn: Spawn) -> None:
    """Fork twice; the worker is its grandparent's once the process between ended."""
    assert count_threads() == 1
    between = os.fork()
    if between:
        os.waitpid(between, 0)
        return
    own = os.pidfd_open(os.getpid())
    if os.fork():
        os._exit(0)
    become_worker(zygote, spawn, own)


def become_worker(zygote: ZygoteProcess, spawn: Spawn, parent: int) -> NoReturn:
    """Wait for the supervisor to be the parent, make that known, and serve.

    Args:
        zygote: What this is forked from.
        spawn: Who to be.
        parent: A file descriptor of the process between, which is about to end.
    """
    code = 1
    try:
        os.setpgid(0, 0)
        select.select([parent], [], [])  # it has no children any more by then
        os.close(parent)
        if bind_life_to(zygote.boot.pid):
            zygote.slots.slot(spawn.place).clear(os.getpid())
            zygote.channel.send(Spawned(spawn.worker, os.getpid()))
            zygote.channel.close()
            code = serve(zygote, spawn)
    except OSError as error:
        log.error("a worker could not begin: %s", error)  # noqa: TRY400
    except BaseException:
        log.exception("a worker failed")
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):
                stream.flush()
        os._exit(code)  # threads that scripts left behind do not hold this up


def serve(zygote: ZygoteProcess, spawn: Spawn) -> int:
    """Be a worker."""
    from falconas.worker.main import main as work

    boot = zygote.boot
    limit_memory(boot.settings.worker.address_space)
    keep_freed()
    stderr = Stderr(patience=LOG_PATIENCE)
    facts = {"node": spawn.node, "index": spawn.place, "group": spawn.group}
    logs.setup(boot.settings.log.level, boot.settings.log.format, stderr, **facts)
    output = Output.install(boot.outputs[spawn.place])
    faulthandler.enable()  # what it says on crashing is in that file
    return work(
        boot.settings,
        zygote.loaded,
        zygote.slots.slot(spawn.place),
        spawn,
        supervisor=boot.supervisor,
        output=output,
    )


def limit_memory(address_space: int) -> None:
    """Have no core dumps, which hold what scripts held, and no more memory than that.

    Args:
        address_space: Bytes; 0: as much as there is.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if address_space:
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        soft = address_space if hard < 0 else min(address_space, hard)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def count_threads() -> int:
    """Return how many threads the kernel sees in this process."""
    return len(list(Path("/proc/self/task").iterdir()))


if __name__ == "__main__":
    # Messages must be of the classes that others import from here, not of __main__'s.
    from falconas.worker.zygote import main as imported_main

    sys.exit(imported_main(int(sys.argv[1]), int(sys.argv[2])))

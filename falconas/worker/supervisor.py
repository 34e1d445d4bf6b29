"""One host's supervisor: keeps a zygote and the workers alive, and tells the broker.

What to do is decided in `policy`; here it is done. The loop waits for signals (also
SIGCHLD), the zygote's channel and the broker at once, and never blocks elsewhere.
"""

from __future__ import annotations

import ctypes
import logging
import os
import random
import signal
import socket
import subprocess
import sys
import uuid
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING

from falconas.worker import zygote as messages
from falconas.worker.control import Control
from falconas.worker.policy import KillZygote, Policy, Signal, Spawn, StartZygote
from falconas.worker.slot import SlotTable
from falconas.worker.zygote import Boot, Channel, Failed, Manifest, Spawned

if TYPE_CHECKING:
    from types import FrameType

    from falconas.config import Settings
    from falconas.worker.policy import Action, Place

PR_SET_CHILD_SUBREAPER = 36
STOPS = (signal.SIGTERM, signal.SIGINT)
DONE, COULD_NOT_START, INTERRUPTED = 0, 3, 130

log = logging.getLogger(__name__)


def main(settings: Settings) -> int:
    """Serve until a signal says stop; return the exit code."""
    become_subreaper()
    try:
        supervisor = Supervisor(settings)
    except ValueError as error:
        log.error("%s", error)  # noqa: TRY400
        return COULD_NOT_START
    return supervisor.run()


def become_subreaper() -> None:
    """Become the parent of orphaned descendants, so that workers are ours to reap."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


class Supervisor:
    """The processes and sockets behind `Policy`; its process must be its own."""

    def __init__(self, settings: Settings) -> None:
        worker = settings.worker
        count = worker.count or os.cpu_count() or 1
        self._settings = settings
        self._uuid = uuid.uuid4().bytes
        self._policy = Policy(
            count,
            worker.boot_timeout,
            worker.drain_timeout,
            random.random,
            lambda: uuid.uuid4().bytes,
        )
        facts = {
            "pid": os.getpid(),
            "group": worker.group,
            "count": count,
            "node": settings.database.node,
        }
        host = socket.gethostname()
        self._control = Control(worker.control, self._uuid, host, facts)
        self._slots = SlotTable.create(count)
        self._zygote: subprocess.Popen[bytes] | None = None
        self._channel: Channel | None = None
        self._failure = ""
        self._manifest = bytearray()
        self._signals: list[int] = []
        self._code = DONE

    def run(self) -> int:
        """Serve until drained; return the exit code."""
        wakeup, waker = socket.socketpair()
        for end in (wakeup, waker):
            end.setblocking(False)
        before = [(s, signal.signal(s, self._note)) for s in (*STOPS, signal.SIGCHLD)]
        signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
        self._control.dealer.watch(wakeup.fileno())
        log.info("starting", extra={"workers": len(self._policy.places)})
        try:
            while not self._policy.drained and not self._policy.fatal:
                self._turn(wakeup)
        finally:
            self._end()
            signal.set_wakeup_fd(-1)
            for signum, handler in before:
                signal.signal(signum, handler)
            wakeup.close()
            waker.close()
        if self._policy.fatal:
            log.error("cannot start: %s", self._policy.fatal)
            return COULD_NOT_START
        log.info("stopped")
        return self._code

    def _turn(self, wakeup: socket.socket) -> None:
        due = min(self._policy.wake_at(), self._control.wake_at())
        ready = self._control.dealer.wait(due - monotonic())
        if wakeup.fileno() in ready:
            wakeup.recv(4096)
        now = monotonic()
        self._take_signals(now)
        while dead := find_dead():
            self._hear(now)  # what a process said before it died is all there by now
            self._reap(dead, now)
        self._hear(now)
        for action in self._policy.tick(now):
            self._perform(action)
        self._control.tend(self._policy.workers(), now)

    def _note(self, signum: int, _frame: FrameType | None) -> None:
        self._signals.append(signum)

    def _take_signals(self, now: float) -> None:
        signals, self._signals = self._signals, []
        for signum in signals:
            if signum in STOPS:
                log.info("stopping: %s", signal.Signals(signum).name)
                self._code = INTERRUPTED if signum == signal.SIGINT else self._code
                self._policy.drain(now)

    # Children

    def _reap(self, pid: int, now: float) -> None:
        place = self._policy.place(pid)
        if place is not None:
            kill_group(pid)  # before its id can be somebody else's
        _, status = os.waitpid(pid, 0)
        reason = describe(os.waitstatus_to_exitcode(status))
        if self._zygote is not None and pid == self._zygote.pid:
            self._zygote.returncode = os.waitstatus_to_exitcode(status)
            self._bury_zygote(reason, now)
        elif place is not None:
            self._bury_worker(place, reason, now)
        # Others are orphans of scripts, which only a parent can put to rest.

    def _bury_worker(self, place: Place, reason: str, now: float) -> None:
        last = self._slots.slot(place.index).read()
        if last.torn:
            reason += " while it wrote its slot"
        self._control.lost(place.worker, last.id, last.state.name, reason)
        facts = {"pid": place.pid, "index": place.index, "served": last.served}
        clean = self._policy.draining and reason == describe(0)
        level = logging.INFO if clean else logging.WARNING
        log.log(level, "worker %s in state %s", reason, last.state.name, extra=facts)
        self._policy.exited(place.pid, last.served, now)
        self._control.retain(self._policy.manifests())

    # The zygote

    def _hear(self, now: float) -> None:
        while self._channel is not None:
            try:
                message = self._channel.receive()
            except BlockingIOError:
                return
            if message is None:  # the zygote ended; it is about to be reaped
                self._control.dealer.unwatch(self._channel.fileno())
                return
            self._take(message, now)

    def _take(self, message: messages.Message, now: float) -> None:
        if isinstance(message, Manifest):
            self._manifest += message.part
            if not message.more:
                log.info("scripts loaded", extra={"manifest": message.hash})
                self._policy.manifest_loaded(message.hash, now)
                self._control.offer(message.hash, bytes(self._manifest))
        elif isinstance(message, Failed):
            self._failure = message.reason
        elif isinstance(message, Spawned):
            self._policy.spawned(message.worker, message.pid, now)

    def _start_zygote(self) -> None:
        self._channel, theirs = Channel.pair()
        fds = (theirs.fileno(), self._slots.fd)
        with theirs:
            self._zygote = subprocess.Popen(
                [sys.executable, "-P", "-m", messages.__name__, *map(str, fds)],
                stdin=subprocess.DEVNULL,
                pass_fds=fds,
                process_group=0,
            )
        self._manifest.clear()
        self._failure = ""
        count = len(self._policy.places)
        self._channel.send(Boot(self._settings, self._uuid, os.getpid(), count))
        self._control.dealer.watch(self._channel.fileno())

    def _bury_zygote(self, reason: str, now: float) -> None:
        assert self._channel is not None
        self._control.dealer.unwatch(self._channel.fileno())
        for message in self._channel.finish():
            self._take(message, now)
        self._zygote = self._channel = None
        why = self._failure or f"the zygote {reason}"
        self._policy.zygote_exited(why, now)
        if not self._policy.fatal:
            log.warning("the zygote is replaced: %s", why)

    # Deeds

    def _perform(self, action: Action) -> None:
        if isinstance(action, StartZygote):
            self._start_zygote()
        elif isinstance(action, Spawn):
            self._spawn(action)
        elif isinstance(action, Signal):
            if action.hard:
                kill_group(action.pid)
            else:
                os.kill(action.pid, signal.SIGTERM)
        elif isinstance(action, KillZygote) and self._zygote is not None:
            self._failure = self._failure or action.reason
            os.kill(self._zygote.pid, signal.SIGKILL)

    def _spawn(self, spawn: Spawn) -> None:
        assert self._channel is not None
        try:
            self._channel.send(messages.Spawn(spawn.place, spawn.worker))
        except OSError as error:
            # Unanswered it is tried again once the zygote has been replaced.
            log.warning("the zygote cannot be reached: %s", error)

    def _end(self) -> None:
        """End what is left, and leave nobody behind."""
        for place in self._policy.places:
            if place.pid:
                kill_group(place.pid)
        if self._zygote is not None:
            self._zygote.kill()
            self._zygote.wait()
        if self._channel is not None:
            self._channel.close()
        self._control.close()
        self._slots.close()


def find_dead() -> int:
    """Return a child that has ended and is not reaped yet, 0 if there is none."""
    try:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return 0
    return found.si_pid if found else 0


def kill_group(pid: int) -> None:
    """End a worker and what its scripts started."""
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def describe(code: int) -> str:
    """Say how a process ended."""
    if code < 0:
        return f"was killed by signal {-code} ({signal.strsignal(-code)})"
    return f"exited with code {code}"

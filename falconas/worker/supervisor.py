"""One host's supervisor: keeps a zygote and the workers alive, and tells the broker.

What to do is decided in `policy` and `watchdog`; here it is done. The loop waits for
signals (also SIGCHLD), the zygotes' channels and the broker at once, and never blocks
elsewhere.
"""

from __future__ import annotations

import ctypes
import logging
import os
import random
import signal
import socket
import uuid
from time import monotonic
from typing import TYPE_CHECKING

from falconas.messages import Cancel, Drain, Reload
from falconas.systemd import Notifier
from falconas.worker import capture
from falconas.worker.children import ZygoteChild, find_dead
from falconas.worker.control import Control
from falconas.worker.death import OutOfMemory, describe, explain
from falconas.worker.guard import Guard, kill_group, send
from falconas.worker.herald import Herald
from falconas.worker.nursery import AdoptZygote, KillZygote, StartZygote
from falconas.worker.policy import Policy, Retire, Signal, Spawn
from falconas.worker.reload import changes, refusal
from falconas.worker.slot import ID_BYTES, SlotTable
from falconas.worker.zygote import Boot, Manifest, Spawned

if TYPE_CHECKING:
    from types import FrameType

    from falconas.config import Settings
    from falconas.worker.control import Order
    from falconas.worker.places import Place
    from falconas.worker.policy import Action
    from falconas.worker.zygote import Message

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
        self._policy = Policy(worker, count, random.random, lambda: uuid.uuid4().bytes)
        facts = {
            "pid": os.getpid(),
            "group": worker.group,
            "count": count,
            "node": settings.database.node,
        }
        host = socket.gethostname()
        self._control = Control(worker.control, self._uuid, host, facts)
        places = len(self._policy.places)
        self._slots = SlotTable.create(places)
        self._outputs = capture.make(places)
        self._guard = Guard(self._slots, places, worker.boot_timeout)
        self._memory = OutOfMemory()
        self._zygotes: dict[int, ZygoteChild] = {}  # by number
        self._adopted: ZygoteChild | None = None
        self._herald = Herald(self._control, Notifier())
        self._signals: list[int] = []
        self._code = DONE

    def run(self) -> int:
        """Serve until drained; return the exit code."""
        wakeup, waker = socket.socketpair()
        for end in (wakeup, waker):
            end.setblocking(False)
        heard = (*STOPS, signal.SIGHUP, signal.SIGCHLD)
        before = [(signum, signal.signal(signum, self._note)) for signum in heard]
        signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
        self._control.dealer.watch(wakeup.fileno())
        log.info("starting", extra={"workers": self._policy.places.count})
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
        parts = (self._policy, self._control, self._guard, self._herald)
        due = min(part.wake_at() for part in parts)
        ready = self._control.dealer.wait(due - monotonic())
        if wakeup.fileno() in ready:
            wakeup.recv(4096)
        now = monotonic()
        self._take_signals(now)
        while dead := find_dead():
            self._hear(now)  # what a process said before it died is all there by now
            self._reap(dead, now)
        self._hear(now)
        slots = self._guard.scan(now)
        if slots is not None:
            self._policy.observe(slots, now)
            self._trim()
        for action in self._policy.tick(now):
            self._perform(action)
        self._herald.tell(self._policy, now)
        for order in self._control.tend(self._policy.workers(), now):
            self._obey(order, now)

    # Orders

    def _note(self, signum: int, _frame: FrameType | None) -> None:
        self._signals.append(signum)

    def _take_signals(self, now: float) -> None:
        signals, self._signals = self._signals, []
        for signum in signals:
            if signum in STOPS:
                again = " again: at once" if self._policy.draining else ""
                log.info("stopping: %s%s", signal.Signals(signum).name, again)
                self._code = INTERRUPTED if signum == signal.SIGINT else self._code
                self._policy.drain(now)
            elif signum == signal.SIGHUP:
                self._policy.reload(uuid.uuid4().bytes)

    def _obey(self, order: Order, now: float) -> None:
        id_ = order.id if isinstance(order.id, bytes) else order.id.encode()
        if isinstance(order, Reload):
            self._policy.reload(id_)
        elif isinstance(order, Drain) and not self._policy.draining:
            log.info("stopping: the broker says so")
            self._policy.drain(now)
        elif isinstance(order, Cancel) and len(id_) == ID_BYTES:
            worker = order.extras.get("worker")
            for place in self._policy.places:
                if place.pid and place.worker == worker:
                    self._guard.cancel(place.index, id_, now)

    # Children

    def _reap(self, pid: int, now: float) -> None:
        place = self._policy.places.of(pid)
        if place is not None:
            kill_group(pid)  # before its id can be somebody else's
        _, status = os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(status)
        for zygote in self._zygotes.values():
            if zygote.pid == pid:
                self._bury_zygote(zygote, code, now)
                return
        if place is not None:
            self._bury_worker(place, code, now)
        # Others are orphans of scripts, which only a parent can put to rest.

    def _bury_worker(self, place: Place, code: int, now: float) -> None:
        last, kill, blame = self._guard.end(place.index, now)
        reason, extras = explain(code, last, kill, blame, self._memory)
        if last.pid == place.pid:  # else nobody knows what it had started
            self._control.lost(place.worker, last.id, last.state.name, reason, extras)
        facts: dict[str, object] = {"pid": place.pid, "index": place.index}
        clean = code == 0 and (self._policy.draining or place.retiring)
        level = logging.INFO if clean else logging.WARNING
        facts["dispatch"] = last.id.hex()
        text = "worker %s; it was in state %s"
        log.log(level, text, reason, last.state.name, extra=facts)
        if rest := capture.rest(self._outputs[place.index]).strip():
            log.warning("it left: %s", rest, extra=facts)
        murdered = code == -signal.SIGKILL and kill is None
        self._policy.exited(place.pid, last, now, reason=reason, murdered=murdered)
        self._control.retain(self._policy.manifests())

    def _bury_zygote(self, zygote: ZygoteChild, code: int, now: float) -> None:
        self._control.dealer.unwatch(zygote.fileno())
        for message in zygote.reaped(code):
            self._take(zygote, message, now)
        del self._zygotes[zygote.number]
        why = zygote.failure or f"the zygote {describe(code)}"
        needed = zygote.number == self._policy.nursery.current
        self._policy.zygote_exited(zygote.number, why, now)
        if needed and not self._policy.fatal and not self._policy.draining:
            log.warning("the zygote is replaced: %s", why)

    def _trim(self) -> None:
        for index, fd in enumerate(self._outputs):
            if lost := capture.trim(fd):
                facts = {"index": index, "bytes": lost}
                log.warning("output of a running request was cut off", extra=facts)

    # Zygotes

    def _hear(self, now: float) -> None:
        for zygote in list(self._zygotes.values()):
            messages, more = zygote.hear()
            if not more:  # it is about to be reaped
                self._control.dealer.unwatch(zygote.fileno())
            for message in messages:
                self._take(zygote, message, now)

    def _take(self, zygote: ZygoteChild, message: Message, now: float) -> None:
        if isinstance(message, Manifest):
            log.info("scripts loaded", extra={"manifest": zygote.hash})
            before = self._adopted.manifest if self._adopted is not None else None
            strict = self._settings.worker.strict
            objection = refusal(before, zygote.manifest, strict=strict)
            self._policy.loaded(zygote.number, zygote.hash, objection, now)
        elif isinstance(message, Spawned):
            place = self._policy.spawned(message.worker, message.pid, now)
            if place is not None:
                self._guard.begin(place.index, message.pid, now)

    def _start_zygote(self, number: int) -> None:
        boot = Boot(
            self._settings,
            self._uuid,
            os.getpid(),
            len(self._policy.places),
            self._outputs,
        )
        zygote = self._zygotes[number] = ZygoteChild(number, boot, self._slots.fd)
        self._control.dealer.watch(zygote.fileno())

    def _adopt(self, zygote: ZygoteChild, *, fresh: bool) -> None:
        before, self._adopted = self._adopted, zygote
        self._control.offer(zygote.hash, zygote.body, fresh=fresh)
        if before is not None and (fresh or before.hash != zygote.hash):
            what = changes(before.manifest, zygote.manifest)
            log.info("reloaded: manifest %s -> %s, %s", before.hash, zygote.hash, what)

    # Deeds

    def _perform(self, action: Action) -> None:
        if isinstance(action, StartZygote):
            self._start_zygote(action.number)
        elif isinstance(action, AdoptZygote):
            self._adopt(self._zygotes[action.number], fresh=action.fresh)
        elif isinstance(action, KillZygote) and action.number in self._zygotes:
            self._zygotes[action.number].kill(action.reason)
        elif isinstance(action, Spawn):
            self._spawn(action)
        elif isinstance(action, Retire):
            log.info("worker is replaced: %s", action.reason, extra={"pid": action.pid})
            send(action.pid, signal.SIGTERM)
        elif isinstance(action, Signal) and action.hard:
            self._guard.kill(action.pid, "it was told to finish and has not")
        elif isinstance(action, Signal):
            send(action.pid, signal.SIGTERM)

    def _spawn(self, spawn: Spawn) -> None:
        try:
            zygote = self._zygotes[self._policy.nursery.forks]
            zygote.spawn(spawn.place, spawn.worker)
        except OSError as error:
            # Unanswered it is tried again once the zygote has been replaced.
            log.warning("the zygote cannot be reached: %s", error)

    def _end(self) -> None:
        """End what is left, and leave nobody behind."""
        for place in self._policy.places:
            if place.pid:
                kill_group(place.pid)
        for zygote in self._zygotes.values():
            zygote.close()
        self._control.close()
        self._slots.close()
        for fd in self._outputs:
            os.close(fd)

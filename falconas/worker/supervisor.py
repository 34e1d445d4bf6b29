"""One host's supervisor: keeps a zygote and the workers alive, and tells the broker.

What to do is decided in `policy` and `watchdog`; here it is done. The loop waits for
signals (also SIGCHLD), the channels of zygotes and probe and the broker at once, and
never blocks elsewhere.
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

from falconas.database.inventory import chosen, groups_of, only_node
from falconas.messages import Cancel, Drain, Reload
from falconas.systemd import Notifier
from falconas.worker import capture, zygote
from falconas.worker.children import Zygotes, find_dead
from falconas.worker.control import Control
from falconas.worker.death import OutOfMemory, describe, explain, state_of
from falconas.worker.grouping import groups_to_place, write_share
from falconas.worker.guard import Guard, kill_group, send
from falconas.worker.herald import Herald
from falconas.worker.nursery import AdoptZygote, KillZygote, StartZygote
from falconas.worker.outlook import Outlook
from falconas.worker.policy import Leave, Policy, Retire, Spawn
from falconas.worker.reload import changes, refusal
from falconas.worker.roster import Roster
from falconas.worker.slot import ID_BYTES, SlotTable
from falconas.worker.zygote import Boot, Manifest, Spawned

if TYPE_CHECKING:
    from types import FrameType

    from falconas.config import Settings
    from falconas.database.nodes import Change
    from falconas.worker.children import ZygoteChild
    from falconas.worker.control import Order
    from falconas.worker.places import Place
    from falconas.worker.policy import Action

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


def facts_of(place: Place | None) -> dict[str, object]:
    """Say in a line of the log who it is about."""
    if place is None:
        return {}
    return {
        "pid": place.pid,
        "index": place.index,
        "node": place.node,
        "group": place.group,
    }


class Supervisor:
    """The processes and sockets behind `Policy`; its process must be its own."""

    def __init__(self, settings: Settings) -> None:
        worker = settings.worker
        self._settings = settings
        self._groups = groups_of(settings)
        places = groups_to_place(settings)
        self._uuid = uuid.uuid4().bytes
        sizes = {name: group.size for name, group in self._groups.items()}
        facts = {"pid": os.getpid(), "count": sum(sizes.values()), "groups": sizes}
        host = socket.gethostname()
        self._control = Control(worker.control, self._uuid, host, facts)
        dealer = self._control.dealer
        self._outlook = Outlook(settings, dealer)
        roster = Roster(
            places, self._outlook.nodes, discovers=only_node(settings) is None
        )
        self._policy = Policy(worker, roster, random.random, lambda: uuid.uuid4().bytes)
        count = len(self._policy.places)
        self._slots = SlotTable.create(count)
        self._outputs = capture.make(count)
        self._guard = Guard(self._slots, count, worker.boot_timeout)
        self._memory = OutOfMemory()
        boot = Boot(settings, self._uuid, os.getpid(), count, self._outputs)
        self._zygotes = Zygotes(boot, self._slots.fd, dealer)
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
        parts = (self._policy, self._control, self._guard, self._herald, self._outlook)
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
        actions = self._policy.tick(now)
        for note in self._policy.roster.take_notes():  # what is the cause of some
            log.log(logging.WARNING if note.alarm else logging.INFO, "%s", note.text)
        for action in actions:
            self._perform(action)
        self._outlook.tend(now)
        self._herald.tell(self._policy, now)
        for order in self._control.tend(now):
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
        child = self._zygotes.of(pid)
        if child is not None:
            self._bury_zygote(child, code, now)
        elif place is not None:
            self._bury_worker(place, code, now)
        else:
            # Others are orphans of scripts, which only a parent can put to rest.
            self._outlook.reaped(pid, code, now)

    def _bury_worker(self, place: Place, code: int, now: float) -> None:
        last, kill, blame = self._guard.end(place.index, now)
        node = self._outlook.on(place.node)
        reason, extras = explain(code, last, kill, blame, self._memory, node)
        if last.pid == place.pid:  # else nobody knows what it had started
            group = self._groups.get(place.group)
            state = state_of(last, autocommit=group is not None and group.autocommit)
            self._control.lost(place.worker, last.id, state, reason, extras)
        facts = facts_of(place)
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

    def _bury_zygote(self, child: ZygoteChild, code: int, now: float) -> None:
        for message in self._zygotes.bury(child, code):
            self._take(child, message, now)
        why = child.failure or f"the zygote {describe(code)}"
        needed = child.number == self._policy.nursery.current
        self._policy.zygote_exited(child.number, why, now)
        if needed and not self._policy.fatal and not self._policy.draining:
            log.warning("the zygote is replaced: %s", why)

    def _trim(self) -> None:
        for index, fd in enumerate(self._outputs):
            if lost := capture.trim(fd):
                facts = {"index": index, "bytes": lost}
                log.warning("output of a running request was cut off", extra=facts)

    # What children say

    def _hear(self, now: float) -> None:
        for child, message in self._zygotes.hear():
            self._take(child, message, now)
        for change in self._outlook.hear(now):
            self._regroup(change)

    def _take(self, child: ZygoteChild, message: zygote.Message, now: float) -> None:
        if isinstance(message, Manifest):
            log.info("scripts loaded", extra={"manifest": child.hash})
            before = self._adopted.manifest if self._adopted is not None else None
            manifest = child.manifest
            objection = refusal(before, manifest, strict=self._settings.worker.strict)
            if not objection:
                for name, group in self._groups.items():
                    share = write_share(manifest, name, group)
                    self._policy.roster.writes(name, share)
            self._policy.loaded(child.number, child.hash, objection, now)
        elif isinstance(message, Spawned):
            place = self._policy.spawned(message.worker, message.pid, now)
            if place is not None:
                self._guard.begin(place.index, message.pid, now)

    def _regroup(self, change: Change) -> None:
        """Let the groups use the nodes that there are now."""
        nodes = list(self._outlook.nodes)
        for name, group in self._groups.items():
            self._policy.roster.choose(name, chosen(group, nodes))
        for place in self._policy.places:
            if place.worker and place.node in change.gone and place.node in change.come:
                place.worn = place.worn or f"{place.node} is another server now"

    def _adopt(self, child: ZygoteChild, *, fresh: bool) -> None:
        before, self._adopted = self._adopted, child
        self._control.offer(child.hash, child.body, fresh=fresh)
        self._herald.serves(child.manifest)
        if before is not None and (fresh or before.hash != child.hash):
            what = changes(before.manifest, child.manifest)
            log.info("reloaded: manifest %s -> %s, %s", before.hash, child.hash, what)

    # Deeds

    def _perform(self, action: Action) -> None:
        if isinstance(action, StartZygote):
            if why := self._zygotes.start(action.number):
                self._policy.zygote_exited(action.number, why, monotonic())
        elif isinstance(action, AdoptZygote):
            self._adopt(self._zygotes[action.number], fresh=action.fresh)
        elif isinstance(action, KillZygote):
            self._zygotes.kill(action.number, action.reason)
        elif isinstance(action, Spawn):
            self._spawn(action)
        elif isinstance(action, Retire):
            facts = facts_of(self._policy.places.of(action.pid))
            log.info("worker is replaced: %s", action.reason, extra=facts)
            send(action.pid, signal.SIGTERM)
        elif isinstance(action, Leave):
            self._dismiss(action)
        elif action.hard:
            self._guard.kill(action.pid, "it was told to finish and has not")
        else:
            send(action.pid, signal.SIGTERM)

    def _spawn(self, spawn: Spawn) -> None:
        place, worker, group, node = spawn
        dsn = self._outlook.nodes.state(node).node.dsn
        try:
            parent = self._zygotes[self._policy.nursery.forks]
            parent.spawn(zygote.Spawn(place, worker, group, node, dsn))
        except OSError as error:
            # Unanswered it is tried again once the zygote has been replaced.
            log.warning("the zygote cannot be reached: %s", error)

    def _dismiss(self, leave: Leave) -> None:
        """Have a worker leave its node; one that waits for a black hole cannot."""
        place = self._policy.places.of(leave.pid)
        assert place is not None
        nodes = " or ".join(sorted({*self._policy.awaited(place.group)}))
        text = (
            f"{leave.reason}; its successor goes to {nodes}" if nodes else leave.reason
        )
        log.info("worker leaves: %s", text, extra=facts_of(place))
        if leave.hard:
            self._guard.kill(leave.pid, f"its node {place.node} does not answer")
        else:
            send(leave.pid, signal.SIGTERM)

    def _end(self) -> None:
        """End what is left, and leave nobody behind."""
        for place in self._policy.places:
            if place.pid:
                kill_group(place.pid)
        self._zygotes.close()
        self._outlook.close()
        self._control.close()
        self._slots.close()
        for fd in self._outputs:
            os.close(fd)

"""A worker process: one thread that polls broker, connection news and database.

What to say is decided in `core`, how a script runs in `runner`; here messages are
moved, and a database connection that dies is replaced before a request meets it.
"""

from __future__ import annotations

import logging
import os
import random
import socket
from itertools import chain
from time import monotonic
from typing import TYPE_CHECKING, Any

from falconas.database.session import ConnectFailed, InvalidDsn
from falconas.protocol import Cancel, Reply, Request, Welcome
from falconas.worker.backoff import Backoff
from falconas.worker.control import Watch
from falconas.worker.core import WorkerCore
from falconas.worker.dealer import DRAIN_LINGER, Dealer
from falconas.worker.interrupt import has_room
from falconas.worker.slot import Slot
from falconas.worker.snapshot import IDLE

if TYPE_CHECKING:
    from collections.abc import Callable

    from falconas.worker.core import Work
    from falconas.worker.serving import Connection, Keeping, Serving

REASON_LENGTH = 200
STEADY, SIGN_OF_LIFE = 1.0, 5.0
# So often a busy worker looks at all else. To connect again takes longer, see
# RECONNECT_IVL: no broker is new in between. And so often it reads, with work in hand.
LISTEN, READ = 0.05, 0.001
# After so long a script gives back what waits behind it, and what comes late later on.
LONG, AGAIN = 0.01, 0.05
ROOM, WAIT = 60, 1e-4  # calls; and what was a wait, in seconds

log = logging.getLogger(__name__)

_ACCEPTED: frozenset[type[Any]] = frozenset({Welcome, Request, Cancel, Reply})


class WorkerLoop:
    """Moves messages between broker, core and runner.

    Args:
        core: What to say.
        dealer: The connection to the broker.
        slot: What the supervisor reads when this process is dead.
        connect: Opens a database connection or raises `ConnectFailed`.
        serve_on: Returns the runner for a connection.
        upkeep: Clears away what scripts leave in the process.
        lend: Has something done while the next script runs, if it still does by then.
    """

    def __init__(
        self,
        core: WorkerCore,
        dealer: Dealer,
        slot: Slot,
        connect: Callable[[], Connection],
        serve_on: Callable[[Connection], Serving],
        upkeep: Keeping,
        lend: Callable[[float, Callable[[], object]], None] = lambda *_: None,
    ) -> None:
        self._core = core
        self._dealer = dealer
        self._watch = Watch(dealer.endpoint, "backend")
        self._slot = slot
        self._connect = connect
        self._serve_on = serve_on
        self._upkeep = upkeep
        self._lend = lend
        self._connection: Connection | None = None
        self._runner: Serving | None = None
        self._watched = -1
        self._backoff = Backoff(0.05, 5.0, random.random)
        self._connect_at = 0.0
        self._listen_at = self._read_at = 0.0
        self._pause = AGAIN
        self._put_off: list[tuple[Any, bytes]] = []
        self._connected_at = 0.0
        self._trouble = ""
        self._result_bytes = 0
        self._stopping = False
        self._parent = os.getppid()
        self._wakeup, self._waker = socket.socketpair()
        for end in (self._wakeup, self._waker):
            end.setblocking(False)
        dealer.watch(self._wakeup.fileno())

    @property
    def wakeup_fd(self) -> int:
        """Return what a signal writes to, so that `run` looks at it."""
        return self._waker.fileno()

    def stop(self, *_: object) -> None:
        """Finish the running request, give back the others, and end `run`.

        As a signal's handler it runs in the middle of scripts and never raises.
        """
        self._stopping = True
        try:
            self._waker.send(b"\0")
        except OSError:  # full: then there is enough to wake up for
            return

    def run(self) -> None:
        """Serve until told to stop."""
        try:
            self._tend_connection(monotonic())  # READY says whether it is there
            self._slot.enter(IDLE)
            while not self._core.drained:
                self._turn()
        finally:
            if self._connection is not None:
                self._connection.close()
            self._dealer.close(DRAIN_LINGER)
            self._wakeup.close()
            self._waker.close()

    def _turn(self) -> None:
        now = monotonic()
        ready = self._dealer.wait(self._wake_at() - now)
        waited = monotonic() - now > WAIT  # else more may have come meanwhile
        if self._connection is None or not self._connection.resetting:
            self._slot.enter(IDLE)
        if self._wakeup.fileno() in ready:
            self._wakeup.recv(4096)
        # Before any request meets it: an idle connection is readable when it is dead.
        if self._watched in ready:
            self._check_connection()
        if self._dealer.monitor in ready or monotonic() >= self._listen_at:
            self._listen()
        else:
            self._receive(until_work=waited)
        self._work()
        self._upkeep.measure()
        if os.getppid() != self._parent:  # the kernel was to see to that
            self._stopping = True
        if self._stopping:
            self._core.drain(now)
        else:
            self._tend_connection(now)
        self._core.tick(now)
        self._flush()
        if not self._core.welcomed:
            self._watch.missing(now)

    def _work(self) -> None:
        """Serve what is in hand, until it is time to look at all else."""
        while monotonic() < self._listen_at:
            self._finish_reset()
            work = self._core.take_work(monotonic())
            if work is None:
                return
            self._serve(work)
            if not self._core.has_work or monotonic() >= self._read_at:
                self._receive()

    def _finish_reset(self) -> None:
        """Wait for the end of a reset, if something is to be done after it."""
        here = self._connection
        if here is None or not here.resetting or not self._core.has_work:
            return
        assert self._runner is not None
        if not self._runner.finish_reset():
            self._drop_connection("it could not be reset", monotonic(), planned=True)

    def _wake_at(self) -> float:
        if self._core.has_work:
            return 0.0
        due = min(self._core.wake_at(), self._watch.wake_at())
        if self._connection is None:
            due = min(due, self._connect_at)
        return min(due, monotonic() + SIGN_OF_LIFE)

    # The broker

    def _receive(self, *, until_work: bool = False) -> None:
        """Take in what the broker says, perhaps only up to a request to start.

        To find that there is nothing behind it takes longer than to read it.
        """
        self._read_at = monotonic() + READ
        put_off, self._put_off = self._put_off, []
        for message, body in chain(put_off, self._dealer.messages(_ACCEPTED)):
            now = monotonic()
            if type(message) is Request:
                self._core.request(message, body, now)
                if until_work and self._core.has_work:
                    return
            elif type(message) is Cancel:
                self._core.cancel(message, now)
            elif type(message) is Reply:
                self._watch.refused(message, body)
            else:
                self._core.welcome(message, now)
                self._limit(message)
                self._greeted()

    def _listen(self) -> None:
        """Take in news of the connection as well, but after what came before them.

        They are read first, so that nothing of the old connection is still unread when
        a READY says what this worker holds.
        """
        news = self._dealer.take_news()
        self._receive()
        for connected in news:
            if connected:
                self._core.connected(monotonic())
            else:
                self._core.disconnected(monotonic())
        self._flush()
        self._listen_at = monotonic() + LISTEN

    def _relent(self) -> None:
        """Give back what waits behind a script; called in the middle of it.

        It may use all that this uses but for what is only ours: so nothing is logged
        here, and what is no request waits. Near the end of its stack it is left alone.
        """
        if has_room(ROOM):
            for message, body in self._dealer.messages(_ACCEPTED):
                if type(message) is Request:
                    self._core.request(message, body, monotonic())
                else:
                    self._put_off.append((message, body))
            self._core.relent(monotonic())
            self._flush()
        self._lend(monotonic() + self._pause, self._relent)
        self._pause *= 2

    def _flush(self) -> None:
        for send in self._core.take_sends():
            if not self._dealer.send(send.message, send.body):
                self._core.unsent(monotonic())
                break
        self._slot.set_ready(ready=self._core.ready)

    def _greeted(self) -> None:
        if self._core.welcomed:
            if self._watch.trouble:
                log.info("connected to the broker at %s", self._dealer.endpoint)
            self._watch.welcomed()

    def _limit(self, welcome: Welcome) -> None:
        limits = welcome.extras.get("limits")
        limit = limits.get("result_bytes") if isinstance(limits, dict) else None
        if isinstance(limit, int):
            self._result_bytes = limit
            if self._runner is not None:
                self._runner.result_bytes = limit

    def _serve(self, work: Work) -> None:
        assert self._runner is not None
        assert self._connection is not None
        began = monotonic()
        if "ahead" in work.request.extras:  # else nobody comes to wait behind it
            self._pause = AGAIN
            self._lend(began + LONG, self._relent)
        outcome = self._runner.run(work.request, work.body, work.deadline)
        now = monotonic()
        if now >= self._listen_at:
            # A broker that came meanwhile hears who this is before it hears an answer.
            self._listen()
        if not self._connection.sound:
            self._core.connection(sound=False, now=now, reason="connection lost")
        if self._stopping:
            self._core.drain(now)
        kind, code, body, extras, unserved = outcome
        if unserved is not None:
            self._core.returned(unserved.reason, now, unserved.extras)
        else:
            self._core.replied(kind, code, body, extras, now)
            self._slot.count(error=code != 0)
        self._flush()
        alone = self._upkeep.tidy(work.request)
        if not self._runner.begin_reset() or not alone:
            self._drop_connection("it could not be reset", monotonic(), planned=True)
            self._slot.enter(IDLE)

    # The database

    def _tend_connection(self, now: float) -> None:
        """Connect if there is no connection and it is time to try."""
        if self._connection is not None or now < self._connect_at:
            return
        try:
            self._connection = self._connect()
        except (ConnectFailed, InvalidDsn) as error:
            now = monotonic()
            self._connect_at = now + self._backoff.next()
            self._complain(f"no database connection: {error}", now)
            return
        self._runner = self._serve_on(self._connection)
        if self._result_bytes:
            self._runner.result_bytes = self._result_bytes
        self._watched = self._connection.fileno()
        self._dealer.watch(self._watched)
        self._upkeep.connected(self._watched)
        self._connected_at = monotonic()
        if self._trouble:
            log.info("connected to the database")
            self._trouble = ""
        role = self._connection.role
        self._core.connection(sound=True, now=self._connected_at, role=role)

    def _check_connection(self) -> None:
        """Find out why an idle connection is readable: a notice, or its end."""
        here = self._connection
        if here is not None:
            resetting = here.resetting
            if not here.check():
                why = (
                    "it could not be reset" if resetting else "database connection lost"
                )
                self._drop_connection(why, monotonic(), planned=resetting)
        self._slot.enter(IDLE)

    def _drop_connection(
        self, reason: str, now: float, *, planned: bool = False
    ) -> None:
        assert self._connection is not None
        self._dealer.unwatch(self._watched)
        self._upkeep.disconnected(self._watched)
        self._watched = -1
        self._connection.close()
        self._connection = self._runner = None
        self._connect_at = now
        if now - self._connected_at >= STEADY:
            self._backoff.reset()
        elif not planned:
            self._connect_at = now + self._backoff.next()
        if planned:
            self._core.connection(sound=False, now=now, reason=reason)
        else:
            self._complain(reason, now)
        self._flush()  # before another one is waited for

    def _complain(self, trouble: str, now: float) -> None:
        if trouble != self._trouble:  # once, not at each attempt
            self._trouble = trouble
            log.warning("%s", trouble)
        self._core.connection(sound=False, now=now, reason=trouble[:REASON_LENGTH])

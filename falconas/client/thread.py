"""The thread of a client for threads: it keeps the connection."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any

from falconas.client import log

if TYPE_CHECKING:
    from falconas.client.core import ClientCore
    from falconas.client.link import Link
    from falconas.client.replies import Lsn
    from falconas.client.sync import Call
    from falconas.client.verdict import Verdict


class Io:
    """The thread that keeps the connection.

    The core is touched under the lock only. Callers wake the thread only when it
    sleeps, so many calls in a row cost one wake-up. It knows its `Client` not, so
    that a forgotten one can be collected and then stops it.
    """

    def __init__(self, core: ClientCore, link: Link) -> None:
        self.core = core
        self._link = link
        self._lock = threading.Lock()
        self._asleep = False
        self._stopping = False
        self._process = os.getpid()
        self._bell, self._ear = socket.socketpair()
        self._bell.setblocking(False)
        self._ear.setblocking(False)
        self._thread = threading.Thread(
            target=self._run, name="falconas-client", daemon=True
        )

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def check_process(self) -> None:
        """Refuse to work in a child of the process: it has no such thread."""
        if os.getpid() != self._process:
            raise RuntimeError("a client does not survive os.fork(): make a new one")

    def request(
        self,
        call: Call,
        script: str,
        body: bytes,
        budget: float | None,
        idempotent: bool | None,
        cancel_on_disconnect: bool | None,
        min_lsn: Lsn | None,
    ) -> None:
        """Let the core accept a new call."""
        self.check_process()
        with self._lock:
            call.outstanding = self.core.request(
                call,
                script,
                body,
                monotonic(),
                budget,
                idempotent,
                cancel_on_disconnect,
                min_lsn,
            )
            self._wake()

    def catalogue(self, call: Call, budget: float | None) -> None:
        """Let the core accept a question for the catalogue."""
        self.check_process()
        with self._lock:
            call.outstanding = self.core.catalogue(call, monotonic(), budget=budget)
            self._wake()

    def cancel(self, call: Call) -> None:
        """Let the core cancel a call that it accepted."""
        if call.outstanding is None:
            return
        self.check_process()
        with self._lock:
            self.core.cancel(call.outstanding, monotonic())
            self._wake()

    def stop(self) -> bool:
        """Tell the thread to end; takes no lock, as a collector may call it."""
        if self._stopping or os.getpid() != self._process:
            return False
        self._stopping = True
        self._ring()
        return True

    def join(self) -> None:
        """Wait until the thread has ended."""
        if os.getpid() == self._process:
            self._thread.join()

    def _wake(self) -> None:
        """Let the thread see what the core has to send or to tell; with the lock held.

        In this order: an interrupt in between may only ring once more than necessary.
        """
        if self._asleep:
            self._ring()
            self._asleep = False

    def _ring(self) -> None:
        with suppress(OSError):  # rung often enough, or the thread has ended
            self._bell.send(b"\0")

    def _run(self) -> None:
        reason = "the client was closed"
        try:
            while not self._stopping:
                self._step()
        except Exception as error:
            log.failure("the client's thread failed", error)
            reason = f"the client failed: {error}"
        self._end(reason)

    def _step(self) -> None:
        with self._lock:
            busy = self._link.step(monotonic())
            verdicts = self.core.take_verdicts()
            wake_at = self.core.wake_at()
            self._asleep = not busy
        _deliver(verdicts)  # last, as those who wake want the interpreter's lock
        if not busy:
            self._sleep(wake_at)

    def _sleep(self, wake_at: float) -> None:
        rung = self._link.wait(self._ear.fileno(), wake_at - monotonic())
        self._asleep = False
        if rung:
            self._ear.recv(4096)

    def _end(self, reason: str) -> None:
        with self._lock:
            self._stopping = True
            self.core.close(reason)
            verdicts = self.core.take_verdicts()
        _deliver(verdicts)
        with suppress(Exception):  # a last CANCEL, if that is still possible
            self._link.finish(monotonic())
        self._link.close()
        self._bell.close()
        self._ear.close()


def _deliver(verdicts: list[tuple[Any, Verdict]]) -> None:
    for call, verdict in verdicts:
        call.settle(verdict)

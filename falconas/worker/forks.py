"""What becomes of a copy of the worker that a script makes by os.fork().

The copy has the worker's connections in its hands. It loses them at once, before any
of its own code runs: the worker's database must not hear it, not even say goodbye. And
when it comes back to where the worker would go on serving, it ends.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress

LEFT = 70  # EX_SOFTWARE: the exit code of a copy that came back


class Forks:
    """Guards this process's connections from its copies.

    Make one in a worker, once: what is registered for a fork stays registered.

    A subprocess is no copy, for it runs another program; the pools of multiprocessing
    are, and go on working.
    """

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._sockets: set[int] = set()
        self._calls: list[Callable[[], object]] = []
        self._null = os.open(os.devnull, os.O_RDWR)
        os.register_at_fork(after_in_child=self._in_child)

    def guard(self, fd: int) -> None:
        """Name a connection's socket that no copy may use."""
        self._sockets.add(fd)

    def unguard(self, fd: int) -> None:
        """Forget a socket that is closed, or about to be."""
        self._sockets.discard(fd)

    def in_child(self, call: Callable[[], object]) -> None:
        """Name what a copy has to do first."""
        self._calls.append(call)

    def is_child(self) -> bool:
        """Tell whether this process is a copy."""
        return os.getpid() != self._pid

    def leave_if_child(self, error: BaseException | None = None) -> None:
        """End this process, at once, if it is a copy; `error` is what brought it here.

        It is `sys.exit` that decides on the exit code, if that was it.
        """
        if os.getpid() != self._pid:
            wanted = error.code if isinstance(error, SystemExit) else LEFT
            os._exit(wanted & 255 if isinstance(wanted, int) else bool(wanted))

    def _in_child(self) -> None:
        # The kernel has not copied the timers. What signals mean to the worker they
        # do not mean here, and its wakeup descriptor would wake the worker.
        with suppress(ValueError):  # forked by another thread than the first
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGALRM, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
        for fd in self._sockets:
            with suppress(OSError):
                os.dup2(self._null, fd, inheritable=False)
        for call in self._calls:
            with suppress(Exception):
                call()

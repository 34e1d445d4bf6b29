"""Breaks off a script whose time is over or whose caller has cancelled it.

One signal says both: SIGALRM means "look at the deadline and at your slot". A timer of
the process sends it at the deadline, the supervisor for a cancel, and both again until
the script has ended. The handler raises `Interrupted`, which psycopg turns into a
cancel on the server and which `except Exception` does not swallow.

It can be swallowed all the same, or come out as another exception. So nobody asks what
a script raised or returned: `fired` says whether it was interrupted.

The timer has a second use: `lend` has something done while a script runs, if that
takes longer than others who wait behind it can wait.

It raises in the script's code and in what that calls, never in this module's: a signal
that arrives when the script has just returned finds the frame of `run` and does
nothing. At most one is raised each `REPEAT` seconds, so that what cleans up after one
(psycopg cancels its statement) is not hit at once by the next.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from enum import Enum
from importlib import import_module
from math import inf
from time import monotonic
from types import CodeType, FrameType
from typing import Any, TypeVar

REPEAT = 0.05
# signal.getsignal looks for a member of an enum, which takes twenty times as long.
_handler: Callable[[int], Any] = import_module("_signal").getsignal
_mask: Any = import_module("_signal").pthread_sigmask  # no frame of Python's own
_SOON = 1e-6  # 0 would disarm the timer
_ALL = signal.valid_signals()

# A module half imported would stay locked for ever; what it runs itself may be hit.
_IMPORTING = "<frozen importlib._bootstrap"

Result = TypeVar("Result")


class Interrupted(KeyboardInterrupt):
    """The request is over: its deadline has passed or its caller has cancelled it."""


class Cause(Enum):
    """Why a script was interrupted."""

    DEADLINE = "deadline"
    CANCEL = "cancel"


class Interrupts:
    """The window in which a script may be interrupted.

    Attributes:
        fired: Why the script of the last window was interrupted, None if it was not.

    Args:
        is_cancelled: Tells whether the request is to be cancelled.
    """

    def __init__(self, is_cancelled: Callable[[], bool] = lambda: False) -> None:
        self.fired: Cause | None = None
        self._is_cancelled = is_cancelled
        self._open = False
        self._deadline = 0.0
        self._quiet_until = 0.0
        self._stop: Callable[[], object] = lambda: None
        self._relent_at = inf
        self._relent: Callable[[], object] = lambda: None
        self._process = os.getpid()
        self._handler = self._handle  # one object, to know it again
        self._before: Any = None
        self._installed = False
        self._shielded = set(_SHIELDED)

    def install(self) -> None:
        """Take SIGALRM; in the main thread. Without it, nothing is interrupted."""
        self._before = signal.signal(signal.SIGALRM, self._handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
        self._installed = True

    def uninstall(self) -> None:
        """Give SIGALRM back."""
        self._installed = False
        signal.signal(signal.SIGALRM, self._before)

    def shield(self, function: Callable[..., Any]) -> None:
        """Never raise in the body of `function`: of another signal's handler."""
        self._shielded.add(function.__code__)

    def lend(self, relent_at: float, relent: Callable[[], object]) -> None:
        """Have `relent` called, once, if the next script still runs at that time.

        It is called in the middle of the script: it must neither wait nor raise.
        """
        self._relent_at, self._relent = relent_at, relent

    def stop(self) -> None:
        """Take the request from the script, without raising anything."""
        self._stop()

    def run(
        self, body: Callable[[], Result], deadline: float, stop: Callable[[], object]
    ) -> Result:
        """Return what `body` returns; it may be interrupted, and nothing else.

        Args:
            body: The script.
            deadline: When it has to be over, on the clock of `time.monotonic`.
            stop: Called when it is interrupted, before anything is raised.
        """
        try:
            try:
                self._enter(deadline, stop)
                return body()
            finally:
                self._leave()
        finally:
            # Handlers of the script's own may raise anywhere, also just before that.
            if self._open:
                self._leave()

    def _enter(self, deadline: float, stop: Callable[[], object]) -> None:
        self.fired = None
        self._deadline = deadline
        self._quiet_until = 0.0
        self._stop = stop
        self._open = True
        if self._installed:
            self._set_timer(monotonic())

    def _leave(self) -> None:
        """Shut the window, and let no timer of the script hit the next request."""
        while True:
            try:
                self._open = False
                self._relent_at = inf
                if self._installed:
                    signal.setitimer(signal.ITIMER_REAL, 0.0)
                    signal.setitimer(signal.ITIMER_VIRTUAL, 0.0)
                    signal.setitimer(signal.ITIMER_PROF, 0.0)
                    if _handler(signal.SIGALRM) is not self._handler:
                        signal.signal(signal.SIGALRM, self._handler)
                return
            except BaseException:  # noqa: S112 - a handler of the script's own
                continue

    def _set_timer(self, now: float) -> None:
        left = max(_SOON, min(self._deadline, self._relent_at) - now)
        signal.setitimer(signal.ITIMER_REAL, left, REPEAT)

    def _handle(self, _number: int, frame: FrameType | None) -> None:
        if not self._open:
            return
        now = monotonic()
        if now >= self._relent_at:
            try:
                self._let_go()
            except RecursionError:  # the script's stack is full; later, then
                self._relent_at = now + REPEAT
        if frame is None or not self._may_hit(frame.f_code):
            return
        if now < self._quiet_until:
            return
        if now >= self._deadline:
            cause = Cause.DEADLINE
        elif self._is_cancelled():
            cause = Cause.CANCEL
        else:
            return
        self._quiet_until = now + REPEAT
        if self.fired is None:
            self.fired = cause
        if self._installed:  # also for a cancel, and if the script disarmed it
            signal.setitimer(signal.ITIMER_REAL, REPEAT, REPEAT)
        self._stop()
        raise Interrupted(self.fired.value)

    def _let_go(self) -> None:
        """Call `relent` undisturbed, and not in a copy of this process."""
        self._relent_at = inf
        if os.getpid() == self._process:
            before = _mask(signal.SIG_BLOCK, _ALL)
            try:
                self._relent()
            except Exception:  # noqa: S110  # nothing of ours comes out of a script
                pass
            finally:
                _mask(signal.SIG_SETMASK, before)
        if self._installed:
            self._set_timer(monotonic())

    def _may_hit(self, code: CodeType) -> bool:
        return code not in self._shielded and not code.co_filename.startswith(
            _IMPORTING
        )


# A signal may also come while these run, and in the handler itself.
_SHIELDED: frozenset[CodeType] = frozenset(
    function.__code__
    for function in (
        Interrupts.run,
        Interrupts._enter,  # noqa: SLF001
        Interrupts._leave,  # noqa: SLF001
        Interrupts._handle,  # noqa: SLF001
        Interrupts._may_hit,  # noqa: SLF001
        Interrupts._set_timer,  # noqa: SLF001
        Interrupts._let_go,  # noqa: SLF001
    )
)


def has_room(calls: int) -> bool:
    """Tell whether so many calls can be nested here before the stack is full."""
    try:
        return not calls or has_room(calls - 1)
    except RecursionError:
        return False

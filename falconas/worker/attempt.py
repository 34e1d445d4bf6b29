"""One request's script: how it runs, and what is to be said if that fails."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from itertools import accumulate
from traceback import walk_tb
from typing import Any

import psycopg

from falconas.codec import decode_params
from falconas.database.blocks import Lease
from falconas.database.session import Session
from falconas.database.unserved import Behind, SessionLost, Unserved
from falconas.errors import CLASSES, FalconError, InvalidArgument, ScriptError, Started
from falconas.protocol import Request
from falconas.worker.context import Context
from falconas.worker.interrupt import Cause
from falconas.worker.scripts import Script
from falconas.worker.verdict import describe, stopped

# Between looks at what a standby has replayed, in seconds: 0.2 in all.
PAUSES = (0.005, 0.01, 0.02, 0.05, 0.05, 0.065)


@dataclass(slots=True)
class Attempt:
    """A script whose turn has come.

    Attributes:
        body: The packed parameters.
        autocommit: Each statement is a transaction of its own.
        min_lsn: The position in the log up to which it has to see what was written.
        began: When its turn came.
        begun: Its function was called: before, errors are not the script's.
        awaited: How long it had been waiting for the server when it was interrupted
            first (later it waits for the end of what it left); 0 if it had spent most
            of its time otherwise.
    """

    session: Session
    script: Script
    context: Context
    body: bytes
    autocommit: bool = False
    min_lsn: int = 0
    began: float = field(default_factory=time.monotonic)
    begun: bool = False
    awaited: float | None = None

    def run(self) -> Any:
        """Do all that may be interrupted."""
        script, session = self.script, self.session
        arguments = script.bind(decode_params(self.body))
        if not session.sound:
            raise SessionLost("the worker has no database connection")
        if self.min_lsn and not self._shown():
            raise Behind("the node has not replayed yet what the request is to see")
        if script.access == "write":
            session.begin_write(autocommit=self.autocommit)
        else:
            session.begin_read(snapshot=script.snapshot and not self.autocommit)
        self.begun = True
        return script.run(self.context, **arguments)

    def _shown(self) -> bool:
        """Tell whether the node has what the script has to see, or soon gets it.

        Mostly it lags by milliseconds: to wait for them is faster than to ask the
        broker, who cannot know positions that well. Half of the budget is left to him.
        """
        patience = (self.context.deadline - time.monotonic()) / 2
        for pause, waited in zip(PAUSES, accumulate(PAUSES), strict=True):
            if self.session.shows(self.min_lsn):
                return True
            if waited > patience:
                return False
            time.sleep(pause)
        return self.session.shows(self.min_lsn)

    def halt(self, lease: Lease) -> None:
        """Take the session from the script, which is interrupted."""
        if self.awaited is None:
            awaited, elapsed = self.session.awaited, time.monotonic() - self.began
            self.awaited = awaited if awaited > elapsed / 2 else 0.0
        lease.end("the request was interrupted")

    def stopped(self, cause: Cause, error: BaseException | None = None) -> FalconError:
        """Return the verdict if it was interrupted, whatever it made of that."""
        verdict = stopped(
            cause,
            time.monotonic() - self.began,
            doubtful=self.session.doubtful,
            idempotent=self.script.idempotent,
            node=self.context.node,
            awaited=self.awaited or 0.0,
        )
        log, path = self.context.log, self.script.path
        log.warning("%s%s", verdict.message, where(error, str(path)))
        log.debug("it was interrupted here", exc_info=error)
        return verdict

    def failed(self, error: BaseException) -> BaseException:
        """Return the verdict on what it raised, or what its result did."""
        log = self.context.log
        if not self.begun and isinstance(error, FalconError | Unserved):
            return error
        if isinstance(error, psycopg.Error):
            late = time.monotonic() >= self.context.deadline
            verdict = self.session.classify(error, late=late)
            log.warning("%s", verdict.message, exc_info=error)
        elif isinstance(error, FalconError) and error.code in CLASSES:
            verdict = error
            if verdict.started is Started.NO:
                verdict.started = Started.YES
            log.info("%s: %s", verdict.code.name, verdict.message)
        else:
            verdict = ScriptError(describe(error), started=Started.YES)
            log.error("script %s raised", self.context.script, exc_info=error)
        return verdict


def min_lsn(request: Request, database: str) -> int:
    """Return the position that the node must have replayed, 0 for any.

    Raises:
        InvalidArgument: It cannot be told.
    """
    lsns = request.extras.get("min_lsn")
    if not lsns:
        return 0
    lsn = lsns.get(database, 0) if isinstance(lsns, dict) else None
    if type(lsn) is not int or not 0 <= lsn < 1 << 64:
        raise InvalidArgument(
            "min_lsn must be a map of databases to positions in their logs, integers"
            f" such as the lsn of a reply; got {ascii(lsns)[:80]}"
        )
    return lsn


def where(error: BaseException | None, path: str) -> str:
    """Say which line of a script's file an exception came through last."""
    trace = None if error is None else error.__traceback__
    lines = [n for f, n in walk_tb(trace) if f.f_code.co_filename == path]
    return f" (line {lines[-1]} of {path})" if lines else ""

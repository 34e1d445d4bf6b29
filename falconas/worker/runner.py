"""Runs one request after another: parameters, script, result, commit, reset.

The order is the guarantee: the result is packed before the commit, the commit is read
to the letter before anybody hears OK, and the session is swept after the reply, before
the next request. Whatever a script does, `run` returns an outcome.
"""

from __future__ import annotations

import logging
import os
import time
import traceback
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypedDict, Unpack

from falconas.codec import encode_params, encode_result
from falconas.database.blocks import Lease
from falconas.database.facade import Database
from falconas.database.session import ConnectFailed, Session
from falconas.database.unserved import Unserved
from falconas.errors import (
    Cancelled,
    Code,
    DeadlineExceeded,
    FalconError,
    Internal,
    NotFound,
    Started,
    Unavailable,
)
from falconas.protocol import Kind, Request
from falconas.worker.attempt import Attempt, min_lsn
from falconas.worker.context import Context
from falconas.worker.forks import Forks
from falconas.worker.interrupt import Cause, Interrupted, Interrupts
from falconas.worker.scripts import Library, Script, load
from falconas.worker.slot import NoSlot, SlotLike, Spoiled
from falconas.worker.snapshot import COMMIT, IDLE, REPLY, RESET, RUN
from falconas.worker.uninterrupted import uninterrupted
from falconas.worker.verdict import pack_error

log = logging.getLogger(__name__)

RESULT_BYTES, BUDGET = 16 * 1024 * 1024, 30.0
_OK, _CODE_OK = Kind.OK, Code.OK  # see `snapshot`


class Outcome(NamedTuple):
    """What to reply.

    Attributes:
        kind: OK or ERROR.
        code: The code of the error, `Code.OK` otherwise.
        body: The packed result, or the error's map.
        extras: Who served it: node, hash of the script, `run_us`. Of a write, `lsn`:
            by which position of its database's log it was committed. `conflict`: the
            recovery of a standby ended it. `lost`: the end of the connection did.
        unserved: The node kept the script from being started. The request may be
            RETURNed to the broker instead of replied to.
    """

    kind: Kind
    code: Code
    body: bytes
    extras: dict[str, Any]
    unserved: Unserved | None = None


class Home(TypedDict, total=False):
    """Where a session leads.

    `node` and `database` are names for scripts and callers, "main" by default. Under
    `autocommit` each statement of a script is a transaction of its own.
    """

    node: str
    database: str
    autocommit: bool


class Runner:
    """Serves requests of a library's scripts on one session.

    After `run` the caller sends the reply and then calls `reset`; if that says False
    he puts a new `session` in. Or he calls `begin_reset`, which does not wait, and
    `finish_reset` when the session's socket has news, at the latest before the next
    request: until then the state is RESET, so that whoever watches sees it hang.

    Args:
        library: The scripts.
        session: The connection to serve on.
        slot: Told each state.
        result_bytes: The largest result.
        escape: Exceptions of a script that are not turned into an outcome; for
            programs that want their Ctrl-C.
        interrupts: What stops a script; without, it runs as long as it likes.
        forks: Knows whether this process is a copy that a script made.
        home: Where the session leads.
    """

    def __init__(
        self,
        library: Library,
        session: Session,
        slot: SlotLike,
        *,
        result_bytes: int = RESULT_BYTES,
        escape: tuple[type[BaseException], ...] = (),
        interrupts: Interrupts | None = None,
        forks: Forks | None = None,
        **home: Unpack[Home],
    ) -> None:
        self.loaded = library
        self.session = session
        self.node = home.get("node", "main")
        self._database = home.get("database", "main")
        self._autocommit = home.get("autocommit", False)
        self._slot = slot
        self.result_bytes = result_bytes
        self._escape = escape
        self._interrupts = interrupts or Interrupts()
        self._forks = forks
        self._unused = False  # the last request has left its session as it was

    def run(self, request: Request, body: bytes, deadline: float) -> Outcome:
        """Serve `request`; `deadline` is on the clock of `time.monotonic`."""
        self.finish_reset()
        self._unused = False
        began = time.monotonic()
        extras: dict[str, Any] = {"node": self.node}
        try:
            script = self._find(request.script, deadline - began)
            extras["hash"] = script.hash
            if script.budget is not None:
                deadline = min(deadline, began + script.budget)
            packed, lsn = self._serve(script, request, body, deadline)
            if lsn is not None:
                extras["lsn"] = {self._database: lsn}
            outcome = Outcome(_OK, _CODE_OK, packed, extras)
        except Unserved as error:
            failure = Unavailable(str(error), retry_safe=True)
            outcome = _failed(failure, extras)._replace(unserved=error)
        except FalconError as error:
            if self.session.doubtful and error.started is Started.YES:
                error.started, error.retry_safe = Started.UNKNOWN, False
            if self.session.conflict and error.code is Code.ABORTED:
                extras["conflict"] = True
            elif self.session.lost and error.code is Code.UNAVAILABLE:
                extras["lost"] = True
            outcome = _failed(error, extras)
        except self._escape:
            raise
        except BaseException:
            log.exception("the runner failed")
            outcome = _failed(
                Internal("the worker failed", started=Started.UNKNOWN), extras
            )
        extras["run_us"] = int((time.monotonic() - began) * 1e6)
        self._slot.enter(REPLY)
        return outcome

    def reset(self) -> bool:
        """Sweep the session after the reply; False: it needs to be replaced."""
        return self.begin_reset() and self.finish_reset()

    def begin_reset(self) -> bool:
        """Begin to sweep the session; False: it needs to be replaced."""
        if self._unused and self.session.is_as_new():
            self._slot.enter(IDLE)
            return True
        self._slot.enter(RESET)
        sound = self.session.begin_reset()
        if not self.session.resetting:
            self._slot.enter(IDLE)
        return sound

    def finish_reset(self) -> bool:
        """Wait for the end of what `begin_reset` began, if it did.

        False: the session needs to be replaced.
        """
        if not self.session.resetting:
            return self.session.sound
        sound = self.session.finish_reset()
        self._slot.enter(IDLE)
        return sound

    def _find(self, name: str, left: float) -> Script:
        if left <= 0:
            raise DeadlineExceeded(
                "the budget ran out before the start", retry_safe=True
            )
        if (script := self.loaded.scripts.get(name)) is not None:
            return script
        if (error := self.loaded.errors.get(name)) is not None:
            raise NotFound(f"script {name} does not load: {error}")
        raise NotFound(f"there is no script {name[:256]!r} here")

    def _serve(
        self, script: Script, request: Request, body: bytes, deadline: float
    ) -> tuple[bytes, int | None]:
        lsn = min_lsn(request, self._database)
        id_ = request.id if isinstance(request.id, bytes) else request.id.encode()
        # From here on the script's own code runs: its parameters may be classes of it.
        self._slot.enter(RUN, id_, deadline)
        if self._slot.is_cancelled():
            raise Cancelled("cancelled before the start", retry_safe=True)
        lease = Lease(self.session)
        context = self._context(script, request, lease, deadline)
        attempt = Attempt(self.session, script, context, body, self._autocommit, lsn)
        packed = self._call(attempt, lease, request)
        writes = script.access == "write"
        unused = not (writes or lease.used) and self.session.is_as_new()
        if not unused:
            self.session.verify()
        if writes and self.session.touched:
            self._slot.enter(COMMIT, id_, deadline)
            return packed, self._commit(attempt)
        self._check_end(attempt)
        self._unused = unused
        return packed, None

    def _commit(self, attempt: Attempt) -> int | None:
        committed, lsn = False, None
        try:
            with uninterrupted():
                self._check_end(attempt)
                lsn = self.session.commit()
                committed = True
        except BaseException:
            if not committed:  # else a signal that waited, and comes too late
                raise
        return lsn

    def _check_end(self, attempt: Attempt) -> None:
        """Raise if the time ran out, or a cancel came, while nothing interrupted."""
        if time.monotonic() >= attempt.context.deadline:
            raise attempt.stopped(Cause.DEADLINE)
        if self._slot.is_cancelled():
            raise attempt.stopped(Cause.CANCEL)

    def _call(self, attempt: Attempt, lease: Lease, request: Request) -> bytes:
        """Run the script and pack its result: all of its code runs in here."""
        interrupts = self._interrupts
        stop = partial(attempt.halt, lease)
        try:
            result = interrupts.run(attempt.run, attempt.context.deadline, stop)
            self._leave_if_child(None)
            if interrupts.fired is None:
                ext = "ext" in _sequence(request.extras.get("accept"))
                return encode_result(result, ext=ext, limit=self.result_bytes)
            error = None
        except BaseException as raised:
            self._leave_if_child(raised)
            error = raised
        finally:
            lease.end()
        if isinstance(error, self._escape) and not isinstance(error, Interrupted):
            raise error
        if interrupts.fired is not None:
            self.session.interrupted()  # before anything slow
        verdict = self._judge(attempt, error)
        if error is not None and error.__traceback__ is not None:
            traceback.clear_frames(error.__traceback__)  # ends open streams
        del error  # which refers to this frame
        raise verdict

    def _judge(self, attempt: Attempt, error: BaseException | None) -> BaseException:
        if isinstance(error, MemoryError):
            self._slot.spoil(Spoiled.MEMORY_ERROR)
        if error is None or self._interrupts.fired is not None:
            assert self._interrupts.fired is not None
            return attempt.stopped(self._interrupts.fired, error)
        return attempt.failed(error)

    def _leave_if_child(self, error: BaseException | None) -> None:
        """End a copy of this process that the script made and that came out of it."""
        if self._forks is not None:
            self._forks.leave_if_child(error)

    def _context(
        self, script: Script, request: Request, lease: Lease, deadline: float
    ) -> Context:
        origin = request.extras.get("origin", request.id)
        request_id = origin.hex() if isinstance(origin, bytes) else str(origin)
        return Context(
            db=Database(lease),
            request_id=request_id,
            caller=request.extras.get("_caller"),
            node=self.node,
            script=script.name,
            deadline=deadline,
        )


def run_script(
    dsn: str,
    folder: Path,
    name: str,
    params: Mapping[str, Any],
    *,
    budget: float = BUDGET,
    result_bytes: int = RESULT_BYTES,
    **home: Unpack[Home],
) -> Outcome:
    """Run one script in this process, as a worker would: writes are committed.

    Ctrl-C is not swallowed: KeyboardInterrupt passes, and all is rolled back.

    Raises:
        FolderError: The scripts folder cannot be read.
        InvalidDsn: The DSN is malformed.
        InvalidArgument: A parameter has no encoding.
    """
    library = load(folder)
    body = encode_params(params)
    deadline = time.monotonic() + budget
    try:
        session = Session.connect(dsn, application_name=f"falconas/run/{os.getpid()}")
    except ConnectFailed as error:
        return _failed(Unavailable(f"no database: {error}", retry_safe=True), {})
    interrupts = Interrupts()
    runner = Runner(
        library,
        session,
        NoSlot(),
        result_bytes=result_bytes,
        escape=(KeyboardInterrupt,),
        interrupts=interrupts,
        **home,
    )
    request = Request(os.urandom(16), name, budget, {"accept": ["ext"]})
    try:
        interrupts.install()
        return runner.run(request, body, deadline)
    finally:
        interrupts.uninstall()
        session.close()


def _failed(error: FalconError, extras: dict[str, Any]) -> Outcome:
    return Outcome(Kind.ERROR, error.code, pack_error(error), extras)


def _sequence(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []

"""Packs the error of a request, which may hold whatever a script has put in."""

from __future__ import annotations

from falconas.codec import encode_value
from falconas.errors import (
    MESSAGE_LIMIT,
    Cancelled,
    DeadlineExceeded,
    FalconError,
    ScriptError,
    Started,
)
from falconas.logs import mask
from falconas.worker.interrupt import Cause

# Far below any limit of a message: a reply that nobody can send would be lost for ever.
ERROR_BYTES = 64 * 1024
_SQLSTATE = 5


def pack_error(error: FalconError) -> bytes:
    """Return the body of an ERROR reply, in bounds: what does not fit is left out."""
    sqlstate = error.sqlstate
    if not isinstance(sqlstate, str) or len(sqlstate) != _SQLSTATE:
        error.sqlstate = None
    started = error.started if isinstance(error.started, Started) else Started.UNKNOWN
    try:
        body = encode_value(error.body())
        if len(body) > ERROR_BYTES:
            error.details = None
            body = encode_value(error.body())
        if len(body) <= ERROR_BYTES:
            return body
    except BaseException:  # noqa: S110 - code of the script may run in here
        pass
    plain = ScriptError("the script's error cannot be packed", started=started)
    return encode_value(plain.body())


def stopped(
    cause: Cause,
    elapsed: float,
    *,
    doubtful: bool,
    idempotent: bool,
    node: str = "",
    awaited: float = 0.0,
) -> FalconError:
    """Return the verdict on a script that was stopped, or should have been.

    Args:
        cause: Why.
        elapsed: How long it had been running.
        doubtful: It may have ended its transaction itself.
        idempotent: It may be run again.
        node: Where its statements went.
        awaited: How long the last of them had been without an answer, 0 if it was not.
    """
    late = cause is Cause.DEADLINE
    cls: type[FalconError] = DeadlineExceeded if late else Cancelled
    what = f"{'the budget ran out' if late else 'cancelled'} after {_time(elapsed)}"
    if late and awaited:  # that was not the script's doing
        what += f": node {node} had not answered for {_time(awaited)}"
    if doubtful:
        text = f"{what}; what the script did up to there may be committed"
        return cls(text, started=Started.UNKNOWN)
    text = f"{what}; rolled back"
    return cls(text, started=Started.YES, retry_safe=idempotent)


def _time(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1.0 else f"{seconds * 1000:.0f} ms"


def describe(error: BaseException) -> str:
    """Return an exception's name and text, if it can be read; passwords masked."""
    name = type(error).__name__
    try:
        text = mask(str(error)[: 2 * MESSAGE_LIMIT])  # more than anybody will see
    except BaseException:
        return f"{name} (its text cannot be read)"
    return f"{name}: {text}" if text else name

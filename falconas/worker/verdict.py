"""Packs the error of a request, which may hold whatever a script has put in."""

from __future__ import annotations

from falconas.codec import encode_value
from falconas.errors import FalconError, ScriptError, Started

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


def describe(error: BaseException) -> str:
    """Return an exception's name and text, if it can be read."""
    name = type(error).__name__
    try:
        text = str(error)
    except BaseException:
        return f"{name} (its text cannot be read)"
    return f"{name}: {text}" if text else name

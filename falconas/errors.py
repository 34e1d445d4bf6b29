"""Errors: one class for each code of the wire protocol.

FalconError
├── Cancelled            the caller cancelled the request
├── ScriptError          UNKNOWN: the script or the database refused the work
├── InvalidArgument      the request is wrong and stays wrong when sent again
├── DeadlineExceeded     the budget ran out
├── NotFound             no such script
├── AlreadyExists        the id is in use by another request of this client
├── PermissionDenied     the caller may not do this
├── ResourceExhausted    a queue or a limit is full; see `retry_after`
├── FailedPrecondition   the script is quarantined
├── Aborted              serialization failure, deadlock, failed transaction
├── Unimplemented        unknown command or protocol version
├── Internal             a fault of FalconAS itself
├── Unavailable          no worker, no database node, draining, worker or broker lost
└── Unauthenticated      no valid key

Codes carry the names and numbers of gRPC
(https://grpc.io/docs/guides/status-codes/).
"""

from __future__ import annotations

from enum import IntEnum, StrEnum
from math import isfinite
from typing import Any, ClassVar

__all__ = [
    "Aborted",
    "AlreadyExists",
    "Cancelled",
    "Code",
    "DeadlineExceeded",
    "FailedPrecondition",
    "FalconError",
    "Internal",
    "InvalidArgument",
    "NotFound",
    "PermissionDenied",
    "ResourceExhausted",
    "ScriptError",
    "Started",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "error_for",
]

MESSAGE_LIMIT = 2000


class Code(IntEnum):
    """Outcome of a request, as on the wire."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


class Started(StrEnum):
    """Whether the script had begun when the request ended in an error.

    UNKNOWN also means that its effects may have been committed.
    """

    NO = "no"
    YES = "yes"
    UNKNOWN = "unknown"


class FalconError(Exception):
    """A request ended in an error.

    Attributes:
        code: The wire code.
        message: What was wrong and, where it can be said, what would be right.
        started: Whether the script had begun (guarantee G4).
        retry_safe: Sending the same request again cannot do its work twice.
        retry_after: Seconds to wait before trying again, if the sender knows.
        sqlstate: PostgreSQL's error code, if the database refused.
        details: Further facts, for example the path of a wrong parameter.
    """

    code: ClassVar[Code] = Code.UNKNOWN

    def __init__(
        self,
        message: str = "",
        *,
        started: Started = Started.NO,
        retry_safe: bool = False,
        retry_after: float | None = None,
        sqlstate: str | None = None,
        details: dict[str, Any] | None = None,
    ) -> None:
        text = message or (type(self).__doc__ or "").partition("\n")[0]
        text = text.encode(errors="backslashreplace").decode()  # lone surrogates
        if len(text) > MESSAGE_LIMIT:
            text = text[:MESSAGE_LIMIT] + "…"
        super().__init__(text)
        self.message = text
        self.started = started
        self.retry_safe = retry_safe
        self.retry_after = retry_after
        self.sqlstate = sqlstate
        self.details = details

    def body(self) -> dict[str, Any]:
        """Return the map that an ERROR reply carries as its body."""
        fields: dict[str, Any] = {
            "message": self.message,
            "started": self.started.value,
            "retry_safe": self.retry_safe,
        }
        for name in ("retry_after", "sqlstate", "details"):
            value = getattr(self, name)
            if value is not None:
                fields[name] = value
        return fields


class Cancelled(FalconError):
    """The caller cancelled the request."""

    code = Code.CANCELLED


class ScriptError(FalconError):
    """The script failed."""

    code = Code.UNKNOWN


class InvalidArgument(FalconError):
    """The request is wrong."""

    code = Code.INVALID_ARGUMENT


class DeadlineExceeded(FalconError):
    """The budget ran out."""

    code = Code.DEADLINE_EXCEEDED


class NotFound(FalconError):
    """There is no such script."""

    code = Code.NOT_FOUND


class AlreadyExists(FalconError):
    """The id is in use by another outstanding request of this client."""

    code = Code.ALREADY_EXISTS


class PermissionDenied(FalconError):
    """The caller may not do this."""

    code = Code.PERMISSION_DENIED


class ResourceExhausted(FalconError):
    """A limit is reached."""

    code = Code.RESOURCE_EXHAUSTED


class FailedPrecondition(FalconError):
    """The script is not in a state to be run."""

    code = Code.FAILED_PRECONDITION


class Aborted(FalconError):
    """The transaction was rolled back by the database."""

    code = Code.ABORTED


class Unimplemented(FalconError):
    """The command or the protocol version is not supported."""

    code = Code.UNIMPLEMENTED


class Internal(FalconError):
    """FalconAS itself failed."""

    code = Code.INTERNAL


class Unavailable(FalconError):
    """Nobody can serve the request at present."""

    code = Code.UNAVAILABLE


class Unauthenticated(FalconError):
    """The caller has no valid key."""

    code = Code.UNAUTHENTICATED


CLASSES: dict[int, type[FalconError]] = {
    cls.code: cls for cls in FalconError.__subclasses__()
}


def error_for(code: int, body: Any) -> FalconError:
    """Build the exception for an ERROR reply; tolerant of what peers may leave out.

    A code of a later protocol becomes `ScriptError` with the number in its text.
    """
    fields = body if isinstance(body, dict) else {}
    message = _typed(fields.get("message"), str) or ""
    cls = CLASSES.get(code)
    if cls is None:
        cls, message = ScriptError, f"code {code}: {message}"
    return cls(
        message,
        started=_started(fields.get("started")),
        retry_safe=fields.get("retry_safe") is True,
        retry_after=_seconds(fields.get("retry_after")),
        sqlstate=_typed(fields.get("sqlstate"), str),
        details=_typed(fields.get("details"), dict),
    )


def _typed(value: Any, cls: type) -> Any:
    return value if isinstance(value, cls) else None


def _started(value: Any) -> Started:
    try:
        return Started(value)
    except ValueError:
        return Started.UNKNOWN


def _seconds(value: Any) -> float | None:
    if type(value) in (int, float) and isfinite(value) and value >= 0:
        return float(value)
    return None

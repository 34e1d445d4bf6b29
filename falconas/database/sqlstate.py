"""What an error of PostgreSQL means for the request and for the connection."""

from __future__ import annotations

from typing import Any, NamedTuple

import psycopg

from falconas.errors import (
    Aborted,
    Cancelled,
    DeadlineExceeded,
    FalconError,
    ScriptError,
    Started,
    Unavailable,
)

READ_ONLY = "25006"
NO_WRITES = frozenset({READ_ONLY, "0A000"})  # the latter is a standby's answer to BEGIN
FAILED_TRANSACTION = "25P02"
CANCELED = "57014"
NO_SUCH_STATEMENT = "26000"
STALE_PLAN = "0A000"

COLLISIONS = frozenset({"40000", "40001", "40P01"})
_FATAL = frozenset({"FATAL", "PANIC"})
_TIMED_OUT = frozenset({"25P03", "25P04"})


class Notice(NamedTuple):
    """A message that came beside the results."""

    severity: str
    sqlstate: str
    text: str
    context: str | None
    function: str = ""

    @classmethod
    def of(cls, diagnostic: psycopg.errors.Diagnostic) -> Notice:
        """Take what is of use from psycopg's."""
        return cls(
            diagnostic.severity_nonlocalized or "",
            diagnostic.sqlstate or "",
            diagnostic.message_primary or "",
            diagnostic.context,
            diagnostic.source_function or "",
        )

    @property
    def cancels_replication(self) -> bool:
        """After COMMIT: the wait for synchronous replication was broken off.

        A deferred trigger may warn in COMMIT as well, but that has a context.
        """
        waited = self.function == "SyncRepWaitForLSN" if self.function else None
        return (
            self.severity == "WARNING"
            and self.sqlstate in ("01000", "57P01")
            and (not self.context if waited is None else waited)
        )


def classify(
    error: psycopg.Error,
    *,
    access: str = "write",
    late: bool = False,
    lost: bool = False,
    started: Started = Started.YES,
) -> FalconError:
    """Return the error that the caller gets for an error before COMMIT.

    Everything of the request is rolled back at this point, so what the server broke
    off by itself may be sent again. The text is PostgreSQL's first line: DETAIL holds
    values of rows and stays here.

    Args:
        error: What psycopg raised.
        access: The script's; a write refused as read-only has met a standby.
        late: The request's deadline has passed.
        lost: The connection is gone, whatever the error says.
        started: Whether the script had begun.
    """
    state = error.sqlstate
    if state in _TIMED_OUT:
        return DeadlineExceeded(_text(error), started=started, sqlstate=state)
    if state in COLLISIONS:  # some end the connection as well
        return Aborted(_text(error), started=started, retry_safe=True, sqlstate=state)
    if lost or ends_connection(error, access=access):
        why = _text(error) if state else "the connection was lost"
        return Unavailable(
            f"the database ended the work: {why}",
            started=started,
            retry_safe=True,
            sqlstate=state,
        )
    if state == FAILED_TRANSACTION:
        return Aborted(_text(error), started=started, sqlstate=state)
    if state == CANCELED:
        by_hand = not late and "user request" in _text(error)
        cls = Cancelled if by_hand else DeadlineExceeded
        return cls(_text(error), started=started, sqlstate=state)
    return ScriptError(
        f"{type(error).__name__}: {_text(error)}",
        started=started,
        sqlstate=state,
        details=_names(error),
    )


def uncertain(why: str) -> Unavailable:
    """Return the error for a COMMIT whose outcome nobody can tell."""
    return Unavailable(why, started=Started.UNKNOWN)


def is_conflict(error: psycopg.Error, *, standby: bool) -> bool:
    """Tell whether a standby's recovery needed what the transaction held.

    Its ERROR comes with a running statement, its FATAL between two of them. Where
    nobody writes there are no other collisions; the text, which may be in any
    language, is for servers that do not tell their role.
    """
    if error.sqlstate not in COLLISIONS:
        return False
    return standby or "conflict with recovery" in _text(error)


def ends_connection(error: psycopg.Error, *, access: str = "write") -> bool:
    """Tell whether the connection must not serve another request after `error`.

    That the server ends it is told by the severity: a function may raise any code.
    """
    state = error.sqlstate or ""
    return (
        (not state and error.pgresult is not None)  # libpq speaks, not the server
        or error.diag.severity_nonlocalized in _FATAL
        or state == NO_SUCH_STATEMENT
        or (state == READ_ONLY and access == "write")
        or (
            state == STALE_PLAN
            and error.diag.source_function == "RevalidateCachedQuery"
        )
    )


def _text(error: psycopg.Error) -> str:
    primary = error.diag.message_primary
    if primary:
        return primary
    try:
        return str(error)
    except Exception:
        return type(error).__name__


def _names(error: psycopg.Error) -> dict[str, Any] | None:
    """Return which object refused: names, never values."""
    diag = error.diag
    found = {
        "schema": diag.schema_name,
        "table": diag.table_name,
        "column": diag.column_name,
        "constraint": diag.constraint_name,
    }
    return {key: value for key, value in found.items() if value} or None

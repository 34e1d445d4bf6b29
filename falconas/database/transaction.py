"""What one request has done to its transaction.

A script has exactly one transaction, which begins and ends around it. It may send
any SQL, so the answers are watched: whoever ends the transaction by himself has put
his effects beyond recall, and is told so instead of OK.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import psycopg

from falconas.errors import Aborted, FalconError, ScriptError, Started

BEGIN_WRITE = b"BEGIN READ WRITE"
BEGIN_READ = b"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
READ_AUTOCOMMIT = b"SET default_transaction_read_only = on"

# ROLLBACK is also what ROLLBACK TO SAVEPOINT answers: there the state decides.
_TRANSACTION_TAGS = frozenset({"BEGIN", "START TRANSACTION", "COMMIT"})
# What these leave behind survives the reset.
_LASTING_TAGS = frozenset({"PREPARE", "DEALLOCATE", "DEALLOCATE ALL", "DISCARD ALL"})


@dataclass(slots=True)
class TransactionState:
    """One request's transaction.

    Attributes:
        access: "read" or "write".
        pending: What begins the transaction with the first statement.
        begun: A transaction is open until we end it.
        touched: The script has sent a statement.
        lasting: The script left something in the session that no reset removes.
        failure: The first error that the database raised.
        breach: The script meddled with the transaction; this is the verdict.
        complete: The script came to its end and may be committed.
    """

    access: str = "read"
    pending: bytes | None = None
    begun: bool = False
    touched: bool = False
    lasting: bool = False
    failure: psycopg.Error | None = None
    breach: FalconError | None = None
    complete: bool = False

    def take_pending(self) -> bytes | None:
        """Return what begins the transaction, once."""
        pending, self.pending = self.pending, None
        if pending is BEGIN_READ:
            self.begun = True
        return pending

    def tagged(self, tags: Iterable[str], *, idle: bool) -> None:
        """Note the command tags of a statement; raises on those of transactions.

        Args:
            tags: What the server answered to each part of it.
            idle: The server says that no transaction is open.
        """
        for tag in tags:
            if tag in _LASTING_TAGS:
                self.lasting = True
            elif tag in _TRANSACTION_TAGS or (tag == "ROLLBACK" and idle):
                self._break(tag, committed=tag == "COMMIT")
        self.watch(idle=idle)
        if self.breach is not None:
            raise self.breach

    def watch(self, *, idle: bool) -> None:
        """Note whether the transaction is still there after a statement."""
        if self.begun and idle:
            self._break("COMMIT", committed=True)

    def swallowed(self, cause: FalconError | None) -> Aborted:
        """Return the verdict on a script that went on after its transaction failed."""
        return Aborted(
            "the transaction failed inside and was rolled back"
            + (f": {cause.message}" if cause else ""),
            started=Started.YES,
            retry_safe=isinstance(cause, Aborted) and cause.retry_safe,
            sqlstate=cause.sqlstate if cause else None,
        )

    def _break(self, tag: str, *, committed: bool) -> None:
        if self.breach is not None:
            return
        unsure = committed and self.access == "write"
        self.breach = ScriptError(
            f"the script sent {tag}: its transaction is begun and ended around it, and"
            " ctx.db.transaction() makes savepoints"
            + ("; what it did up to there may be committed" if unsure else ""),
            started=Started.UNKNOWN if unsure else Started.YES,
        )

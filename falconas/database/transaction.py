"""What one request has done to its transaction.

A script has exactly one transaction, which begins and ends around it. It may send
any SQL, so the answers are watched: whoever ends the transaction by himself has put
his effects beyond recall, and is told so instead of OK.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

import psycopg
from msgspec import Struct

from falconas.errors import Aborted, FalconError, ScriptError, Started

# A write's transaction carries a mark that ends with it: command tags alone do not
# show a transaction ended by COMMIT AND CHAIN, or where the answers are not seen.
_BEGIN_WRITE = b"BEGIN READ WRITE; "
_MARK = b"SET LOCAL falconas.request = '%s'"
# Not the written or flushed position: a commit may not have waited for the disk.
POSITION = b"SELECT pg_catalog.pg_current_wal_insert_lsn()"
# The mark first: where it is missing, an error keeps the rest from being run. A script
# may have turned warnings off, but that of the synchronous replication must be heard.
_COMMIT = (
    b"SELECT 1 OPERATOR(pg_catalog./) (pg_catalog.current_setting('falconas.request',"
    b" true) IS NOT DISTINCT FROM '%s')::pg_catalog.int4;"
    b" SET LOCAL client_min_messages = warning; COMMIT; " + POSITION
)
# Without a transaction to begin, who may write and whether anybody is there is asked.
_MAY_WRITE = b"SELECT NOT pg_catalog.pg_is_in_recovery()"
REPLAYED = _MAY_WRITE + (
    b" OR pg_catalog.pg_last_wal_replay_lsn() OPERATOR(pg_catalog.>=)"
    b" '%s'::pg_catalog.pg_lsn"
)
MARK_MISSING = "22012"
BEGIN_READ = b"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
READ_AUTOCOMMIT = b"SET default_transaction_read_only = on"

# ROLLBACK is also what ROLLBACK TO SAVEPOINT answers: there the state decides.
_TRANSACTION_TAGS = frozenset({"BEGIN", "START TRANSACTION", "COMMIT"})
# What these leave behind survives the reset.
_LASTING_TAGS = frozenset({"PREPARE", "DEALLOCATE", "DEALLOCATE ALL", "DISCARD ALL"})


class TransactionState(Struct, eq=False):
    """One request's transaction.

    Attributes:
        access: "read" or "write".
        autocommit: A write has no transaction: each statement commits for itself.
        pending: What begins the transaction with the first statement.
        begun: A transaction is open until we end it.
        touched: The script has sent a statement.
        lasting: The script left something in the session that no reset removes.
        failure: The first error that the database raised.
        conflict: The error by which a standby's recovery ended it.
        breach: The script meddled with the transaction; this is the verdict.
        complete: The script came to its end and may be committed.
        opaque: What was sent may have ended the transaction without our seeing it.
        unseen: A statement was sent whose answer nobody has read yet.
        interrupted: The script was interrupted.
        unreplicated: The wait for synchronous standbys was broken off in a commit.
        rolled: It answered ROLLBACK: to a savepoint, or AND CHAIN.
        changed: It may be another one, or may write: by that, or by SET.
        nonce: Marks the transaction of a write.
    """

    access: str = "read"
    pending: bytes | None = None
    autocommit: bool = False
    begun: bool = False
    touched: bool = False
    lasting: bool = False
    failure: psycopg.Error | None = None
    conflict: psycopg.Error | None = None
    breach: FalconError | None = None
    complete: bool = False
    opaque: bool = False
    unseen: bool = False
    interrupted: bool = False
    unreplicated: bool = False
    rolled: bool = False
    changed: bool = False
    nonce: bytes = b""

    def __post_init__(self) -> None:
        if self.access == "write":
            self.nonce = os.urandom(8).hex().encode()

    @property
    def mark(self) -> bytes:
        """The statement that marks the transaction."""
        return _MARK % self.nonce

    @property
    def begin_write(self) -> bytes:
        """The message that begins a write."""
        return _MAY_WRITE if self.autocommit else _BEGIN_WRITE + self.mark

    @property
    def commit(self) -> bytes:
        """The message that commits this transaction and no other, and asks where."""
        return _COMMIT % self.nonce

    @property
    def doubtful(self) -> bool:
        """A write that failed may have been committed in part all the same."""
        if self.autocommit:
            return self.touched
        broken = self.breach is not None and self.breach.started is Started.UNKNOWN
        hidden = self.opaque or (self.interrupted and self.unseen)
        return self.access == "write" and (hidden or broken)

    @property
    def may_write(self) -> bool:
        """A read's transaction may be one that writes."""
        return self.access == "read" and self.begun and (self.changed or self.opaque)

    def take_pending(self) -> bytes | None:
        """Return what begins the transaction, once."""
        pending, self.pending = self.pending, None
        if pending is BEGIN_READ:
            self.begun = True
        return pending

    def tagged(
        self, tags: list[str], idle: bool, opaque: bool = False, several: bool = False
    ) -> None:
        """Note the command tags of a statement; raises on those of transactions.

        Args:
            tags: What the server answered to each part of it.
            idle: The server says that no transaction is open.
            opaque: There may be tags that nobody has seen.
            several: They may have been run behind one that ended the transaction.
        """
        if opaque:
            self.opaque = True
        if tags:
            self.note(tags, idle=idle, several=several)
        elif idle:
            self.watch(idle=idle)
        self.unseen = False  # last: this too may be interrupted
        if self.breach is not None:
            raise self.breach

    def note(self, tags: list[str], *, idle: bool, several: bool = False) -> None:
        """Note what the server has answered, and whether a transaction is open."""
        followed = several and ("COMMIT" in tags or "ROLLBACK" in tags)
        for tag in tags:
            if tag in _LASTING_TAGS:
                self.lasting = True
            elif tag in _TRANSACTION_TAGS or (tag == "ROLLBACK" and idle):
                self._break(tag, committed=tag == "COMMIT", followed=followed)
            elif tag == "ROLLBACK":
                self.rolled = self.changed = True
            elif tag == "SET":
                self.changed = True
        self.watch(idle=idle)

    def needs_mark(self, tags: Iterable[str]) -> bool:
        """Tell whether the mark may be gone with RESET ALL, and surely was there."""
        ours = self.access == "write" and self.begun and not self.opaque
        return ours and not self.rolled and "RESET" in tags

    def watch(self, *, idle: bool) -> None:
        """Note whether the transaction is still there after a statement."""
        if self.begun and idle:
            self._break("COMMIT", committed=True)

    def replaced(self) -> FalconError:
        """Return the verdict on a script whose transaction is not ours any more."""
        if self.breach is None:
            self.breach = ScriptError(
                "the script ended its transaction itself; what it did up to there may"
                " be committed, and the rest was rolled back",
                started=Started.UNKNOWN,
            )
        return self.breach

    def swallowed(self, cause: FalconError | None) -> Aborted:
        """Return the verdict on a script that went on after its transaction failed."""
        return Aborted(
            "the transaction failed inside and was rolled back"
            + (f": {cause.message}" if cause else ""),
            started=Started.YES,
            retry_safe=isinstance(cause, Aborted) and cause.retry_safe,
            sqlstate=cause.sqlstate if cause else None,
        )

    def _break(self, tag: str, *, committed: bool, followed: bool = False) -> None:
        if self.breach is not None:
            return
        unsure = followed or ((committed or self.autocommit) and self.access == "write")
        rule = (
            "each statement here commits for itself, and ctx.db.transaction() makes"
            " transactions"
            if self.autocommit
            else "its transaction is begun and ended around it, and"
            " ctx.db.transaction() makes savepoints"
        )
        self.breach = ScriptError(
            f"the script sent {tag}: {rule}"
            + ("; what it did up to there may be committed" if unsure else ""),
            started=Started.UNKNOWN if unsure else Started.YES,
        )

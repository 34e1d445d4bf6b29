"""A borrowed connection: how it is handed out, ended and swept.

OK means committed, here as for a script: a block whose transaction failed inside, whose
connection was lost, or whose COMMIT has no sure outcome ends in an error, even if its
code swallowed the one it got.

What has to be waited for are psycopg's generators, so that threads and coroutines
share all of it; raw messages are waited for with a bound.
"""

from __future__ import annotations

import select
import socket
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import psycopg
from psycopg import errors, generators, pq

from falconas.database.reset import Sweep, is_busy
from falconas.database.sqlstate import READ_ONLY, Notice, uncertain
from falconas.database.transaction import READ_AUTOCOMMIT
from falconas.errors import Aborted, FalconError, Started, Unavailable

if TYPE_CHECKING:
    from psycopg.abc import PQGen
    from psycopg.pq.abc import PGconn, PGresult

    from falconas.database.prepared import Prepared

IDLE = 0.5  # seconds after which a connection is asked before it is handed out
CHECK_TIMEOUT = 1.0
RESET_TIMEOUT = 3.0

# Not the flushed position: that may lie before a commit that did not wait for the disk.
POSITION = "SELECT pg_catalog.pg_current_wal_insert_lsn() - '0/0'::pg_catalog.pg_lsn"

_PLAIN = (
    "row_factory", "cursor_factory", "server_cursor_factory", "prepare_threshold",
    "prepared_max",
)  # fmt: skip
_LOCKED = ("autocommit", "isolation_level", "read_only", "deferrable")

Connection = psycopg.Connection[Any] | psycopg.AsyncConnection[Any]
_Status = pq.TransactionStatus


@dataclass(slots=True, eq=False)
class Loan:
    """A connection in a borrower's hands.

    Attributes:
        name: Its node.
        connection: It.
        pool: Where it was fetched.
        access: "read" or "write".
        settings: How psycopg's connection was when it was handed out.
        spare: A second descriptor of its socket, to cut it by whatever becomes of it.
        silence: Why it was cut, if it was: the node says nothing any more.
    """

    name: str
    connection: Any
    pool: Any
    access: str
    settings: dict[str, Any]
    spare: int
    silence: str = ""

    def cut(self, why: str) -> None:
        """End the borrower's waiting for a node that says nothing any more."""
        self.silence = why
        with (
            suppress(OSError),
            socket.fromfd(self.spare, socket.AF_INET, socket.SOCK_STREAM) as it,
        ):
            it.shutdown(socket.SHUT_RDWR)

    @property
    def lost(self) -> str:
        """What to say when the connection is gone."""
        if self.silence:
            return f"{self.name} does not answer ({self.silence}): the pool cut it off"
        return f"the connection to {self.name} was lost"


def settings_of(connection: Connection) -> dict[str, Any]:
    """Return what a borrower could change in psycopg's connection."""
    return {name: getattr(connection, name) for name in (*_PLAIN, *_LOCKED)}


def needs_check(connection: Connection, idle: float) -> bool:
    """Tell whether a connection is to be asked for a sign of life.

    A server that ended it has said so: then there is something to read.
    """
    if idle > IDLE or connection.closed:
        return True
    poller = select.poll()
    poller.register(connection.pgconn.socket, select.POLLIN)
    return bool(poller.poll(0))


def exchange(pgconn: PGconn, messages: Iterable[bytes]) -> PQGen[list[PGresult]]:
    """Send messages one after the other; return the last answer to each.

    Raises:
        psycopg.Error: An answer is an error, or none came.
    """
    answers = []
    for message in messages:
        pgconn.send_query(message)
        results = yield from generators.execute(pgconn)
        for result in results:
            if result.status == pq.ExecStatus.FATAL_ERROR:
                raise errors.error_from_result(result)
        if not results:
            raise psycopg.OperationalError("the server gave no answer")
        answers.append(results[-1])
    return answers


def greeting(access: str, *, autocommit: bool) -> list[bytes]:
    """Return what to send before a connection is handed out.

    In a transaction, psycopg's own `read_only` costs no message.
    """
    return [READ_AUTOCOMMIT] if autocommit and access == "read" else []


class Ending:
    """The end of a block that raised nothing: what it may be called.

    Args:
        loan: That of the block.
    """

    def __init__(self, loan: Loan) -> None:
        self._loan = loan
        self._connection = loan.connection
        self._notices: list[Notice] = []

    def verdict(self) -> FalconError | None:
        """Return why the block's transaction cannot be committed, if it cannot."""
        if self._connection.broken:
            if self._connection.autocommit and self._loan.access == "write":
                return uncertain(
                    f"{self._loan.lost}; each statement was for itself, and the last"
                    " may have been done"
                )
            return Unavailable(
                f"{self._loan.lost}; what was not committed is rolled back",
                started=Started.YES,
            )
        if self._connection.pgconn.transaction_status == _Status.INERROR:
            return Aborted(
                "the transaction failed inside and was rolled back", started=Started.YES
            )
        return self._unfinished() if self._loan.access == "write" else None

    def _unfinished(self) -> FalconError | None:
        """Return what of a write is not done, although nothing has failed at its end.

        A read that leaves a stream open only costs the connection.
        """
        here = self._connection
        if undone := _prepared(here).undone:
            return Aborted(undone, started=Started.YES)
        if here.closed:
            return None
        if is_busy(here):
            text = "the block left a pipeline, a stream or a COPY open"
            if here.autocommit:
                return uncertain(f"{text}: what it wrote may be committed, or not")
            return Aborted(f"{text}, and so is rolled back", started=Started.YES)
        if is_open(here) and _is_nested(here):
            return Aborted(
                "the block left a transaction() or a two-phase transaction open, which"
                " is rolled back",
                started=Started.YES,
            )
        return None

    def is_due(self) -> bool:
        """Tell whether there is something to commit; then listen."""
        due = not self._connection.closed and is_open(self._connection)
        if due:
            self._connection.add_notice_handler(self._note)
        return due

    def failed(self, error: psycopg.Error) -> Exception:
        """Return what to raise for an error in COMMIT."""
        unsent = isinstance(error, psycopg.ProgrammingError) and not error.sqlstate
        if self._connection.closed or not (error.sqlstate or unsent):
            return uncertain(f"{self._loan.lost}, in COMMIT")
        return error

    def check(self) -> None:
        """Raise if COMMIT's answer was not as good as it looked."""
        self._connection.remove_notice_handler(self._note)
        if any(notice.cancels_replication for notice in self._notices):
            raise uncertain(
                "committed there, but the wait for synchronous replication was"
                " cancelled"
            )

    def _note(self, diagnostic: errors.Diagnostic) -> None:
        self._notices.append(Notice.of(diagnostic))


def is_open(connection: Connection) -> bool:
    """Tell whether a transaction is open."""
    status = connection.pgconn.transaction_status
    return status in (_Status.INTRANS, _Status.INERROR)


def _is_nested(connection: Connection) -> bool:
    """Tell whether psycopg is in a transaction() or in a two-phase transaction.

    It knows of no end of these but its own.
    """
    here = connection
    return bool(here._num_transactions or here._tpc)  # noqa: SLF001


def _prepared(connection: Connection) -> Prepared:
    return cast("Prepared", connection._prepared)  # noqa: SLF001


class Sweeping:
    """What a connection needs before the next borrower may have it.

    Args:
        loan: The loan that ends.
        policy: soft, discard or rollback.
    """

    def __init__(self, loan: Loan, policy: str) -> None:
        self._settings = loan.settings
        self._connection = cast("psycopg.Connection[Any]", loan.connection)
        self._end = b"ROLLBACK" if is_open(loan.connection) else None
        prepared = _prepared(loan.connection)
        # Pools do not see all that is sent: anything may have been prepared by hand.
        self._sweep = Sweep(
            policy,
            touched=True,
            hiding=True,
            forget=prepared.renamed,
        )
        prepared.renamed, prepared.undone = False, ""

    def is_vain(self) -> bool:
        """Tell whether the connection has to be closed instead."""
        here = self._connection
        return (
            here.closed
            or is_busy(here)
            or _is_nested(here)
            or here._notifies_backlog is None  # noqa: SLF001  # a generator waits
        )

    def messages(self) -> list[bytes]:
        """Return what to send."""
        return self._sweep.messages(self._end)

    def is_clean(self, answers: list[PGresult]) -> bool:
        """Tell whether the answers prove that nothing is left in the session."""
        last = answers[-1] if answers else None
        proven = self._sweep.proves(last, self._connection)
        return proven and self._connection.pgconn.transaction_status == _Status.IDLE

    def restore(self) -> list[tuple[str, Any]]:
        """Bring psycopg's settings back; return those whose setters wait."""
        here = self._connection
        for name in _PLAIN:
            setattr(here, name, self._settings[name])
        here._notice_handlers.clear()  # noqa: SLF001
        here._notify_handlers.clear()  # noqa: SLF001
        here._notifies_backlog = deque()  # noqa: SLF001
        here._adapters = None  # noqa: SLF001  # made anew, from the global ones
        return [
            (name, self._settings[name])
            for name in _LOCKED
            if getattr(here, name) != self._settings[name]
        ]


def blame(error: BaseException | None, loan: Loan) -> str:
    """Return what a block's end says against the node; empty if nothing.

    An error's code alone says nothing: a function may raise any, and another server's
    errors pass through the block as well. A primary refuses only those to write who
    have set their own transaction read-only.
    """
    if loan.connection.broken:
        return "the connection was lost"
    refused = any(found.sqlstate == READ_ONLY for found in _drivers(error))
    if refused and loan.access == "write" and not _is_primary(loan.connection):
        return READ_ONLY
    return ""


def _is_primary(connection: Connection) -> bool:
    """Tell whether the server has said that it is one: those before 14 do not."""
    return (
        not connection.closed
        and connection.pgconn.parameter_status(b"in_hot_standby") == b"off"
    )


def explain(error: BaseException, loan: Loan) -> None:
    """Let the driver's errors say that we cut the connection: it blames the server."""
    for found in _drivers(error):
        if loan.silence and not found.sqlstate:
            found.args = (loan.lost,)


def _drivers(error: BaseException | None) -> Iterator[psycopg.Error]:
    """Yield the driver's errors in an error and in what caused it.

    Frameworks wrap them.
    """
    seen = 0
    while error is not None and seen < 10:  # noqa: PLR2004
        if isinstance(error, psycopg.Error):
            yield error
        error, seen = error.__cause__ or error.__context__, seen + 1

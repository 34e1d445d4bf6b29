"""One PostgreSQL connection, and one request after another on it.

OK means committed: a transaction is committed only when it is whole, and COMMIT's
answer is read to the letter. Nothing of a request stays for the next one: what the
reset cannot wipe away costs the connection.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import errors, pq

from falconas.database.connection import Connection
from falconas.database.conninfo import InvalidDsn, conninfo
from falconas.database.ending import end
from falconas.database.line import Line
from falconas.database.prepared import watch
from falconas.database.reset import (
    DISCARD,
    SOFT,
    Sweep,
    client_settings,
    forget_prepared,
    is_busy,
    may_rename,
)
from falconas.database.sqlstate import (
    FAILED_TRANSACTION,
    Notice,
    classify,
    ends_connection,
    is_conflict,
    uncertain,
)
from falconas.database.transaction import (
    BEGIN_READ,
    MARK_MISSING,
    READ_AUTOCOMMIT,
    TransactionState,
)
from falconas.database.unserved import Refused
from falconas.database.wording import in_short
from falconas.errors import FalconError, ScriptError, Started, Unavailable

__all__ = ["ConnectFailed", "InvalidDsn", "Session", "classify"]

log = logging.getLogger(__name__)

_NOTICES = 100

_Status = pq.TransactionStatus


class ConnectFailed(Exception):
    """PostgreSQL did not accept a connection."""


class Session(Line):
    """A connection and the transaction of the request on it.

    Attributes:
        notices: The last messages of the request.
    """

    def __init__(self, connection: Connection, reset: str = SOFT) -> None:
        if reset == DISCARD:  # what psycopg had prepared would be gone
            connection.prepare_threshold = None
        watch(connection)
        super().__init__(connection)
        self._policy = reset
        self._state = TransactionState()
        self._forget = False
        self.notices: deque[Notice] = deque(maxlen=_NOTICES)
        connection.add_notice_handler(self._note)
        connection.add_notify_handler(lambda _: None)  # else psycopg keeps them
        self._settings = client_settings(connection)

    @classmethod
    def connect(
        cls,
        dsn: str = "",
        *,
        application_name: str = "falconas",
        settings: Mapping[str, str] | None = None,
        reset: str = SOFT,
    ) -> Session:
        """Open a connection; see `conninfo` and `reset` for the arguments.

        Raises:
            InvalidDsn: The DSN is malformed.
            ConnectFailed: Nobody answered, or refused.
        """
        complete = conninfo(dsn, application_name=application_name, settings=settings)
        try:
            return cls(Connection.connect(complete, autocommit=True), reset)
        except psycopg.Error as error:
            text = in_short(error)
        raise ConnectFailed(text)  # outside: psycopg's error carries the password

    @property
    def touched(self) -> bool:
        """The request's script has sent a statement."""
        return self._state.touched

    def begin_write(self, *, autocommit: bool = False) -> None:
        """Begin the transaction of a write script; none if each statement is one.

        Raises:
            Refused: The node is a standby.
            SessionLost: The connection is gone.
        """
        self._state = TransactionState("write", autocommit=autocommit)
        self.notices.clear()
        if not self._ask(self._state.begin_write):
            self.sound = False
            raise Refused("the node is a standby, which takes no writes")
        self._state.begun = not autocommit

    def begin_read(self, *, snapshot: bool = True) -> None:
        """Note how the first statement is to begin a read; nothing is sent yet."""
        pending = BEGIN_READ if snapshot else READ_AUTOCOMMIT
        self._state = TransactionState("read", pending)
        self.notices.clear()

    @contextmanager
    def statement(
        self, *, joined: bool = False, opaque: bool = False, plain: bool = True
    ) -> Iterator[psycopg.Connection[Any]]:
        """Lend the connection for one statement of the script; then call `tagged`.

        Args:
            joined: Let a BEGIN that is due travel in the statement's round trip. The
                statement's results are there when the block has ended.
            opaque: It may end the transaction and not show it if it fails.
            plain: It cannot end the transaction, whatever becomes of it.
        """
        state = self._state
        if state.breach is not None:
            raise state.breach
        if self._connection.lock.locked():
            raise psycopg.ProgrammingError(
                "another statement of this request is running: end its stream or COPY"
            )
        state.touched = True
        state.unseen = opaque or not plain
        try:
            pending = state.take_pending()
            if joined and pending is BEGIN_READ:
                with self._connection.pipeline():
                    self._connection.execute(pending)
                    yield self._connection
            else:
                if pending:
                    self._command(pending)
                yield self._connection
        except BaseException as error:
            self._forget = True  # what was prepared is not rolled back
            if isinstance(error, psycopg.Error):
                self._failed(error)
            elif not plain:  # nobody knows how far it came
                opaque = True
            state.opaque = state.opaque or opaque
            state.watch(idle=self._is_idle())
            raise

    def tagged(self, tags: list[str], *, opaque: bool = False) -> None:
        """Note a statement's command tags; raises on those of transactions."""
        self._forget = self._forget or opaque or may_rename(tags)
        self._state.tagged(tags, idle=self._is_idle(), opaque=opaque)
        if self._state.needs_mark(tags):
            self._command(self._state.mark)

    @property
    def doubtful(self) -> bool:
        """A failed write may have been committed in part all the same."""
        return self._state.doubtful

    @property
    def conflict(self) -> bool:
        """The node's recovery ended the transaction: a primary has none."""
        return self._state.conflict is not None

    def classify(self, error: psycopg.Error, *, late: bool = False) -> FalconError:
        """Return what the caller gets for an error of this request."""
        self._failed(error)
        if self.lost:
            error = self._state.conflict or error
        return classify(error, access=self._state.access, late=late, lost=self.lost)

    def verify(self) -> None:
        """Check after the script that its transaction may be committed.

        Raises:
            FalconError: It is not whole; nothing of it may be called done.
        """
        self._state.watch(idle=self._is_idle())
        if self._state.breach is not None:
            raise self._state.breach
        if self.lost and self._state.conflict is not None:
            raise self._swallowed()
        if self.lost:
            raise Unavailable(
                "the database connection was lost", started=Started.YES, retry_safe=True
            )
        if is_busy(self._connection):
            self.sound = False
            raise ScriptError(
                "the script left a statement, stream or COPY running",
                started=Started.YES,
            )
        status = self._pgconn.transaction_status
        if status == _Status.INERROR and not self._state.autocommit:
            raise self._swallowed()
        if status != _Status.IDLE and not self._state.begun:
            raise ScriptError("the script left a transaction open", started=Started.YES)
        self._state.complete = True

    def commit(self) -> int | None:
        """Commit a write's transaction; call `verify` before.

        Returns:
            A position in the log by which it was committed, if the server told.

        Raises:
            FalconError: It was rolled back, or, with code UNAVAILABLE and
                started=unknown, nobody can say.
        """
        if self._state.autocommit:
            committed, error, position = True, None, self._position()
        else:
            self._state.unreplicated = False
            committed, error, position = end(self._pgconn, self._state.commit)
        lost = self.lost or bool(error and not error.sqlstate)  # libpq's: no answer
        self.sound = self.sound and not lost
        if lost and not committed:
            raise uncertain("the connection was lost in COMMIT")
        if error:
            raise self._refused(error)
        if not committed:
            raise self._swallowed()
        if self._state.unreplicated:
            raise uncertain(
                "committed here, but the wait for synchronous replication was cancelled"
            )
        return position

    def _refused(self, error: psycopg.Error) -> FalconError:
        """Return the verdict on an error that came instead of COMMIT's answer."""
        if self._pgconn.transaction_status != _Status.INERROR:
            self._state.opaque = False  # COMMIT was reached: the mark was there
        elif error.sqlstate == FAILED_TRANSACTION:
            return self._swallowed()
        elif error.sqlstate == MARK_MISSING:
            return self._state.replaced()
        return self.classify(error)

    def interrupted(self) -> None:
        """Stop at once what an interrupted script left running.

        psycopg was interrupted with it: the reset keeps what surely took no harm.
        """
        self._state.interrupted = True
        if self._pgconn.transaction_status == _Status.ACTIVE:
            self.sound = False
            self._cancel()

    def reset(self) -> bool:
        """Sweep after the request; close the connection if that fails."""
        lasting = self._state.lasting and self._policy != DISCARD
        if lasting or is_busy(self._connection):
            self.sound = False
        if self.sound and client_settings(self._connection) == self._settings:
            try:
                if self._state.interrupted:
                    forget_prepared(self._connection)
                self._sweep()
            except psycopg.Error as error:
                why = in_short(error)
                log.warning("reset failed, the connection is replaced: %s", why)
                self.sound = False
        else:
            self.sound = False
        if not self.sound:
            self._abandon()
        self._state = TransactionState()
        self._forget = False
        self.notices.clear()
        return self.sound

    def _sweep(self) -> None:
        end = None
        if not self._is_idle():
            reads = self._state.complete and self._state.access == "read"
            end = b"COMMIT" if reads else b"ROLLBACK"
        sweep = Sweep(self._policy, self._state.touched, forget=self._forget)
        proven = sweep.run(self._command, self._connection, end)
        self.sound = proven and self._is_idle()

    def _abandon(self) -> None:
        if self._pgconn.transaction_status == _Status.ACTIVE:
            self._cancel()
        self.close()

    def _failed(self, error: psycopg.Error) -> None:
        if self._state.failure is None:
            self._state.failure = error
        if is_conflict(error, standby=self.role == "standby"):
            self._state.conflict = error
        if self.lost or ends_connection(error, access=self._state.access):
            self.sound = False

    def _swallowed(self) -> FalconError:
        error = self._state.conflict or self._state.failure
        return self._state.swallowed(None if error is None else self.classify(error))

    def _note(self, diagnostic: errors.Diagnostic) -> None:
        notice = Notice.of(diagnostic)
        self.notices.append(notice)
        if notice.cancels_replication:
            self._state.unreplicated = True

"""One PostgreSQL connection, and one request after another on it.

OK means committed: a transaction is committed only when it is whole, and COMMIT's
answer is read to the letter. Nothing of a request stays for the next one: what the
reset cannot wipe away costs the connection.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

import psycopg
from psycopg import errors, pq

from falconas.database.connection import Connection
from falconas.database.conninfo import InvalidDsn, conninfo
from falconas.database.ending import end
from falconas.database.flight import arrive, depart
from falconas.database.reset import (
    DISCARD,
    SOFT,
    Sweep,
    client_settings,
    forget_prepared,
    is_busy,
)
from falconas.database.sqlstate import FAILED_TRANSACTION, classify, uncertain
from falconas.database.transaction import (
    BEGIN_READ,
    MARK_MISSING,
    READ_AUTOCOMMIT,
    TransactionState,
)
from falconas.database.unserved import Refused
from falconas.database.wording import in_short
from falconas.database.working import Working
from falconas.errors import FalconError, ScriptError, Started, Unavailable

__all__ = ["ConnectFailed", "InvalidDsn", "Session", "classify"]

log = logging.getLogger(__name__)

PATIENCE = 5.0  # for the answers to a reset; a supervisor's is 10

# To look up an enum's member takes as long as ten other names.
_IDLE, _ACTIVE = pq.TransactionStatus.IDLE, pq.TransactionStatus.ACTIVE
_INERROR = pq.TransactionStatus.INERROR
_FAILED = pq.ExecStatus.FATAL_ERROR


class ConnectFailed(Exception):
    """PostgreSQL did not accept a connection."""


class Session(Working):
    """A connection and the transaction of the request on it."""

    def __init__(self, connection: Connection, reset: str = SOFT) -> None:
        if reset == DISCARD:  # what psycopg had prepared would be gone
            connection.prepare_threshold = None
        super().__init__(connection)
        self._policy = reset
        self._sweep: Sweep | None = None
        self._messages: list[bytes] = []
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

    def begin_write(self, *, autocommit: bool = False) -> None:
        """Begin the transaction of a write script; none if each statement is one.

        Raises:
            Refused: The node is a standby.
            SessionLost: The connection is gone.
        """
        self._state = TransactionState("write", autocommit=autocommit)
        self.notices.clear()
        self._connection.begin()
        if not self._ask(self._state.begin_write):
            self.sound = False
            raise Refused("the node is a standby, which takes no writes")
        self._state.begun = not autocommit

    def begin_read(self, *, snapshot: bool = True) -> None:
        """Note how the first statement is to begin a read; nothing is sent yet."""
        pending = BEGIN_READ if snapshot else READ_AUTOCOMMIT
        self._state = TransactionState("read", pending)
        self.notices.clear()
        self._connection.begin()

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
                "the script left a statement, a pipeline, stream or COPY open",
                started=Started.YES,
            )
        status = self._pgconn.transaction_status
        if status == _INERROR and not self._state.autocommit:
            raise self._swallowed()
        if status != _IDLE and not self._state.begun:
            raise ScriptError("the script left a transaction open", started=Started.YES)
        if self._state.may_write and not self._reads_only():
            raise ScriptError(
                "the script made its read-only transaction one that writes, and what it"
                " did was rolled back; a script that writes declares access='write'",
                started=Started.YES,
            )
        self._state.complete = True

    def _reads_only(self) -> bool:
        try:
            result = self._command(b"SHOW transaction_read_only")
        except psycopg.Error as error:
            raise self.classify(error) from None
        return result.get_value(0, 0) == b"on"

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
        if self._pgconn.transaction_status != _INERROR:
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
        if self._pgconn.transaction_status == _ACTIVE:
            self.sound = False
            self._cancel()

    def is_as_new(self) -> bool:
        """Tell whether nothing shows that anybody has used it since it was swept.

        Who has kept an object of psycopg's needs nothing that was lent to him.
        """
        here = self._connection
        settled = self._pgconn.transaction_status == _IDLE and not is_busy(here)
        return settled and self.sound and client_settings(here) == self._settings

    @property
    def resetting(self) -> bool:
        """What `begin_reset` has sent was not answered yet, or nobody has looked."""
        return self._sweep is not None

    def reset(self) -> bool:
        """Sweep after the request; close the connection if that fails."""
        return self.begin_reset() and self.finish_reset()

    def begin_reset(self) -> bool:
        """Send what sweeps after the request, without waiting for the answers.

        Call `finish_reset` before the next request, or when the socket has news.

        Returns:
            False if the connection is closed already.
        """
        state = self._state
        lasting = state.lasting and self._policy != DISCARD
        changed = client_settings(self._connection) != self._settings
        whole = self.sound and not (lasting or changed or is_busy(self._connection))
        clean = not (state.touched or state.interrupted) and self._is_idle()
        self.sound = False  # until the end: whatever is raised in here
        self.sound = whole and (clean or self._try(self._send_sweep))
        if not self.sound:
            self._abandon()
        self._state = TransactionState()
        self._forget = False
        self.notices.clear()
        self._connection.begin()
        return self.sound

    def finish_reset(self, patience: float = PATIENCE) -> bool:
        """Read the answers to `begin_reset`; close the connection if one is wrong.

        Args:
            patience: How many seconds to wait for them.

        Returns:
            Whether the session is as new.
        """
        sweep, self._sweep = self._sweep, None
        if sweep is not None:
            self.sound = False
            self.sound = self._try(lambda: self._read_sweep(sweep, patience))
            if not self.sound:
                self._abandon()
        return self.sound

    def check(self) -> bool:
        """Find out what news the socket of an idle session has."""
        return self.finish_reset() if self.resetting else super().check()

    def _send_sweep(self) -> bool:
        """Send the first message, if there is one."""
        state, end = self._state, None
        if state.interrupted:
            forget_prepared(self._connection)
        if not self._is_idle():
            reads = state.complete and state.access == "read"
            end = b"COMMIT" if reads else b"ROLLBACK"
        sweep = Sweep(self._policy, state.touched, forget=self._forget)
        self._messages = sweep.messages(end)
        if not self._messages:
            return True
        self._sweep = sweep
        if depart(self._pgconn, self._messages[0]):
            return True
        return self.finish_reset()

    def _read_sweep(self, sweep: Sweep, patience: float) -> bool:
        """Read its answers, and send and read what is left."""
        for number, message in enumerate(self._messages):
            if number:
                depart(self._pgconn, message)
            answers = arrive(self._connection, patience)
            if not answers:
                return False
            if answers[-1].status == _FAILED:
                raise errors.error_from_result(answers[-1])
        return sweep.proves(answers[-1], self._connection) and self._is_idle()

    def _try(self, step: Callable[[], bool]) -> bool:
        try:
            return step()
        except psycopg.Error as error:
            why = in_short(error)
            log.warning("reset failed, the connection is replaced: %s", why)
            return False

    def _abandon(self) -> None:
        if self._pgconn.transaction_status == _ACTIVE:
            self._cancel()
        self.close()

    def _swallowed(self) -> FalconError:
        error = self._state.conflict or self._state.failure
        return self._state.swallowed(None if error is None else self.classify(error))

"""One connection to a node, beneath what a request makes of it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import psycopg
from psycopg import errors, pq

from falconas.database.connection import Connection
from falconas.database.ending import position_in
from falconas.database.sqlstate import NO_WRITES, classify
from falconas.database.topology import lsn_text
from falconas.database.transaction import POSITION, REPLAYED
from falconas.database.unserved import Refused, SessionLost
from falconas.database.wording import in_short

if TYPE_CHECKING:
    from psycopg.pq.abc import PGresult

log = logging.getLogger(__name__)

_CANCEL_TIMEOUT = 1.0

_ROLES = {b"on": "standby", b"off": "primary"}
# To look up an enum's member takes as long as ten other names.
_Idle, _Bad = pq.TransactionStatus.IDLE, pq.ConnStatus.BAD
_Failed = pq.ExecStatus.FATAL_ERROR


class Line:
    """A connection to a node, and single messages on it.

    Attributes:
        sound: It may serve another request.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._pgconn = connection.pgconn
        self.sound = True

    def fileno(self) -> int:
        """Return the socket: readable while idle means news, mostly bad ones."""
        return self._pgconn.socket

    def check(self) -> bool:
        """Ask the server for a sign of life; for an idle session."""
        try:
            self._command(b"")
        except psycopg.Error:
            self.sound = False
        return self.sound

    def close(self) -> None:
        """Close the connection; what was not committed is rolled back."""
        self.sound = False
        self._connection.end()

    @property
    def lost(self) -> bool:
        """The connection is gone."""
        return self._pgconn.status == _Bad

    @property
    def awaited(self) -> float:
        """How long a statement that runs has been without an answer, 0 if none does."""
        return self._connection.awaited

    @property
    def role(self) -> str:
        """The node's, as far as it has told: "primary", "standby" or "unknown"."""
        try:
            standby = self._pgconn.parameter_status(b"in_hot_standby")
        except psycopg.OperationalError:  # it is closed
            standby = None
        return _ROLES.get(standby or b"", "unknown")

    def shows(self, lsn: int) -> bool:
        """Tell whether a script that starts now sees what was written up to `lsn`.

        Raises:
            SessionLost: The connection is gone.
        """
        return self.role == "primary" or self._ask(REPLAYED % lsn_text(lsn).encode())

    def _cancel(self) -> None:
        try:
            self._connection.cancel_safe(timeout=_CANCEL_TIMEOUT)
        except psycopg.Error as error:
            why = in_short(error)
            log.warning("a running statement could not be cancelled: %s", why)

    def _is_idle(self) -> bool:
        idle = self._pgconn.transaction_status == _Idle
        return idle and not self._connection.in_pipeline

    def _ask(self, sql: bytes) -> bool:
        """Ask before a script starts, and tell whether the answer is no `false`."""
        try:
            result = self._command(sql)
        except psycopg.Error as error:
            self.sound = False
            refused = error.sqlstate in NO_WRITES
            text = classify(error, lost=self.lost).message
            raise (Refused if refused else SessionLost)(text) from None
        return not result.ntuples or result.get_value(0, 0) == b"t"

    def _position(self) -> int | None:
        try:
            return position_in(self._command(POSITION))
        except psycopg.Error:
            return None

    def _command(self, sql: bytes) -> PGresult:
        result = self._pgconn.exec_(sql)
        if result.status == _Failed:
            raise errors.error_from_result(result)
        return result

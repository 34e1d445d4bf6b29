"""What a lent connection notes of its borrower's doings: psycopg says nothing of it.

A transaction that has failed is rolled back by COMMIT, without an error; so is an open
one by closing the connection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from psycopg import BaseConnection, pq

from falconas.database.prepared import NO_COMMIT, Prepared

if TYPE_CHECKING:
    from psycopg.abc import PQGen, QueryNoTemplate
    from psycopg.pq.abc import PGresult

_CLOSED = "the block closed its connection, and what was not committed is rolled back"
_QUIET = (pq.TransactionStatus.IDLE, pq.TransactionStatus.UNKNOWN)


class Lent(BaseConnection[Any]):
    """The part of a pool's connection that threads and coroutines share."""

    def _exec_command(
        self, command: QueryNoTemplate, result_format: pq.Format = pq.Format.TEXT
    ) -> PQGen[PGresult | None]:
        failed = self.pgconn.transaction_status == pq.TransactionStatus.INERROR
        if failed and command == b"COMMIT":
            self._note(NO_COMMIT)
        return super()._exec_command(command, result_format)

    def _closing(self) -> None:
        if self.pgconn.transaction_status not in _QUIET:
            self._note(_CLOSED)

    def _note(self, why: str) -> None:
        cast("Prepared", self._prepared).undone = why

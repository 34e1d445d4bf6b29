"""What is lent to a script: its session, a savepoint or transaction, a COPY."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import psycopg
from psycopg import pq

if TYPE_CHECKING:
    from psycopg.abc import Buffer

    from falconas.database.session import Session

TupleRow = tuple[Any, ...]

_ENDED = "the request has ended, and ctx.db with it"


class Lease:
    """A session lent to one request.

    Attributes:
        over: Any further use is refused.
        used: The session was asked for.
    """

    def __init__(self, session: Session) -> None:
        self.over = self.used = False
        self._session: Session | None = session
        self._why = _ENDED

    @property
    def session(self) -> Session:
        """The session, as long as the request lasts."""
        self.used = True  # first: another thread may have the next word
        session = self._session
        if session is None:
            raise psycopg.InterfaceError(self._why)
        return session

    def end(self, why: str = _ENDED) -> None:
        """Refuse any further use."""
        self.over, self._session, self._why = True, None, why


class Savepoint(psycopg.Transaction):
    """Returned by `Database.transaction`; `psycopg.Rollback(savepoint)` ends it.

    Where each statement commits for itself, the outermost one is a transaction.
    """

    @property
    def swallowed(self) -> psycopg.Error | None:
        """An error if this is a transaction that failed: COMMIT would not tell."""
        failed = self.pgconn.transaction_status == pq.TransactionStatus.INERROR
        if self.savepoint_name or not failed:
            return None
        text = "the transaction failed inside and is rolled back"
        return psycopg.errors.InFailedSqlTransaction(text)

    @property
    def connection(self) -> NoReturn:
        """Scripts have no connection."""
        refuse()


class Copy:
    """psycopg's COPY, without its connection."""

    def __init__(self, raw: psycopg.Copy) -> None:
        self.write: Callable[[Buffer | str], None] = raw.write
        self.write_row: Callable[[Sequence[Any]], None] = raw.write_row
        self.set_types: Callable[[Sequence[int | str]], None] = raw.set_types
        self.read: Callable[[], Buffer] = raw.read
        self.read_row: Callable[[], TupleRow | None] = raw.read_row
        self.rows: Callable[[], Iterator[TupleRow]] = raw.rows
        self._raw = raw

    def __iter__(self) -> Iterator[Buffer]:
        return iter(self._raw)


def refuse() -> NoReturn:
    """Say that scripts get no connection."""
    raise AttributeError("scripts have no connection, only ctx.db")

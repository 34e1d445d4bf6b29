"""The database as a script may use it: psycopg's API, without its transactions.

Scripts never hold the connection: they hold objects that refuse when the request has
ended, so that nothing a script keeps can reach into another request.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar, overload

import psycopg

from falconas.database.blocks import Copy, Lease, Savepoint, refuse
from falconas.database.statements import Kind, is_plain

if TYPE_CHECKING:
    from types import TracebackType

    from psycopg.abc import Params, Query
    from psycopg.adapt import AdaptersMap
    from psycopg.rows import RowFactory

    from falconas.database.cursor import Cursor as PsycopgCursor

Row = TypeVar("Row")
TupleRow = tuple[Any, ...]

_INSTEAD = (
    dict.fromkeys(
        ("commit", "rollback"),
        ": what `run` did is committed when it returns, and rolled back when it raises",
    )
    | dict.fromkeys(
        ("close", "cancel", "autocommit", "isolation_level", "read_only", "info"),
        ": the connection is the worker's",
    )
    | {"row_factory": ": give `row_factory` to execute() or cursor()"}
)


class Database:
    """The connection as a script may use it: psycopg's, without its transactions.

    There is no commit and no rollback: what `run` has done is committed when it
    returns and rolled back when it raises. `transaction()` makes a savepoint. Use
    ends with the request. In a group with autocommit each statement commits for
    itself, and `transaction()` makes a transaction.
    """

    __slots__ = ("_lease",)

    def __init__(self, lease: Lease) -> None:
        self._lease = lease

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> NoReturn:
            raise AttributeError(f"ctx.db has no {name}{_INSTEAD.get(name, '')}")

    @overload
    def execute(
        self,
        query: Query,
        params: Params | None = None,
        *,
        row_factory: None = None,
        prepare: bool | None = None,
        binary: bool = False,
    ) -> Cursor[TupleRow]: ...

    @overload
    def execute(
        self,
        query: Query,
        params: Params | None = None,
        *,
        row_factory: RowFactory[Row],
        prepare: bool | None = None,
        binary: bool = False,
    ) -> Cursor[Row]: ...

    def execute(
        self,
        query: Query,
        params: Params | None = None,
        *,
        row_factory: RowFactory[Any] | None = None,
        prepare: bool | None = None,
        binary: bool = False,
    ) -> Cursor[Any]:
        """Run a statement and return a cursor with its result."""
        cursor = Cursor(self._lease, row_factory)
        return cursor.execute(query, params, prepare=prepare, binary=binary)

    def executemany(self, query: Query, params_seq: Iterable[Params]) -> None:
        """Run a statement once for each set of parameters, in one pipeline."""
        with self.cursor() as cursor:
            cursor.executemany(query, params_seq)

    @overload
    def cursor(self, *, row_factory: None = None) -> Cursor[TupleRow]: ...

    @overload
    def cursor(self, *, row_factory: RowFactory[Row]) -> Cursor[Row]: ...

    def cursor(self, *, row_factory: RowFactory[Any] | None = None) -> Cursor[Any]:
        """Return a new cursor."""
        return Cursor(self._lease, row_factory)

    def stream(
        self,
        query: Query,
        params: Params | None = None,
        *,
        row_factory: RowFactory[Any] | None = None,
        size: int = 1,
    ) -> Iterator[Any]:
        """Yield rows as they arrive; nothing else can run until it ends."""
        return self.cursor(row_factory=row_factory).stream(query, params, size=size)

    @contextmanager
    def copy(self, statement: Query, params: Params | None = None) -> Iterator[Copy]:
        """Run COPY FROM STDIN or COPY TO STDOUT."""
        with self.cursor() as cursor, cursor.copy(statement, params) as copy:
            yield copy

    @contextmanager
    def pipeline(self) -> Iterator[None]:
        """Send the block's statements without waiting for each one's answer.

        Answers are waited for where rows are fetched, and at the end of the block,
        which raises the first error. COPY and `stream` cannot be within.
        """
        lease = self._lease
        with lease.session.pipeline(lambda: lease.over):
            yield

    @contextmanager
    def transaction(self, *, force_rollback: bool = False) -> Iterator[Savepoint]:
        """Make a savepoint, a transaction under autocommit; roll back on errors."""
        piped = self._lease.session.connection.in_pipeline
        with ExitStack() as blocks:
            if piped:  # an error has to be known before the savepoint ends
                blocks.enter_context(self.pipeline())
            savepoint = blocks.enter_context(self._savepoint(force_rollback))
            if piped:
                blocks.enter_context(self.pipeline())
            yield savepoint

    @contextmanager
    def _savepoint(self, force_rollback: bool) -> Iterator[Savepoint]:
        with self._lease.session.statement() as connection:
            savepoint = Savepoint(connection, force_rollback=force_rollback)
            savepoint.__enter__()
        try:
            yield savepoint
        except BaseException as error:
            # If the lease is over, all of the transaction is rolled back soon.
            if self._lease.over or not self._leave(savepoint, error):
                raise
        else:
            self._leave(savepoint, None)

    def _leave(self, savepoint: Savepoint, error: BaseException | None) -> bool:
        swallowed = savepoint.swallowed if error is None else None
        error = swallowed or error
        with self._lease.session.statement():
            kind = None if error is None else type(error)
            handled = savepoint.__exit__(kind, error, None)
        if swallowed is not None:
            raise swallowed
        return handled


class Cursor(Generic[Row]):
    """psycopg's cursor, without its connection."""

    __slots__ = ("_lease", "_raw", "_row_factory")

    def __init__(self, lease: Lease, row_factory: RowFactory[Row] | None) -> None:
        self._lease = lease
        self._row_factory = row_factory
        self._raw: PsycopgCursor[Row] | None = None

    def execute(
        self,
        query: Query,
        params: Params | None = None,
        *,
        prepare: bool | None = None,
        binary: bool | None = None,
    ) -> Cursor[Row]:
        """Run a statement; without parameters also several, separated by `;`."""
        session = self._lease.session
        raw = self._raw or self._open()
        session.execute(raw, query, params, prepare, binary)
        return self

    def executemany(
        self, query: Query, params_seq: Iterable[Params], *, returning: bool = False
    ) -> None:
        """Run a statement once for each set of parameters, in one pipeline."""
        session = self._lease.session
        with session.statement(Kind(joined=True, plain=is_plain(query))):
            self._open().executemany(query, params_seq, returning=returning)

    def stream(
        self, query: Query, params: Params | None = None, *, size: int = 1
    ) -> Iterator[Row]:
        """Yield rows as they arrive; nothing else can run until it ends."""
        session = self._lease.session
        with session.statement(Kind(opaque=not is_plain(query), blind=True)):
            yield from self._open().stream(query, params, size=size)

    @contextmanager
    def copy(self, statement: Query, params: Params | None = None) -> Iterator[Copy]:
        """Run COPY FROM STDIN or COPY TO STDOUT."""
        kind = Kind(opaque=not is_plain(statement), blind=True)
        with (
            self._lease.session.statement(kind),
            self._open().copy(statement, params) as copy,
        ):
            yield Copy(copy)

    def fetchone(self) -> Row | None:
        """Return the next row, None if there is none."""
        raw = self._raw
        if raw is None or self._lease.over:
            raw = self._loaded()  # says why not
        return raw.fetchone()

    def fetchmany(self, size: int = 0) -> list[Row]:
        """Return the next rows."""
        return self._loaded().fetchmany(size)

    def fetchall(self) -> list[Row]:
        """Return all rows that are left."""
        return self._loaded().fetchall()

    def __iter__(self) -> Iterator[Row]:
        lease = self._lease
        for row in self._loaded().rows():
            yield row
            if lease.over:
                lease.session  # noqa: B018 - it raises, and says why

    def __next__(self) -> Row:
        return next(self._loaded())

    def nextset(self) -> bool | None:
        """Move to the next result of several statements."""
        return self._loaded().nextset()

    def results(self) -> Iterator[Cursor[Row]]:
        """Yield this cursor at each of its results."""
        for _ in self._loaded().results():
            yield self

    def scroll(self, value: int, mode: str = "relative") -> None:
        """Move within the rows."""
        self._loaded().scroll(value, mode)

    def close(self) -> None:
        """Free the result."""
        if self._raw is not None:
            self._raw.close()

    def __enter__(self) -> Cursor[Row]:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def description(self) -> list[psycopg.Column] | None:
        """The columns of the result, None if it has none."""
        return self._open().description

    @property
    def arraysize(self) -> int:
        """How many rows `fetchmany` returns if it is not told."""
        return self._open().arraysize

    @arraysize.setter
    def arraysize(self, rows: int) -> None:
        self._open().arraysize = rows

    @property
    def row_factory(self) -> RowFactory[Row]:
        """What makes the rows, also those that are left of a result."""
        return self._open().row_factory

    @row_factory.setter
    def row_factory(self, factory: RowFactory[Row]) -> None:
        self._open().row_factory = factory

    @property
    def rowcount(self) -> int:
        """Rows returned or changed by the last statement."""
        return -1 if self._raw is None else self._raw.rowcount

    @property
    def statusmessage(self) -> str | None:
        """The server's answer, for example `INSERT 0 1`."""
        return None if self._raw is None else self._raw.statusmessage

    @property
    def adapters(self) -> AdaptersMap:
        """Adapters of this cursor alone."""
        return self._open().adapters

    @property
    def connection(self) -> NoReturn:
        """Scripts have no connection."""
        refuse()

    def _open(self) -> PsycopgCursor[Row]:
        connection = self._lease.session.connection
        raw = self._raw
        if raw is None:
            raw = self._raw = connection.make_cursor(self._row_factory)
        return raw

    def _loaded(self) -> PsycopgCursor[Row]:
        raw = self._raw if self._lease.session else None
        if raw is None:
            raise psycopg.ProgrammingError("no result available")
        return raw

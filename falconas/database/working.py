"""A connection on which the statements of a request run, and what is noted of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import errors, pq

from falconas.database.line import Line
from falconas.database.reset import may_rename
from falconas.database.sqlstate import Notice, classify, ends_connection, is_conflict
from falconas.database.statements import Kind, look
from falconas.database.transaction import BEGIN_READ, TransactionState

if TYPE_CHECKING:
    from psycopg.abc import Params, Query

    from falconas.database.connection import Connection
    from falconas.database.cursor import Cursor
    from falconas.errors import FalconError

_NOTICES = 100

_Idle = int(pq.TransactionStatus.IDLE)  # an enum's member is slow to compare

ITSELF, JOINED = Kind(), Kind(joined=True)
_PIPELINE = Kind(joined=True, several=True)


class Working(Line):
    """A connection and what a request's script does on it.

    Attributes:
        notices: The last messages of the request.
    """

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self._state = TransactionState()
        self._forget = False
        self.notices: deque[Notice] = deque(maxlen=_NOTICES)
        connection.add_notice_handler(self._note)

    @property
    def connection(self) -> Connection:
        """For what sends nothing: to make a cursor."""
        return self._connection

    @property
    def touched(self) -> bool:
        """The request's script has sent a statement."""
        return self._state.touched

    def execute(
        self,
        cursor: Cursor[Any],
        query: Query,
        params: Params | None,
        prepare: bool | None = None,
        binary: bool | None = None,
    ) -> None:
        """Run a statement of the script; without parameters also several."""
        kind = look(query, params)
        self._enter(kind)
        try:
            cursor.run(query, params, prepare, binary)
        except BaseException as error:
            self._broke(error, kind)
            raise
        self._left(kind)

    @contextmanager
    def statement(self, kind: Kind = ITSELF) -> Iterator[Connection]:
        """Lend the connection for a statement of the script."""
        self._enter(kind)
        try:
            yield self._connection
        except BaseException as error:
            self._broke(error, kind)
            raise
        self._left(kind)

    @contextmanager
    def pipeline(self, over: Callable[[], bool]) -> Iterator[None]:
        """Send the statements of the block without waiting for their answers.

        Args:
            over: Tells whether the request is: then the answers are of no use, and what
                is left open costs the connection.
        """
        state, here = self._state, self._connection
        with self.statement(_PIPELINE):
            here.enter_pipeline()
            if state.pending is not None:
                state.take_pending()
            try:
                yield
            except BaseException as error:
                if not over():
                    here.leave_pipeline(error)
                raise
            here.leave_pipeline(None)

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

    def _enter(self, kind: Kind) -> None:
        state, here = self._state, self._connection
        if state.breach is not None:
            raise state.breach
        if here.lock.locked():
            raise psycopg.ProgrammingError(
                "another statement of this request is running: end its stream or COPY"
            )
        state.touched = True
        state.unseen = (
            kind.opaque or not kind.plain or (state.unseen and here.in_pipeline)
        )
        if state.pending is not None:
            self._begin(kind)

    def _begin(self, kind: Kind) -> None:
        state, here = self._state, self._connection
        if kind.joined and state.pending is BEGIN_READ:
            here.due = BEGIN_READ
        elif pending := state.take_pending():
            here.due = None
            try:
                self._command(pending)
            except BaseException as error:
                self._broke(error, kind)
                raise

    def _left(self, kind: Kind) -> None:
        """Note what a statement's answers say of the transaction; raises a breach."""
        state, here = self._state, self._connection
        opaque = kind.blind and kind.opaque
        if here._pipeline is not None:  # noqa: SLF001 - then they come later
            state.opaque = state.opaque or opaque
            return
        if state.pending is not None and here.due is None:
            state.take_pending()
        tags, idle = here.seen, self._pgconn.transaction_status == _Idle
        if tags or opaque:
            here.seen = []
            self._forget = self._forget or opaque or may_rename(tags)
        elif not idle and state.breach is None:  # mostly they say nothing
            state.unseen = False
            return
        state.tagged(tags, idle, opaque, kind.several)
        if tags and state.needs_mark(tags):
            self._command(state.mark)

    def _broke(self, error: BaseException, kind: Kind) -> None:
        state, here, opaque = self._state, self._connection, kind.opaque
        self._forget = True  # what was prepared is not rolled back
        if isinstance(error, psycopg.Error):
            self._failed(error)
        elif not kind.plain:  # nobody knows how far it came
            opaque = True
        state.opaque = state.opaque or opaque
        if here.in_pipeline:
            return
        if state.pending is not None and here.due is None:
            state.take_pending()
        here.due = None
        tags, here.seen = here.seen, []
        state.note(tags, idle=self._is_idle(), several=kind.several)

    def _failed(self, error: psycopg.Error) -> None:
        if self._state.failure is None:
            self._state.failure = error
        if is_conflict(error, standby=self.role == "standby"):
            self._state.conflict = error
        if self.lost or ends_connection(error, access=self._state.access):
            self.sound = False

    def _note(self, diagnostic: errors.Diagnostic) -> None:
        notice = Notice.of(diagnostic)
        self.notices.append(notice)
        if notice.cancels_replication:
            self._state.unreplicated = True

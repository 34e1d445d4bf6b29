"""psycopg's cursor, which needs one round trip for what takes psycopg two or three.

A BEGIN that is due and the preparation of a statement travel with the statement. Of
each answer the command tag is noted, if it is one to take note of.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import ref

import psycopg
from psycopg import errors, pq
from psycopg._preparing import Prepare
from psycopg._queries import PostgresQuery
from psycopg.adapt import AdaptersMap, Transformer
from psycopg.generators import execute, fetch_many

from falconas.database.prepared import tag_of
from falconas.database.statements import layout

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from psycopg._preparing import Key
    from psycopg.abc import Params, Query
    from psycopg.pq.abc import PGresult
    from psycopg.rows import RowFactory

    from falconas.database.connection import Connection
    from falconas.database.pipeline import Pipeline

Row = TypeVar("Row")

AHEAD = 50  # rows
PARAMETERS = 65_535  # of a statement, by the protocol
TEXT = 200  # characters of a statement, for the log
# To look up an enum's member takes as long as ten other names.
_FAILED, _SYNC = pq.ExecStatus.FATAL_ERROR, pq.ExecStatus.PIPELINE_SYNC
_ROWS, _TEXT = pq.ExecStatus.TUPLES_OK, pq.Format.TEXT
_SHOULD, _NO = Prepare.SHOULD, Prepare.NO
# Nearly all answers are one of these, and say nothing about transaction or session.
_SILENT = (b"INSERT", b"UPDATE", b"DELETE")


class Cursor(psycopg.Cursor[Row]):
    """A cursor of our `Connection`, in whose `due` and `seen` it looks and writes."""

    __slots__ = ("_own",)

    _conn: Connection

    def __init__(
        self, connection: Connection, *, row_factory: RowFactory[Row] | None = None
    ) -> None:
        # As psycopg's, but for adapters, which few cursors have of their own.
        self._conn = connection
        self._pgconn = connection.pgconn
        self.format = _TEXT
        self.arraysize = 1
        self._own: AdaptersMap | None = None
        self._closed = False
        self._last_query: Query | None = None
        self._row_factory = row_factory or connection.row_factory
        self._reset()

    @property
    def adapters(self) -> AdaptersMap:
        """Adapters of this cursor alone, from its next query on."""
        if self._own is None:
            self._own = AdaptersMap(self._conn.adapters)
            changed = partial(self._loaders_changed, ref(self))
            self._own._register_loader_callback = changed  # noqa: SLF001
            self._last_query = None
        return self._own

    def _execute_gen(
        self,
        query: Query,
        params: Params | None = None,
        *,
        prepare: bool | None = None,
        binary: bool | None = None,
    ) -> Generator[Any, Any, None]:
        """Do what psycopg's does, in one generator: each costs a microsecond."""
        here = self._conn
        if self._closed or not here._autocommit:  # noqa: SLF001
            yield from super()._execute_gen(
                query, params, prepare=prepare, binary=binary
            )
            return
        prepared = here._prepared  # noqa: SLF001
        self._reset()
        if not self._last_query or self._last_query is not query:
            self._last_query = None
            self._tx = Transformer(here if self._own is None else self)
        pgq = self._convert_query(query, params)
        prep, name = prepared.get(pgq, prepare)
        if pipeline := here._pipeline:  # noqa: SLF001
            self._queue(pipeline, pgq, prep, name, binary)
            yield from pipeline._communicate_gen()  # noqa: SLF001
        elif here.due or prep is _SHOULD:
            answers = yield from self._in_one(pgq, prep, name, binary)
            key = prepared.sent(pgq, prep, name)
            self._take(pgq.query, prep, name, key, answers)
        else:
            self._send(pgq, prep, name, binary)
            key = prepared.sent(pgq, prep, name)
            answers = yield from execute(self._pgconn)
            self._take(pgq.query, prep, name, key, answers)
        self._last_query = query
        if prepared._to_flush:  # noqa: SLF001
            yield from prepared.maintain_gen(here)

    def _convert_query(
        self, query: Query, params: Params | None = None
    ) -> PostgresQuery:
        """Do what psycopg's does, looking up what depends on the text alone."""
        tx = self._tx
        found = layout(query, tx.encoding) if params is not None else None
        values = found.values(params) if found and params is not None else None
        if found is None or values is None:  # psycopg says what is wrong
            pgq = super()._convert_query(query, params)
            if len(pgq.types) > PARAMETERS:  # within a pipeline it would be too late
                raise psycopg.OperationalError(
                    f"number of parameters must be between 0 and {PARAMETERS}"
                )
            return pgq
        pgq = PostgresQuery(tx)
        pgq.query, pgq._want_formats, pgq._order, pgq._parts, _ = found  # noqa: SLF001
        pgq.params = tx.dump_sequence(values, found.formats)
        pgq.types = tx.types or ()
        pgq.formats = tx.formats
        return pgq

    def _take(
        self,
        query: bytes,
        prep: Prepare,
        name: bytes,
        key: Key | None,
        answers: list[PGresult],
    ) -> None:
        """Take the answer to a query; raises if it is an error."""
        prepared = self._conn._prepared  # noqa: SLF001
        if key is not None:
            prepared.validate(key, prep, name, answers)
        result = answers[0] if len(answers) == 1 else None
        tag = result and result.status == _ROWS and result.command_status
        if (
            not (result and tag and tag.startswith(b"SELECT"))
            or self._execmany_returning is not None  # since it was sent
        ):
            self._check_results(answers)
            self._set_results(answers)
            return
        self._results, self.pgresult, self._statusmessage = answers, result, tag
        self._pos = self._iresult = 0
        self._tx.set_pgresult(result)
        self._rowcount = result.ntuples
        self._make_row = prepared.row_maker(query, name, self)

    def fetchone(self) -> Row | None:
        """Return the next row, None if there is none."""
        result, position = self.pgresult, self._pos
        if result is None or result.status != _ROWS or self._closed:
            return super().fetchone()
        if position >= result.ntuples:
            return None
        row: Row = self._tx.load_row(position, self._make_row)
        self._pos = position + 1
        return row

    def rows(self) -> Iterator[Row]:
        """Yield the rows that are left, as psycopg's iteration does.

        They are made some at a time, which takes a fraction of the time; but each is
        fetched only when its turn comes, and whoever fetches, scrolls or executes
        meanwhile finds the cursor where it would be.
        """
        while ahead := self._ahead():
            result, position = self.pgresult, self._pos
            for row in ahead:
                if self._pos != position or self.pgresult is not result:
                    break
                self._pos = position = position + 1
                yield row

    def _ahead(self) -> list[Row]:
        """Return the next rows without moving to them; none at the end."""
        self._fetch_pipeline()
        result = self._check_result_for_fetch()
        first, end = self._pos, min(self._pos + AHEAD, result.ntuples)
        try:
            return self._tx.load_rows(first, end, self._make_row)
        except Exception:  # by one of them; those before it are fine
            return [self._tx.load_row(first, self._make_row)]

    def _maybe_prepare_gen(
        self,
        pgq: PostgresQuery,
        *,
        prepare: bool | None = None,
        binary: bool | None = None,
    ) -> Generator[Any, Any, None]:
        """Do what psycopg's does, for `executemany`, which makes a pipeline."""
        if pipeline := self._conn._pipeline:  # noqa: SLF001
            self._conn.pipe_due(pipeline)
            pipeline.weigh(pgq.params)
        yield from super()._maybe_prepare_gen(pgq, prepare=prepare, binary=binary)

    def _queue(
        self,
        pipeline: Pipeline,
        pgq: PostgresQuery,
        prep: Prepare,
        name: bytes,
        binary: bool | None,
    ) -> None:
        """Have a query sent and answered by the pipeline."""
        here = self._conn
        here.pipe_due(pipeline)
        if prep is _SHOULD:
            self._send_prepare(name, pgq)
        self._send(pgq, prep, name, binary)
        key = here._prepared.sent(pgq, prep, name)  # noqa: SLF001
        pipeline.weigh(pgq.params)
        pipeline.ask(partial(self._take_later, pgq.query, prep, name, key))

    def _take_later(self, query: bytes, *given: Any) -> None:
        """Take an answer; where it is raised, nothing else tells whose it is."""
        try:
            self._take(query, *given)
        except psycopg.Error as error:
            text = query.decode(self._encoding, errors="replace")
            error.add_note(f"in a pipeline, by: {' '.join(text.split())[:TEXT]}")
            raise

    def _send(
        self,
        pgq: PostgresQuery,
        prep: Prepare,
        name: bytes,
        binary: bool | None,
        *,
        extended: bool = False,
    ) -> None:
        if prep is _NO:
            self._execute_send(pgq, binary=binary, force_extended=extended)
        else:
            self._send_query_prepared(name, pgq, binary=binary)

    def _in_one(
        self, pgq: PostgresQuery, prep: Prepare, name: bytes, binary: bool | None
    ) -> Generator[Any, Any, list[PGresult]]:
        """Send all that is needed at once, and return the answer to the query."""
        pgconn, here = self._pgconn, self._conn
        begin, here.due = here.due, None
        before = (begin is not None) + (prep is _SHOULD)
        answers: list[list[PGresult]] = []
        pgconn.enter_pipeline_mode()
        try:
            if begin:
                pgconn.send_query_params(begin, None)
            if prep is _SHOULD:
                self._send_prepare(name, pgq)
            self._send(pgq, prep, name, binary, extended=True)
            pgconn.pipeline_sync()
            answers.append((yield from execute(pgconn)))
            while len(answers) < before + 2:
                answers.append((yield from fetch_many(pgconn)))
        except BaseException as error:
            with suppress(psycopg.Error):  # what is left open costs the connection
                pgconn.exit_pipeline_mode()
            if isinstance(error, psycopg.OperationalError):
                self._raise_first(answers)  # the server says better why it ended
            raise
        *earlier, answer, last = answers
        if last and last[0].status == _SYNC:
            pgconn.exit_pipeline_mode()
        self._raise_first(earlier)
        return answer

    def _raise_first(self, answers: list[list[PGresult]]) -> None:
        for answer in answers:
            if answer and answer[0].status == _FAILED:
                raise errors.error_from_result(answer[0], encoding=self._encoding)

    def _set_results(self, results: list[PGresult]) -> None:
        for result in results:
            tag = result.command_status or b""
            if tag.startswith(_SILENT) or (
                result.status == _ROWS and tag.startswith(b"SELECT")
            ):
                continue
            self._conn.seen.append(tag_of(result))
        super()._set_results(results)

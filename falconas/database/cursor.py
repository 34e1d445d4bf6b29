"""psycopg's cursor, which needs one round trip for what takes psycopg two or three.

A BEGIN that is due and the preparation of a statement travel with the statement. Of
each answer the command tag is noted, if it is one to take note of.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import ref

import psycopg
from psycopg import errors, pq
from psycopg._preparing import Prepare
from psycopg._queries import PostgresQuery
from psycopg.adapt import AdaptersMap, Transformer
from psycopg.generators import execute

from falconas.database.bundle import bundle
from falconas.database.prepared import tag_of
from falconas.database.reading import Reading
from falconas.database.statements import Layout, layout

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from psycopg._preparing import Key
    from psycopg.abc import Buffer, Params, Query
    from psycopg.pq.abc import PGresult
    from psycopg.rows import RowFactory

    from falconas.database.connection import Connection
    from falconas.database.pipeline import Pipeline

Row = TypeVar("Row")

PARAMETERS = 65_535  # of a statement, by the protocol
TEXT = 200  # characters of a statement, for the log
# To look up an enum's member takes as long as ten other names.
_ROWS, _TEXT = int(pq.ExecStatus.TUPLES_OK), pq.Format.TEXT
_SHOULD, _NO = Prepare.SHOULD, Prepare.NO
# Nearly all answers are one of these, and say nothing about transaction or session.
_SILENT = (b"INSERT", b"UPDATE", b"DELETE")


class Cursor(Reading[Row]):
    """A cursor of our `Connection`, in whose `due` and `seen` it looks and writes."""

    __slots__ = ("_own",)

    _conn: Connection

    def __init__(
        self, connection: Connection, row_factory: RowFactory[Row] | None = None
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

    def execute(
        self,
        query: Query,
        params: Params | None = None,
        *,
        prepare: bool | None = None,
        binary: bool | None = None,
    ) -> Cursor[Row]:
        """Do what psycopg's does, with a generator only for what waits."""
        self.run(query, params, prepare, binary)
        return self

    def run(
        self,
        query: Query,
        params: Params | None,
        prepare: bool | None,
        binary: bool | None,
    ) -> None:
        """Do what `execute` does."""
        here = self._conn
        try:
            with here.lock:
                if self._closed or not here._autocommit:  # noqa: SLF001
                    generator = self._execute_gen(
                        query, params, prepare=prepare, binary=binary
                    )
                    here.wait(generator)
                else:
                    self._run(query, params, prepare, binary)
        except errors._NO_TRACEBACK as error:  # noqa: SLF001
            raise error.with_traceback(None)  # noqa: B904 - the same error

    def _run(
        self,
        query: Query,
        params: Params | None,
        prepare: bool | None,
        binary: bool | None,
    ) -> None:
        here = self._conn
        self._reset()
        if not self._last_query or self._last_query is not query:
            self._last_query = None
            self._tx = Transformer(here if self._own is None else self)
        pgq = self._run_again(query, params, prepare, binary)
        if pgq is not None:
            pipeline, prepared = here._pipeline, here._prepared  # noqa: SLF001
            prep, name = prepared.get(pgq, prepare)
            if pipeline:
                self._queue(pipeline, pgq, prep, name, binary)
            else:
                self._run_first(pgq, prep, name, binary)
            if prepared._to_flush:  # noqa: SLF001
                here.wait(prepared.maintain_gen(here))
        self._last_query = query

    def _run_again(
        self,
        query: Query,
        params: Params | None,
        prepare: bool | None,
        binary: bool | None,
    ) -> PostgresQuery | None:
        """Run what is prepared; else return what is to be run."""
        tx, here = self._tx, self._conn
        found = None if params is None else layout(query, tx.encoding)
        if found is None or params is None:
            return self._convert_query(query, params)
        kind = type(params)
        if (kind is list or kind is tuple) and len(params) == found.positions:
            values: Any = params
        elif (values := found.values(params)) is None:
            return self._convert_query(query, params)
        dumped = tx.dump_sequence(values, found.formats)
        name = here._prepared.name(found.sent, tx.types or ())  # noqa: SLF001
        if name is None or prepare is False:
            return self._converted(found, dumped)
        form = self.format if binary is None else bool(binary)
        pipeline, pgconn = here._pipeline, self._pgconn  # noqa: SLF001
        if pipeline is None and here.due is None:
            pgconn.send_query_prepared(name, dumped, tx.formats, form)
            self._take(found.sent, name, here.wait(execute(pgconn)))
            return None
        send = partial(pgconn.send_query_prepared, name, dumped, tx.formats, form)
        if pipeline is None:
            answers = here.wait(bundle(pgconn, here.take_due(), send, 1))
            self._take(found.sent, name, answers)
        else:
            here.pipe_due(pipeline)
            pipeline.command_queue.append(send)
            self._expect(pipeline, dumped, partial(self._take_later, found.sent, name))
        return None

    def _run_first(
        self, pgq: PostgresQuery, prep: Prepare, name: bytes, binary: bool | None
    ) -> None:
        """Run what is not prepared, or has something to travel with it."""
        here = self._conn
        if here.due or prep is _SHOULD:
            begin = here.take_due()
            earlier = (begin is not None) + (prep is _SHOULD)
            send = partial(self._send_all, pgq, prep, name, binary)
            answers = here.wait(bundle(self._pgconn, begin, send, earlier))
        else:
            self._send(pgq, prep, name, binary)
            answers = here.wait(execute(self._pgconn))
        prepared = here._prepared  # noqa: SLF001
        if (key := prepared.maybe_add_to_cache(pgq, prep, name)) is not None:
            prepared.validate(key, prep, name, answers)
        self._take(pgq.query, name, answers)

    def _convert_query(
        self, query: Query, params: Params | None = None
    ) -> PostgresQuery:
        """Do what psycopg's does, looking up what depends on the text alone."""
        tx = self._tx
        found = layout(query, tx.encoding) if params is not None else None
        values = found.values(params) if found is not None else None  # type: ignore[arg-type]
        if found is not None and values is not None:
            return self._converted(found, tx.dump_sequence(values, found.formats))
        pgq = super()._convert_query(query, params)  # psycopg says what is wrong
        if len(pgq.types) > PARAMETERS:  # within a pipeline it would be too late
            raise psycopg.OperationalError(
                f"number of parameters must be between 0 and {PARAMETERS}"
            )
        return pgq

    def _converted(
        self, found: Layout, dumped: Sequence[Buffer | None]
    ) -> PostgresQuery:
        tx = self._tx
        pgq = PostgresQuery(tx)
        pgq.query, pgq._order, pgq._parts = found.sent, found.order, found.parts  # noqa: SLF001
        pgq._want_formats = found.formats  # noqa: SLF001
        pgq.params, pgq.types, pgq.formats = dumped, tx.types or (), tx.formats
        return pgq

    def _take(self, query: bytes, name: bytes, answers: list[PGresult]) -> None:
        """Take the answer to a query; raises if it is an error."""
        result = answers[0] if len(answers) == 1 else None
        if (
            result is None
            or result.status != _ROWS
            or not (tag := result.command_status or b"").startswith(b"SELECT")
            or self._execmany_returning is not None  # since it was sent
        ):
            self._check_results(answers)
            self._set_results(answers)
            return
        self._results, self.pgresult, self._statusmessage = answers, result, tag
        self._pos = self._iresult = 0
        self._tx.set_pgresult(result)
        self._rowcount = result.ntuples
        prepared, factory = self._conn._prepared, self._row_factory  # noqa: SLF001
        self._make_row = prepared.row_maker(query, name, self, factory)

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
        key = here._prepared.maybe_add_to_cache(pgq, prep, name)  # noqa: SLF001
        take = partial(self._take_later, pgq.query, name, prep=prep, key=key)
        self._expect(pipeline, pgq.params, take)

    def _expect(
        self,
        pipeline: Pipeline,
        params: Sequence[Buffer | None] | None,
        take: Callable[[list[PGresult]], None],
    ) -> None:
        pipeline.weigh(params)
        pipeline.ask(take)
        if pipeline.has_batch:
            self._conn.wait(pipeline._communicate_gen())  # noqa: SLF001

    def _take_later(
        self,
        query: bytes,
        name: bytes,
        answers: list[PGresult],
        *,
        prep: Prepare = _NO,
        key: Key | None = None,
    ) -> None:
        """Take an answer; where it is raised, nothing else tells whose it is."""
        if key is not None:
            self._conn._prepared.validate(key, prep, name, answers)  # noqa: SLF001
        try:
            self._take(query, name, answers)
        except psycopg.Error as error:
            text = query.decode(self._encoding, errors="replace")
            error.add_note(f"in a pipeline, by: {' '.join(text.split())[:TEXT]}")
            raise

    def _send_all(
        self, pgq: PostgresQuery, prep: Prepare, name: bytes, binary: bool | None
    ) -> None:
        if prep is _SHOULD:
            self._send_prepare(name, pgq)
        self._send(pgq, prep, name, binary, extended=True)

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

    def _set_results(self, results: list[PGresult]) -> None:
        for result in results:
            tag = result.command_status or b""
            if tag.startswith(_SILENT) or (
                result.status == _ROWS and tag.startswith(b"SELECT")
            ):
                continue
            self._conn.seen.append(tag_of(result))
        super()._set_results(results)

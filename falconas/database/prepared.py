"""What psycopg prepares in a connection, and when it is to be forgotten.

A statement goes on meaning what its names meant when it was prepared: a temporary
table that hides another one would not be seen, and one that is gone again would make it
fail for good. So all is forgotten when a command may have given names another meaning,
and once more at the end of the loan or request: then they mean what they meant before.

Only the tags tell. What a function does behind a SELECT is not seen.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import pq
from psycopg._preparing import Key, Prepare, PrepareManager
from psycopg.rows import dict_row, namedtuple_row, scalar_row, tuple_row

from falconas.database.reset import may_rename

if TYPE_CHECKING:
    from psycopg._connection_base import BaseConnection
    from psycopg._queries import PostgresQuery
    from psycopg.pq.abc import PGresult
    from psycopg.rows import RowFactory, RowMaker

# What they return depends on nothing but the names of the columns.
_BY_NAMES = (dict_row, namedtuple_row, scalar_row, tuple_row)
_has_columns = re.compile(rb"\s*(SELECT|WITH|VALUES|TABLE)\b", re.IGNORECASE).match
_commits = re.compile(rb"\s*(COMMIT|END)\b", re.IGNORECASE).match
# To look up an enum's member takes as long as ten other names.
_NO, _SHOULD = Prepare.NO, Prepare.SHOULD

NO_COMMIT = "a transaction of the block had failed, so that COMMIT rolled it back"


class Prepared(PrepareManager):
    """psycopg's own, which forgets more.

    A command by which it forgets, it does not count either: so it sees each anew.

    Attributes:
        renamed: Names may mean something else since this was set to False.
        undone: Why something was rolled back that whoever sent it may believe to be
            committed; empty if nothing was.
    """

    def __init__(self) -> None:
        super().__init__()
        self.renamed = False
        self.undone = ""
        self._makers: dict[bytes, tuple[Any, RowMaker[Any]]] = {}

    def name(self, query: bytes, types: tuple[int, ...]) -> bytes | None:
        """Return under what name a query is prepared; None if it is not."""
        key, names = (query, types), self._names
        name = names.get(key)
        if name is None or self.prepare_threshold is None:
            return None
        names.move_to_end(key)
        return name

    def get(
        self, query: PostgresQuery, prepare: bool | None = None
    ) -> tuple[Prepare, bytes]:
        """Tell whether a query is prepared, or is to be; what commits never is."""
        prep, name = super().get(query, prepare)
        if prep is _SHOULD and _commits(query.query):
            return _NO, b""
        return prep, name

    def row_maker(
        self,
        query: bytes,
        name: bytes,
        cursor: psycopg.Cursor[Any],
        factory: RowFactory[Any],
    ) -> RowMaker[Any]:
        """Return what makes the rows of an answer to a query.

        The name is that under which it is prepared, or empty. The server keeps to the
        columns with which it was prepared, or it fails; but EXECUTE has those of
        another statement.
        """
        known = self._makers.get(name)
        if known is not None and known[0] is factory:
            return known[1]
        maker = factory(cursor)
        own = name and _has_columns(query)
        if own and any(factory is one for one in _BY_NAMES):
            if len(self._makers) >= self.prepared_max:
                self._makers.clear()
            self._makers[name] = factory, maker
        return maker

    def maybe_add_to_cache(
        self, query: PostgresQuery, prep: Prepare, name: bytes
    ) -> Key | None:
        """Count a query; one that commits is to be validated in any case."""
        key = super().maybe_add_to_cache(query, prep, name)
        return self.key(query) if _commits(query.query) else key

    def validate(
        self, key: Key, prep: Prepare, name: bytes, results: Sequence[PGresult]
    ) -> None:
        """Look at the answer to a query."""
        if _commits(key[0]) and any(tag_of(result) == "ROLLBACK" for result in results):
            self.undone = NO_COMMIT
        super().validate(key, prep, name, results)

    def maintain_gen(self, conn: BaseConnection[Any]) -> Generator[Any, Any, None]:
        """Have the server forget, and with it what was prepared meanwhile."""
        if None in self._to_flush:
            self._names.clear()
        yield from super().maintain_gen(conn)

    def _should_discard(
        self, prep: Prepare, results: Sequence[PGresult], *_: Any
    ) -> bool:
        if may_rename([tag_of(result) for result in results]):
            self.renamed = True
            return self.clear()
        return super()._should_discard(prep, results)


def watch(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> None:
    """Have a fresh connection forget what it must not keep."""
    prepared = Prepared()
    prepared.prepare_threshold = connection.prepare_threshold
    connection._prepared = prepared  # noqa: SLF001


def tag_of(result: PGresult) -> str:
    """Return the command tag; SELECT INTO and CREATE TABLE AS just say SELECT."""
    tag = (result.command_status or b"").decode(errors="replace")
    if tag.startswith("SELECT") and result.status == pq.ExecStatus.COMMAND_OK:
        return "SELECT INTO"  # or CREATE TABLE AS: rows, and nobody got them
    return tag

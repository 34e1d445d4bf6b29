"""How the rows of an answer are read from psycopg's cursor."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import psycopg
from psycopg import pq

Row = TypeVar("Row")

AHEAD = 50  # rows
_ROWS = int(pq.ExecStatus.TUPLES_OK)  # an enum's member is slow to compare


class Reading(psycopg.Cursor[Row]):
    """psycopg's cursor, whose rows take fewer steps."""

    __slots__ = ()

    def fetchone(self) -> Row | None:
        """Return the next row, None if there is none."""
        result, position = self.pgresult, self._pos
        if (
            result is None
            or self._closed
            or result.status != _ROWS
            or position >= result.ntuples
        ):
            return super().fetchone()
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

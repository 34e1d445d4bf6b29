"""The end of a write: COMMIT and the question for the position, in one message.

That spares a round trip. Each answer is read to the letter: only COMMIT's own says that
the transaction is committed, and nothing that comes after it can take that back.
"""

from __future__ import annotations

import select
from typing import TYPE_CHECKING, NamedTuple

import psycopg
from psycopg import errors, pq

from falconas.database.topology import lsn_number

if TYPE_CHECKING:
    from collections.abc import Iterator

    from psycopg.pq.abc import PGconn, PGresult


class Ending(NamedTuple):
    """What came of a message that commits.

    Attributes:
        committed: COMMIT was answered with COMMIT.
        error: What came instead of its answer, if that was an error.
        position: Where the log was afterwards, if that answer came too.
    """

    committed: bool
    error: psycopg.Error | None
    position: int | None


def end(connection: PGconn, message: bytes) -> Ending:
    """Send a message that commits and then asks for the position."""
    committed, error, position = False, None, None
    try:
        for result in _answers(connection, message):
            if committed:
                position = position_in(result)
            elif result.command_status == b"COMMIT":
                committed = True
            elif result.status == pq.ExecStatus.FATAL_ERROR and error is None:
                error = errors.error_from_result(result)
    except psycopg.Error as lost:
        if not committed:
            error = error or lost
    return Ending(committed, error, position)


def position_in(result: PGresult) -> int | None:
    """Return the position that a result holds, if it does."""
    value = result.get_value(0, 0) if result.status == pq.ExecStatus.TUPLES_OK else None
    return None if value is None else lsn_number(value.decode())


def _answers(connection: PGconn, message: bytes) -> Iterator[PGresult]:
    """Yield each answer as it comes; other threads may run meanwhile."""
    connection.send_query(message)
    news = select.poll()
    news.register(connection.socket, select.POLLOUT)
    while connection.flush():
        news.poll()
    news.modify(connection.socket, select.POLLIN)
    while True:
        while connection.is_busy():
            news.poll()
            connection.consume_input()
        result = connection.get_result()
        if result is None:
            return
        yield result

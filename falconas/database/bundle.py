"""Several messages in one round trip, of which the last one's answer is of interest."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import errors, pq
from psycopg.generators import execute, fetch_many

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from psycopg.pq.abc import PGconn, PGresult

# To look up an enum's member takes as long as ten other names.
_FAILED, _SYNC = int(pq.ExecStatus.FATAL_ERROR), int(pq.ExecStatus.PIPELINE_SYNC)


def bundle(
    pgconn: PGconn, begin: bytes | None, send: Callable[[], None], earlier: int
) -> Generator[Any, Any, list[PGresult]]:
    """Send all at once, and return the answer to the last message.

    Args:
        pgconn: A connection that does nothing else.
        begin: What is sent first.
        send: Sends the others.
        earlier: How many messages go before the last one.

    Raises:
        psycopg.Error: By one of the earlier ones, or the connection is gone.
    """
    answers: list[list[PGresult]] = []
    pgconn.enter_pipeline_mode()
    try:
        if begin:
            pgconn.send_query_params(begin, None)
        send()
        pgconn.pipeline_sync()
        answers.append((yield from execute(pgconn)))
        while len(answers) < earlier + 2:
            answers.append((yield from fetch_many(pgconn)))
    except BaseException as error:
        with suppress(psycopg.Error):  # what is left open costs the connection
            pgconn.exit_pipeline_mode()
        if isinstance(error, psycopg.OperationalError):
            _raise_first(pgconn, answers)  # the server says better why it ended
        raise
    last = answers.pop()
    if last and last[0].status == _SYNC:
        pgconn.exit_pipeline_mode()
    answer = answers.pop()
    _raise_first(pgconn, answers)
    return answer


def _raise_first(pgconn: PGconn, answers: list[list[PGresult]]) -> None:
    for answer in answers:
        if answer and answer[0].status == _FAILED:
            encoding = pgconn._encoding  # noqa: SLF001
            raise errors.error_from_result(answer[0], encoding=encoding)

"""A message that is under way, and its answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg.generators import execute

if TYPE_CHECKING:
    from psycopg.pq.abc import PGconn, PGresult

    from falconas.database.connection import Connection


def depart(connection: PGconn, message: bytes) -> bool:
    """Send a message, without waiting; False if the socket did not take all of it."""
    connection.send_query(message)
    return not connection.flush()


def arrive(connection: Connection, patience: float) -> list[PGresult]:
    """Return the answers to what has departed.

    Args:
        connection: Where it went.
        patience: How many seconds to wait for them.

    Raises:
        psycopg.OperationalError: The connection is lost, or patience is.
    """
    return connection.wait(execute(connection.pgconn), timeout=patience)

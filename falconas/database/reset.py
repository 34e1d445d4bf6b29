"""How a session is swept between two requests: three policies.

soft wipes all away but what psycopg has prepared, and that too if names meant something
else meanwhile. It travels as one message, whose last answer proves that all of it was
done. discard is PostgreSQL's
DISCARD ALL. rollback ends the transaction, and leaves the session as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from random import SystemRandom
from typing import TYPE_CHECKING, Any, NamedTuple

import psycopg
from psycopg import pq

if TYPE_CHECKING:
    from psycopg.pq.abc import PGresult

SOFT, DISCARD, ROLLBACK = "soft", "discard", "rollback"

# PostgreSQL 18 brings a role of the conninfo back with the authorization; RESET ROLE
# asks for it by name.
_SOFT = (
    b"SET SESSION AUTHORIZATION DEFAULT; RESET ROLE; RESET ALL; CLOSE ALL; UNLISTEN *;"
    b" DISCARD TEMP; DISCARD SEQUENCES; SET seed = %.17f;"
    b" SELECT pg_catalog.pg_advisory_unlock_all()"
)
# Takes as long as all the rest, so it is asked only where something may be hidden.
_COUNTS = (
    b", pg_catalog.count(*) FILTER (WHERE from_sql), pg_catalog.count(*)"
    b" FROM pg_catalog.pg_prepared_statement()"
)
# Knows neither of a transaction nor of who prepared, and asks nothing twice.
_FORGET = b"DEALLOCATE ALL"
_DISCARD = b"DISCARD ALL"  # not within a transaction, so not with others in a message
_AFTER_DISCARD = b"RESET ROLE; SELECT pg_catalog.setseed(%.17f)"
_READ_WRITE = b"RESET default_transaction_read_only"  # ours, of reads without snapshot
_DONE = b"SELECT 1"

# How the tags begin after which a name may not mean what it means to the next request;
# a statement prepared in between would go on meaning it. The last three may hide that,
# and SQL's own PREPARE or DEALLOCATE besides.
_RENAMING = (
    "ALTER", "CREATE", "DROP", "IMPORT", "RESET", "SELECT INTO", "SET",
    "CALL", "DO", "EXPLAIN",
)  # fmt: skip

# To look up an enum's member takes as long as ten other names.
_IDLE, _ACTIVE = pq.TransactionStatus.IDLE, pq.TransactionStatus.ACTIVE
_OFF = pq.PipelineStatus.OFF

_seed = SystemRandom().random  # nobody knows what random() will say next


def may_rename(tags: list[str]) -> bool:
    """Tell whether what is prepared may mean something that the next must not find."""
    return any(tag.startswith(_RENAMING) for tag in tags)


class Sweep(NamedTuple):
    """What has to be done after one request.

    Attributes:
        policy: soft, discard or rollback.
        touched: The script has sent a statement.
        hiding: Statements may have been prepared, or forgotten, without our seeing it.
        forget: Under soft, what is prepared is not to be kept.
    """

    policy: str
    touched: bool
    hiding: bool = False
    forget: bool = False

    def proves(
        self, last: PGresult | None, connection: psycopg.Connection[Any]
    ) -> bool:
        """Tell whether the last answer to the last message proves that all was done.

        What stands in a message is done in turn, and nothing more after an error.
        """
        if last is None or not self.touched or self.policy == ROLLBACK:
            return True
        if last.command_status != _DONE:
            return False
        if self.policy == DISCARD:
            return True
        if self.forget:
            _agree(connection)
        if not self.hiding:
            return True
        by_sql, in_all = last.get_value(0, 1), last.get_value(0, 2)
        known = _prepared(connection)
        # The server may know one more, whose answer psycopg never saw: it is unused.
        return by_sql == b"0" and (known is None or int(in_all or 0) >= known)

    def messages(self, end: bytes | None) -> list[bytes]:
        """Return what to send, one after the other."""
        ending = [] if end is None else [end]
        if not self.touched:
            return ending
        if self.policy == SOFT:
            soft = _SOFT % _seed() + (_COUNTS if self.hiding else b"")
            forgetting = [_FORGET] if self.forget else []
            return [b"; ".join([*ending, *forgetting, soft])]
        if self.policy == DISCARD:
            return [*ending, _DISCARD, _AFTER_DISCARD % _seed()]
        return [b"; ".join([*ending, _READ_WRITE])]


def _prepared(connection: psycopg.Connection[Any]) -> int | None:
    """Return how many statements psycopg believes the server to have prepared.

    None if it is about to have all of them forgotten.
    """
    cache = connection._prepared  # noqa: SLF001
    if None in cache._to_flush:  # noqa: SLF001
        return None
    return len(cache._names) + len(cache._to_flush)  # noqa: SLF001


def _agree(connection: psycopg.Connection[Any]) -> None:
    """Have psycopg know that the server has no prepared statement."""
    connection._prepared.clear()  # noqa: SLF001
    connection._prepared._to_flush.clear()  # noqa: SLF001


def is_busy(connection: psycopg.Connection[Any]) -> bool:
    """Tell whether something still runs: an open stream, a COPY, a thread."""
    return (
        connection.lock.locked()
        or connection.pgconn.pipeline_status != _OFF
        or connection.pgconn.transaction_status == _ACTIVE
    )


def forget_prepared(connection: psycopg.Connection[Any]) -> None:
    """Let psycopg and the server agree again: on no prepared statement at all."""
    if connection.pgconn.transaction_status == _IDLE:
        connection.pgconn.exec_(b"BEGIN")
    connection.rollback()


# What a script or an interrupt could change in psycopg's connection: in one call.
client_settings: Callable[[psycopg.Connection[Any]], tuple[Any, ...]] = attrgetter(
    "_autocommit",
    "row_factory",
    "cursor_factory",
    "server_cursor_factory",
    "_isolation_level",
    "_read_only",
    "_deferrable",
    "_prepared.prepare_threshold",
    "_prepared.prepared_max",
    "_pipeline",
    "_num_transactions",
)

"""How FalconAS connects: the user's DSN, and defaults for what it leaves open.

With libpq's own defaults a connection into a black hole hangs for minutes, and the
server goes on with the SQL of a client that is gone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from psycopg import ProgrammingError, pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo

DEFAULTS = {
    "connect_timeout": "3",
    "keepalives": "1",
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "2",
    "tcp_user_timeout": "5000",
}
SETTINGS = {"client_connection_check_interval": "250ms"}


class InvalidDsn(ValueError):
    """The DSN is not one that libpq understands."""


def conninfo(
    dsn: str, *, application_name: str = "", settings: Mapping[str, str] | None = None
) -> str:
    """Return a complete conninfo string: what the user says goes before our defaults.

    Args:
        dsn: Key=value pairs or a postgresql:// URL; empty for libpq's own sources
            (PG… variables, service file).
        application_name: Name shown in pg_stat_activity unless the user set one.
        settings: PostgreSQL parameters for the session. They stand in `options`, so
            that RESET ALL returns to them.

    Raises:
        InvalidDsn: The text never quotes the DSN: it may hold a password.
    """
    try:
        given = {key: str(value) for key, value in conninfo_to_dict(dsn).items()}
    except ProgrammingError:
        raise InvalidDsn(
            "the DSN is malformed; write postgresql://user@host:5432/name"
            ' or "host=… port=… dbname=… user=…"'
        ) from None
    known = _elsewhere(given.get("service")) | given
    wanted = DEFAULTS | (
        {"application_name": application_name} if application_name else {}
    )
    missing = {key: value for key, value in wanted.items() if key not in known}
    options = " ".join(
        [
            *(f"-c {key}={_escape(value)}" for key, value in SETTINGS.items()),
            *(f"-c {key}={_escape(value)}" for key, value in (settings or {}).items()),
            known.get("options", ""),  # last: the user's word counts
        ]
    ).strip()
    return make_conninfo("", **(given | missing | {"options": options}))


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace(" ", "\\ ")


def _elsewhere(service: str | None) -> dict[str, str]:
    """Return what libpq would take from PG… variables and from the service file."""
    with _environment("PGSERVICE", service):
        found = pq.Conninfo.get_defaults()
    return {
        option.keyword.decode(): option.val.decode()
        for option in found
        if option.val is not None and option.val != option.compiled
    }


@contextmanager
def _environment(name: str, value: str | None) -> Iterator[None]:
    """Set a variable for a moment: libpq reads a service file only by it."""
    if value is None:
        yield
        return
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before

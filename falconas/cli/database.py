"""The database of somebody who writes scripts: a given one, else one of our own."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from falconas.config import Settings

FOLDER = Path(".falconas/dev")
# Any of these says that the user's database is meant.
_LIBPQ = ("PGHOST", "PGHOSTADDR", "PGPORT", "PGSERVICE", "PGDATABASE", "PGUSER")

log = logging.getLogger("falconas.dev")


@contextmanager
def database(settings: Settings, environ: Mapping[str, str]) -> Iterator[Settings]:
    """Give settings with a database that is up for as long as the block runs.

    Raises:
        StartError: Our own PostgreSQL does not start.
    """
    if is_given(settings, environ):
        yield settings
        return
    from falconas.database.embedded import EmbeddedPostgres

    log.info("starting PostgreSQL in %s", FOLDER)
    with EmbeddedPostgres(FOLDER) as postgres:
        own = replace(settings.database, dsn=postgres.dsn())
        yield replace(settings, database=own)
    log.info("left PostgreSQL; its data stays in %s", FOLDER)


def is_given(settings: Settings, environ: Mapping[str, str]) -> bool:
    """Tell whether the user named a database, to us or to libpq."""
    return bool(settings.database.dsn) or any(environ.get(name) for name in _LIBPQ)

"""Asks a session what an earlier request may have left in it.

It needs nothing of ours, so that it can be copied beside scripts that import it. Two
sessions of the same settings give the same answers unless something was left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

# Answers that are one row of one column, or a list of them.
QUERIES = {
    "settings": (
        "SELECT name || '=' || setting FROM pg_settings WHERE source <> 'default'"
        " AND name NOT IN ('application_name', 'transaction_isolation',"
        " 'transaction_read_only', 'transaction_deferrable') ORDER BY 1"
    ),
    "search_path": "SELECT current_setting('search_path')",
    "tenant": "SELECT nullif(current_setting('my.tenant', true), '')",
    "role": "SELECT current_setting('role') || ', ' || current_user",
    "authorization": (
        "SELECT session_user || ', ' || current_setting('session_authorization')"
    ),
    "isolation_defaults": (
        "SELECT name || '=' || setting FROM pg_settings"
        " WHERE name LIKE 'default\\_transaction\\_%' ORDER BY 1"
    ),
    "advisory_locks": (
        "SELECT concat_ws('.', classid, objid, mode) FROM pg_locks"
        " WHERE pid = pg_backend_pid() AND locktype = 'advisory' ORDER BY 1"
    ),
    "table_locks": (
        "SELECT relation::regclass || ' ' || mode FROM pg_locks"
        " WHERE pid = pg_backend_pid() AND relation >= 16384 ORDER BY 1"
    ),
    "temporary": (
        "SELECT relname::text FROM pg_class WHERE relnamespace = pg_my_temp_schema()"
        " UNION ALL"
        " SELECT proname::text FROM pg_proc WHERE pronamespace = pg_my_temp_schema()"
        " UNION ALL"
        " SELECT typname::text FROM pg_type WHERE typnamespace = pg_my_temp_schema()"
        " ORDER BY 1"
    ),
    "channels": "SELECT * FROM pg_listening_channels() ORDER BY 1",
    "cursors": "SELECT name FROM pg_cursors WHERE is_holdable ORDER BY 1",
    "prepared_by_sql": "SELECT name FROM pg_prepared_statements WHERE from_sql",
    "uncommitted": "SELECT pg_current_xact_id_if_assigned()::text",
}
# lastval() is an error where there is none.
NOTE_LASTVAL = (
    "DO $$ BEGIN PERFORM set_config('probe.lastval', lastval()::text, true);"
    " EXCEPTION WHEN object_not_in_prerequisite_state THEN"
    " PERFORM set_config('probe.lastval', 'none', true); END $$"
)
LASTVAL = "SELECT current_setting('probe.lastval')"


def probe(execute: Callable[[str], Iterable[Any]]) -> dict[str, Any]:
    """Return what there is, by name; for use within a transaction.

    Args:
        execute: Runs a statement and returns its rows.
    """
    answers = {
        name: [row[0] for row in execute(query)] for name, query in QUERIES.items()
    }
    execute(NOTE_LASTVAL)
    return answers | {"lastval": [row[0] for row in execute(LASTVAL)]}

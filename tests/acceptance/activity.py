"""What PostgreSQL itself says of who runs what, and until when."""

from __future__ import annotations

from typing import Any, Self

import psycopg

from tests.acceptance.stack import wait_for

RUNNING = """
SELECT pid, extract(epoch FROM clock_timestamp())::float8
FROM pg_stat_activity
WHERE state = 'active' AND pid <> pg_backend_pid() AND query LIKE %s
"""
NOW = "SELECT extract(epoch FROM clock_timestamp())::float8"


class Observer:
    """A connection that watches `pg_stat_activity`; times are the server's."""

    def __init__(self, dsn: str) -> None:
        self._connection = psycopg.connect(dsn, autocommit=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def execute(self, query: str, *params: Any) -> list[tuple[Any, ...]]:
        return self._connection.execute(query, params).fetchall()

    def now(self) -> float:
        moment: float = self.execute(NOW)[0][0]
        return moment

    def backends(self) -> set[int]:
        """Return the server processes of workers."""
        return {
            pid
            for (pid,) in self.execute(
                "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
                " AND application_name LIKE 'falconas/%%'"
                " AND application_name <> 'falconas/probe'"
            )
        }

    def await_running(self, mark: str) -> int:
        """Wait until somebody runs a statement with this mark; return the backend."""
        rows: list[tuple[Any, ...]] = wait_for(
            lambda: self.execute(RUNNING, f"%{mark}%"), f"{mark} in pg_stat_activity"
        )
        pid: int = rows[0][0]
        return pid

    def last_seen(self, mark: str, backend: int) -> float:
        """Return when the backend was last seen at it, once it is not any more."""
        latest = self.now()

        def ended() -> bool:
            nonlocal latest
            seen = [at for pid, at in self._running(mark) if pid == backend]
            latest = max([latest, *seen])
            return not seen

        wait_for(ended, f"the end of {mark}")
        return latest

    def _running(self, mark: str) -> list[tuple[Any, ...]]:
        return self.execute(RUNNING, f"%{mark}%")

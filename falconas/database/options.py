"""The options of a pool, written once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from falconas.database.conninfo import conninfo
from falconas.database.reset import DISCARD, ROLLBACK, SOFT

RECONNECT = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolOptions:
    """How a `NodePool` connects, lends and cleans up.

    Attributes:
        min_size: Connections to each node that are kept open.
        max_size: Most connections to each node; the probe's is one more.
        timeout: Seconds to wait for a connection.
        node_wait: Of these, how many while no node suits at all.
        max_waiting: Who comes when so many are waiting already is refused at once.
        max_lifetime: Seconds after which a connection is replaced.
        max_idle: Seconds after which one that is not needed is closed.
        probe_interval: Seconds between the probes of a node.
        lookup_interval: Seconds between the look-ups of nodes by DNS or Patroni.
        access: "read": what is lent is to read by, and nothing else.
        autocommit: Each statement for itself; else a block is one transaction.
        statement_timeout: Seconds that a statement may take; 0: as the server says.
        temp_buffers: Memory of a session for temporary tables, like "128MB".
        role: Role to take on after connecting.
        settings: Any other parameters of PostgreSQL for the sessions.
        reset: What is done between two borrowers: "soft", "discard" or "rollback".
        application_name: As shown in pg_stat_activity.
        row_factory: What makes rows, such as `psycopg.rows.dict_row`; None: tuples.
    """

    min_size: int = 1
    max_size: int = 10
    timeout: float = 10.0
    node_wait: float = 5.0
    max_waiting: int = 1000
    max_lifetime: float = 1800.0
    max_idle: float = 600.0
    probe_interval: float = 1.0
    lookup_interval: float = 30.0
    access: str = "write"
    autocommit: bool = False
    statement_timeout: float = 0.0
    temp_buffers: str = ""
    role: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
    reset: str = SOFT
    application_name: str = "falconas"
    row_factory: Callable[[Any], Any] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.min_size <= self.max_size or self.max_size < 1:
            raise ValueError("0 <= min_size <= max_size, and max_size from 1 up")
        if self.reset not in {SOFT, DISCARD, ROLLBACK}:
            raise ValueError(f"reset is {SOFT}, {DISCARD} or {ROLLBACK}")
        for name in ("timeout", "node_wait", "max_lifetime", "max_idle"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative")
        for name in ("probe_interval", "lookup_interval"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive")
        if self.access not in {"read", "write"}:
            raise ValueError(f'access is "read" or "write", not {self.access!r}')

    def parameters(self) -> dict[str, str]:
        """Return the parameters that every session begins with, and returns to."""
        named = {
            "statement_timeout": (
                f"{max(1, round(self.statement_timeout * 1000))}ms"
                if self.statement_timeout
                else ""
            ),
            "temp_buffers": self.temp_buffers,
            "role": self.role,
        }
        given = {key: value for key, value in named.items() if value}
        return given | dict(self.settings)

    def arguments(self, dsn: str, name: str, **kwargs: Any) -> dict[str, Any]:
        """Return how psycopg's pool for a node is to be made.

        Args:
            dsn: The node's.
            name: The node's.
            kwargs: More for the connections.
        """
        kwargs["autocommit"] = self.autocommit
        if self.row_factory is not None:
            kwargs["row_factory"] = self.row_factory
        if self.reset == DISCARD:  # what psycopg had prepared would be gone
            kwargs["prepare_threshold"] = None
        return {
            "conninfo": conninfo(
                dsn, application_name=self.application_name, settings=self.parameters()
            ),
            "kwargs": kwargs,
            "min_size": self.min_size,
            "max_size": self.max_size,
            "open": False,
            "name": f"{self.application_name}/{name}",
            "max_lifetime": self.max_lifetime,
            "max_idle": self.max_idle,
            "reconnect_timeout": RECONNECT,
            "num_workers": 2,
        }

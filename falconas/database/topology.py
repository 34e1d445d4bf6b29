"""What a database's nodes are, and what is known of each: pure.

How far a standby is behind is measured against the primary's positions in the log, of
which a history is kept: so no clocks are compared, and a standby that is cut off from
its primary does not pass for up to date. The age of the last transaction it replayed
bounds the lag as well.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum
from math import inf, isfinite
from typing import NamedTuple

from falconas.database.health import Health

FRESH = 3.0  # facts older than this count with their age
HISTORY = 600


class Role(StrEnum):
    """What a node is in its database."""

    PRIMARY = "primary"
    STANDBY = "standby"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Node:
    """One PostgreSQL server; or, as configured, where to look for several.

    What is found through a node has its weight, database and tags, and is named
    `node/host`; see `discovery`.

    Attributes:
        name: By which it is shown.
        dsn: How to connect; empty for libpq's own sources. With several hosts it stands
            for a node each.
        weight: Its share of the work beside the others'. 0: only when no other suits.
        database: The database (one primary and its standbys) it belongs to.
        tags: Words to select nodes by.
        dns: Each address that its host resolves to is a node.
        patroni: URLs of Patroni's REST API, whose members are the nodes.
    """

    name: str
    dsn: str = field(default="", repr=False)  # it may hold a password
    weight: float = 1.0
    database: str = "main"
    tags: tuple[str, ...] = ()
    dns: bool = False
    patroni: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("a node needs a name")
        if not (isfinite(self.weight) and self.weight >= 0):
            raise ValueError(f"the weight of {self.name} must be a number from 0 up")

    def is_same_server(self, other: Node) -> bool:
        """Tell whether what is known of one holds for the other."""
        return (self.dsn, self.database) == (other.dsn, other.database)


class Change(NamedTuple):
    """Names of nodes that have come, and gone; one that was replaced is in both."""

    come: list[str]
    gone: list[str]


class Probe(NamedTuple):
    """What a node said of itself.

    Attributes:
        role: By `pg_is_in_recovery()`.
        lsn: Position in the log: a primary's flushed one, a standby's replayed one.
        timeline: A primary's timeline.
        age: Seconds since the last transaction that a standby replayed was committed.
        streaming: A standby has replayed all it received, and is receiving.
        latency: Seconds that the probe took.
    """

    role: Role
    lsn: int = 0
    timeline: int = 0
    age: float | None = None
    streaming: bool = False
    latency: float = 0.0


class NoAnswer(NamedTuple):
    """Why a node did not answer a probe; `silent` if it said nothing at all."""

    why: str
    silent: bool = False


class Facts(NamedTuple):
    """What is known of a node, to be shown; `lag` is None where nobody can tell."""

    name: str
    database: str
    role: Role
    up: bool
    suspect: bool
    lsn: int
    timeline: int
    lag: float | None
    latency: float
    share: float
    reason: str


@dataclass(slots=True)
class Database:
    """What is known of a database: its newest timeline, and how its log grew.

    Attributes:
        timeline: The newest that any primary was seen on.
        positions: The primary's positions in the log, with the time of each.
        turn: How far the turns of its nodes have come.
    """

    timeline: int = 0
    positions: deque[tuple[float, int]] = field(
        default_factory=lambda: deque(maxlen=HISTORY)
    )
    turn: float = 0.0

    @property
    def seen(self) -> float:
        """When there was a primary last."""
        return self.positions[-1][0] if self.positions else -inf

    def advanced(self, timeline: int) -> None:
        """Note a primary's timeline; whoever has an older one is left behind."""
        if timeline > self.timeline:
            self.timeline = timeline
            self.positions.clear()

    def lag(self, probe: Probe, now: float) -> float:
        """Return the most seconds that a standby can be behind."""
        if probe.role is Role.PRIMARY:
            return 0.0
        bounds = [inf if probe.age is None else max(0.0, probe.age)]
        if self.positions:
            bounds.append(self._since(probe.lsn, now))
        elif probe.streaming:
            bounds.append(0.0)
        return min(bounds)

    def _since(self, lsn: int, now: float) -> float:
        """Return how long ago the primary was surely not beyond a position."""
        if lsn >= self.positions[-1][1]:
            return 0.0
        for at, position in reversed(self.positions):
            if position <= lsn:
                return max(0.0, now - at)
        return inf


@dataclass(slots=True)
class State:
    """What is known of a node; see `Probe`.

    Attributes:
        turn: How much it has been given already, by weight.
    """

    node: Node
    health: Health
    role: Role = Role.UNKNOWN
    lsn: int = 0
    timeline: int = 0
    lag: float = inf
    latency: float = 0.0
    probed_at: float = -inf
    turn: float = 0.0

    def probed(self, probe: Probe, now: float) -> None:
        """Note what it answered; the lag is the database's to tell."""
        self.role, self.lsn, self.timeline = probe.role, probe.lsn, probe.timeline
        self.latency, self.probed_at = probe.latency, now
        self.health.succeeded(now)

    def lag_at(self, now: float) -> float:
        """Return how many seconds it may be behind."""
        if self.role is Role.PRIMARY:
            return 0.0
        age = now - self.probed_at
        return self.lag + (age if age > FRESH else 0.0)

    def against_read(
        self, max_lag: float | None, min_lsn: int | None, now: float
    ) -> str:
        """Return why it shows too old a state; empty if it does not."""
        if self.role is Role.PRIMARY:
            return ""
        if min_lsn is not None and self.lsn < min_lsn:
            return f"it has replayed {lsn_text(self.lsn)}, not yet {lsn_text(min_lsn)}"
        if max_lag is not None and (lag := self.lag_at(now)) > max_lag:
            return f"{lag:.1f} s behind" if isfinite(lag) else "its lag is not known"
        return ""

    def weight_at(self, now: float) -> float:
        """Return its weight at present: less while it is on probation."""
        return self.node.weight * self.health.share(now)

    def facts(self, now: float, against: str) -> Facts:
        """Return what is to be shown of it."""
        lag = self.lag_at(now)
        return Facts(
            self.node.name,
            self.node.database,
            self.role,
            self.health.up,
            self.health.suspect,
            self.lsn,
            self.timeline,
            lag if self.health.up and isfinite(lag) else None,
            self.latency,
            self.health.share(now),
            against,
        )


def lsn_text(lsn: int) -> str:
    """Write a position as PostgreSQL does."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def lsn_number(lsn: int | str) -> int:
    """Read a position, which may be written as PostgreSQL does.

    Raises:
        ValueError: It is none.
    """
    if isinstance(lsn, int):
        return lsn
    high, slash, low = lsn.partition("/")
    try:
        number = (int(high, 16) << 32) + int(low, 16)
    except ValueError:
        number = -1
    if not slash or number < 0:
        raise ValueError(f"a position in the log is written like 0/3000148, not {lsn}")
    return number

"""What a database's nodes are, and what is known of each by itself: pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from math import inf, isfinite
from typing import NamedTuple

from falconas.database.health import Health

FRESH = 3.0  # facts older than this count with their age
MOST = 256  # nodes in all; the broker hears of as many from a supervisor
SURE = 3  # proofs in a row that a standby has what its primary has not


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


def objection(nodes: Sequence[Node]) -> str:
    """Return why these cannot be the nodes, empty if they can."""
    if len(nodes) > MOST:
        return f"there are {len(nodes)} nodes; {MOST} are the most"
    names: set[str] = set()
    for node in nodes:
        if node.name in names:
            return f"two nodes are named {node.name}"
        names.add(node.name)
    return ""


class Change(NamedTuple):
    """Names of nodes that have come, and gone; one that was replaced is in both."""

    come: list[str]
    gone: list[str]


class Probe(NamedTuple):
    """What a node said of itself.

    Attributes:
        role: By `pg_is_in_recovery()`.
        lsn: Position in the log: a primary's flushed one, a standby's replayed one.
        timeline: A primary's timeline; of a standby the newest that it surely follows.
        age: Seconds since the last transaction that a standby replayed was committed.
        streaming: A standby has replayed all it received, and is receiving.
        latency: Seconds that the probe took.
        system: The identifier of its database cluster; 0: it did not say.
    """

    role: Role
    lsn: int = 0
    timeline: int = 0
    age: float | None = None
    streaming: bool = False
    latency: float = 0.0
    system: int = 0


class NoAnswer(NamedTuple):
    """Why a node did not answer a probe.

    Attributes:
        why: What went wrong.
        silent: It said nothing at all.
        refused: It is there, but takes no new connections, or none of ours.
    """

    why: str
    silent: bool = False
    refused: bool = False


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
class State:
    """What is known of a node; see `Probe`.

    Attributes:
        before: When it was probed the time before, and its position then.
        beyond: How often in a row it was seen to have what the primary has not.
        astray: Probes in a row that found it so, or not on the newest timeline.
        turn: How much it has been given already, by weight.
    """

    node: Node
    health: Health
    role: Role = Role.UNKNOWN
    lsn: int = 0
    timeline: int = 0
    lag: float = inf
    latency: float = 0.0
    system: int = 0
    probed_at: float = -inf
    before: tuple[float, int] = (-inf, 0)
    beyond: int = 0
    astray: int = 0
    turn: float = 0.0

    def probed(self, probe: Probe, now: float) -> None:
        """Note what it answered; the lag is the database's to tell.

        What a standby follows it does not cease to follow, though it cannot prove that
        all the time; but it may have been made anew while it was down.
        """
        timeline = probe.timeline
        if self._continues(probe):
            timeline = max(timeline, self.timeline)
        else:
            self.beyond = 0
        self.before = self.probed_at, self.lsn
        self.role, self.lsn, self.timeline = probe.role, probe.lsn, timeline
        self.latency, self.system, self.probed_at = probe.latency, probe.system, now
        self.health.succeeded(now)

    def disown(self) -> None:
        """Forget what holds within one database cluster only."""
        self.role, self.lsn, self.timeline, self.lag = Role.UNKNOWN, 0, 0, inf
        self.before, self.beyond, self.astray = (-inf, 0), 0, 0

    def _continues(self, probe: Probe) -> bool:
        """Tell whether it is a standby that was one before, with the same data."""
        standby = self.role is probe.role is Role.STANDBY
        return standby and self.health.up and probe.lsn >= self.lsn

    def compared(self, lsn: int, asked_at: float) -> None:
        """Note where the primary was when it was asked: not behind its standbys.

        A standby that once was beyond has another history, for good; but one proof
        could be an accident.
        """
        seen = (self.probed_at, self.lsn)
        at, own = seen if self.probed_at <= asked_at else self.before
        if self.role is not Role.STANDBY or not -inf < at <= asked_at:
            return
        if own > lsn:
            self.beyond += 1
        elif self.beyond < SURE:
            self.beyond = 0

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

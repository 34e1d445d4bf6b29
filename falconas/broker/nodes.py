"""Database nodes as supervisors report them, and what each of them suits.

Writes suit a primary, reads any node that is up and fresh enough. A node of which
nothing is known suits all but what must be fresh: a worker without a supervisor has one
all the same, and can tell whether it takes writes, but not how far it is behind.
Of several primaries of a database, one on an older timeline was left behind by a
failover and serves nothing; of two on the same timeline nobody can tell which is right,
and neither gets writes. A standby that does not follow the newest timeline is astray:
positions cannot be compared, so nobody can tell what it lacks.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from math import inf, isfinite
from typing import Any, NamedTuple

from falconas.broker.records import Demand, ScriptInfo
from falconas.protocol import NAME_LIMIT

PRIMARY, STANDBY, UNKNOWN = "primary", "standby", "unknown"
NOWHERE = -1  # the position of a node whose position is not known
# Without newer facts a contradicted report counts again: else a node without a
# supervisor would never get another write.
DOUBT = 3.0
REPORTED = 256  # nodes of one supervisor
REASON_LIMIT = 200


class Facts(NamedTuple):
    """What is known of a node; `lag` in seconds, None where nobody can tell.

    `astray`: it does not follow the newest timeline of its database.
    """

    database: str = ""
    role: str = UNKNOWN
    up: bool = True
    lag: float | None = None
    lsn: int = NOWHERE
    timeline: int = 0
    reason: str = ""
    astray: bool = False


class Grade(NamedTuple):
    """What decides where scripts may run: as long as it stays, all routes do."""

    up: bool
    primary: bool
    lag: int
    astray: bool


class Nodes:
    """What holds of each node by all that supervisors and workers say.

    The newest report that says "up" counts; a node is down when all say so.
    """

    def __init__(self) -> None:
        self.facts: dict[str, Facts] = {}
        self._reported: dict[str, Facts] = {}
        self._reports: dict[bytes, dict[str, Facts]] = {}  # the newest last
        self._doubts: dict[str, tuple[float, str]] = {}

    def hear(self, supervisor: bytes, said: Any) -> bool:
        """Take in a supervisor's report; True if that changed something.

        What cannot be read counts as not said.
        """
        if not isinstance(said, list):
            return False
        report = dict(filter(None, map(_entry, said[:REPORTED])))
        before = self._reports.pop(supervisor, {})
        if report:
            self._reports[supervisor] = report
        doubted = [self._doubts.pop(name) for name in report if name in self._doubts]
        return self._update([*{**before, **report}]) or bool(doubted)

    def forget(self, supervisor: bytes) -> bool:
        """Drop what a supervisor said that is gone; True if that changed something."""
        return self._update([*self._reports.pop(supervisor, {})])

    def doubt(self, name: str, why: str, now: float) -> None:
        """Take a node as no primary, of unknown position: a worker there knows better.

        That holds until the next report on it, or for `DOUBT` seconds.
        """
        self._doubts[name] = now + DOUBT, why
        self.facts = self._judged()

    def sweep(self, now: float) -> bool:
        """Drop doubts that nobody resolved; True if there were any."""
        old = [name for name, (until, _) in self._doubts.items() if until <= now]
        for name in old:
            del self._doubts[name]
        if old:
            self.facts = self._judged()
        return bool(old)

    def grades(self, max_lags: Sequence[float]) -> dict[str, Grade]:
        """Return what decides on routes, given the lags that scripts allow, sorted."""
        return {
            name: Grade(
                facts.up,
                facts.role == PRIMARY,
                bisect_left(max_lags, inf if facts.lag is None else facts.lag),
                facts.astray,
            )
            for name, facts in self.facts.items()
        }

    def _update(self, names: list[str]) -> bool:
        changed = False
        for name in names:
            facts = self._newest(name)
            if facts == self._reported.get(name):
                continue
            changed = True
            if facts is None:
                del self._reported[name]
            else:
                self._reported[name] = facts
        self.facts = self._judged()
        return changed

    def _newest(self, name: str) -> Facts | None:
        down = None
        for report in reversed(self._reports.values()):
            facts = report.get(name)
            if facts is not None and facts.up:
                return facts
            down = down or facts
        return down

    def _judged(self) -> dict[str, Facts]:
        """Return the reported facts as far as they are believed."""
        judged = dict(self._reported)
        for name, (_, why) in self._doubts.items():
            facts = judged.get(name, Facts())
            judged[name] = facts._replace(
                role=UNKNOWN, lag=None, lsn=NOWHERE, reason=why
            )
        databases: dict[str, list[str]] = {}
        for name, facts in judged.items():
            databases.setdefault(facts.database, []).append(name)
        for names in databases.values():
            newest = max(judged[name].timeline for name in names)
            rivals = [name for name in names if _leads(judged[name], newest)]
            for name in names:
                others = ", ".join(other for other in rivals if other != name)
                judged[name] = _judge(judged[name], newest, others)
        return judged


def objection(facts: Facts | None, info: ScriptInfo) -> str:
    """Say what speaks against a script on a node; empty: nothing, the node suits."""
    if facts is None:
        return "" if info.max_lag is None else "its lag is not known"
    if facts.up and facts.role == PRIMARY:
        return ""
    if not facts.up:
        return f"down: {facts.reason}" if facts.reason else "down"
    if info.access != "read":
        unknown = facts.reason or "its role is not known"
        return "a standby" if facts.role == STANDBY else unknown
    if info.max_lag is not None:
        if facts.lag is None:
            known = facts.reason if facts.astray else ""
            return known or "its lag is not known"
        if facts.lag > info.max_lag:
            return f"{facts.lag:.1f} s behind, {info.max_lag:g} s are allowed"
    return ""


def shortcoming(
    facts: Facts | None, demand: Demand, min_lsn: Mapping[str, int] | None
) -> str:
    """Say what a node lacks that otherwise suits; empty: nothing.

    What is demanded has to be known of the node, but that it is comparable: then its
    worker finds out whether it has replayed `min_lsn`.
    """
    if not demand or (facts is not None and facts.role == PRIMARY):
        return ""
    if demand is Demand.PRIMARY:
        return "not the primary"
    if facts is None:
        return "not the primary" if demand > Demand.COMPARABLE else ""
    wanted = (min_lsn or {}).get(facts.database, 0)
    if wanted and facts.astray:
        return facts.reason or "it does not follow the primary"
    if demand is Demand.COMPARABLE:
        return ""
    return "" if facts.lsn >= wanted else "it has not replayed that far"


def is_min_lsn(value: Any) -> bool:
    """Tell whether a value maps databases to positions in their logs."""
    return isinstance(value, dict) and all(
        isinstance(name, str) and _is_count(lsn) for name, lsn in value.items()
    )


def _leads(facts: Facts, newest: int) -> bool:
    return facts.up and facts.role == PRIMARY and facts.timeline == newest


def _judge(facts: Facts, newest: int, rivals: str) -> Facts:
    """Return what is believed of a node, by its database's newest timeline.

    Args:
        facts: What was reported.
        newest: That timeline.
        rivals: The other primaries on it.
    """
    own = facts.timeline
    if facts.role != PRIMARY:
        if own == newest:
            return facts
        why = facts.reason or f"it follows timeline {own or 'unknown'} of {newest}"
        return facts._replace(lag=None, astray=True, reason=why)
    if facts.up and own < newest:
        why = f"a primary left behind on timeline {own} of {newest}"
        return facts._replace(up=False, reason=why)
    if facts.up and rivals:
        why = f"a primary on the same timeline as {rivals}"
        return facts._replace(role=UNKNOWN, reason=why)
    return facts


def _entry(said: Any) -> tuple[str, Facts] | None:
    """Read one node of a report, as far as it can be read."""
    if not isinstance(said, list) or len(said) < 8:  # noqa: PLR2004
        return None
    name, database, role, up, lag, lsn, timeline, reason = said[:8]
    if not _is_name(name) or not _is_name(database) or type(up) is not bool:
        return None
    known = type(lag) in (int, float) and isfinite(lag) and lag >= 0
    return name, Facts(
        database,
        role if role in (PRIMARY, STANDBY) else UNKNOWN,
        up,
        float(lag) if known else None,
        lsn if _is_count(lsn) else NOWHERE,
        timeline if _is_count(timeline) else 0,
        reason[:REASON_LIMIT] if isinstance(reason, str) else "",
    )


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= NAME_LIMIT


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0

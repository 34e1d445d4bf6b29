"""What is true of the simulated nodes, and what a broker has to believe of them.

Written apart from the code under test: reports are kept as they came, and looked
through from the beginning for each question.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

DATABASE = "main"


class View(NamedTuple):
    """What a supervisor says of a node, at some time."""

    role: str
    up: bool
    lag: float | None
    lsn: int
    timeline: int
    astray: bool = False  # a standby that does not follow the newest timeline

    def entry(self, name: str) -> list[Any]:
        lag, reason = self.lag, "" if self.up else "connection refused"
        return [
            name, DATABASE, self.role, self.up, lag, self.lsn, self.timeline, reason
        ]  # fmt: skip


@dataclass(slots=True, eq=False)
class Node:
    """A node as it really is."""

    name: str
    role: str = "standby"
    up: bool = True
    lag: float | None = 0.0
    lsn: int = 10
    timeline: int = 1

    def view(self) -> View:
        return View(self.role, self.up, self.lag, self.lsn, self.timeline)


@dataclass(slots=True, eq=False)
class Views:
    """All that was reported, and where workers knew better."""

    reports: list[tuple[bytes, dict[str, View]]] = field(default_factory=list)
    doubts: dict[str, float] = field(default_factory=dict)

    def hear(self, supervisor: bytes, said: list[list[Any]]) -> None:
        views = {entry[0]: View(*entry[2:7]) for entry in said}
        self.reports.append((supervisor, views))
        for name in views:
            self.doubts.pop(name, None)

    def forget(self, supervisors: set[bytes]) -> None:
        """Forget what all but these said: it does not count when they come back."""
        self.reports = [said for said in self.reports if said[0] in supervisors]

    def believed(self, supervisors: set[bytes]) -> dict[str, View]:
        """Return what holds of each node, as long as these supervisors are there."""
        latest = {who: views for who, views in self.reports if who in supervisors}
        ages = {who: number for number, (who, _) in enumerate(self.reports)}
        newest = sorted(latest, key=lambda who: -ages[who])
        held: dict[str, View] = {}
        for who in newest:
            for name, view in latest[who].items():
                if name not in held or (view.up and not held[name].up):
                    held[name] = view
        for name in self.doubts:
            view = held.get(name, View("", True, None, -1, 0))
            held[name] = view._replace(role="", lag=None, lsn=-1)
        timeline = max((view.timeline for view in held.values()), default=0)
        for name, view in held.items():
            if view.timeline < timeline and view.role == "primary":
                held[name] = view._replace(up=False)
            elif view.timeline < timeline:
                held[name] = view._replace(lag=None, astray=True)
        return held


def suits(view: View | None, entry: dict[str, Any]) -> bool:
    """Tell whether a node may be given a script."""
    if view is None:
        return entry["max_lag"] is None
    if not view.up or view.role == "primary":
        return view.up
    if entry["access"] == "write":
        return False
    limit = entry["max_lag"]
    return limit is None or (view.lag is not None and view.lag <= limit)


def has(view: View | None, min_lsn: int | None) -> bool:
    """Tell whether a node is known to have replayed so far; None: to be a primary."""
    if view is None:
        return False
    if view.role == "primary":
        return True
    return min_lsn is not None and not view.astray and view.lsn >= min_lsn

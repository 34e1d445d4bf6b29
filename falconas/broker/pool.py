"""The workers at hand, in lanes, and which of them gets a request.

A lane holds workers that are alike (same manifest, group, node): a script either
runs on all of them or on none, so that each event costs O(lanes), never O(workers).
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from math import isfinite
from typing import Any

from falconas.broker.backlog import QueueKey
from falconas.broker.nodes import Grade, Nodes, objection, shortcoming
from falconas.broker.quarantine import Quarantine, Suspect
from falconas.broker.records import (
    Demand,
    Lane,
    LaneKey,
    Pending,
    ScriptInfo,
    Tally,
    Worker,
)

# Manifests that no worker and no supervisor has any more are still remembered, so
# that a script without a worker is told from an unknown one; the oldest go first.
MANIFESTS = 64
# Two lists of workers so far apart are of two beats, not of one and a change.
UNLISTED_FOR = 0.5
# Nodes that no worker has any more, and whose figures are still remembered.
TALLIES = 256
NOBODY = "no worker is ready there"


class Pool:
    """Workers by identity and by uuid, lanes, and what each lane can run."""

    def __init__(self, horizon: float = 0.0) -> None:
        self.by_identity: dict[bytes, Worker] = {}
        self.by_uuid: dict[bytes, Worker] = {}
        self.lanes: dict[LaneKey, Lane] = {}
        self.manifests: dict[str, dict[str, ScriptInfo]] = {}
        self.longest_budget = 0.0
        self.quarantine = Quarantine()
        self.nodes = Nodes()
        self.tallies: dict[str, Tally] = {}  # of workers that are gone, by node
        self.routes: dict[str, QueueKey] = {}
        self._newest: dict[str, ScriptInfo] = {}
        self._horizon = horizon
        self._grades: dict[str, Grade] = {}
        self._astray = False  # some node is
        self._max_lags: list[float] = []

    def learn(self, manifest: str, scripts: Mapping[str, ScriptInfo]) -> bool:
        """Remember what the manifest of that hash holds; True if that is news."""
        known = self.manifests.pop(manifest, None)
        self.manifests[manifest] = dict(scripts) if known is None else known
        if known is not None:
            return False
        in_use = {lane.manifest for lane in self.lanes}
        spare = [name for name in self.manifests if name not in in_use]
        for name in spare[: max(0, len(self.manifests) - MANIFESTS)]:
            del self.manifests[name]
        for key, lane in self.lanes.items():
            if key.manifest == manifest:
                lane.scripts = self.manifests[manifest]
        self.routes.clear()
        self._newest.clear()
        infos = [info for known in self.manifests.values() for info in known.values()]
        self.longest_budget = max((info.budget or 0.0 for info in infos), default=0.0)
        self._max_lags = sorted({i.max_lag for i in infos if i.max_lag is not None})
        self.regrade()
        return True

    def info(self, script: str) -> ScriptInfo | None:
        """Return the newest version of `script`, a sound one before a broken one."""
        info = self._newest.get(script)
        if info is None:
            info = self._find(script)
            if info is not None:  # names that clients make up must not fill the cache
                self._newest[script] = info
        return info

    def _find(self, script: str) -> ScriptInfo | None:
        broken = None
        for scripts in reversed(self.manifests.values()):
            info = scripts.get(script)
            if info is not None and info.error is None:
                return info
            broken = broken or info
        return broken

    def route(self, script: str) -> QueueKey:
        """Return the lanes that can run `script`; empty if there is none."""
        key = self.routes.get(script)
        if key is None:
            facts = self.nodes.facts
            key = frozenset(
                lane
                for lane, info in self._able(script).items()
                if not objection(facts.get(lane.node), info)
            )
            if key:  # names that clients make up must not fill the cache
                self.routes[script] = key
        return key

    def key_of(self, pending: Pending) -> QueueKey:
        """Return the lanes that can run a request, with what it demands of nodes."""
        key = self.routes.get(pending.script)
        if key is None:
            key = self.route(pending.script)
        demand = pending.demand
        if demand and (demand > Demand.COMPARABLE or self._astray):
            return frozenset(lane for lane in key if not self.lacks(lane.node, pending))
        return key

    def regrade(self) -> bool:
        """Take the facts of nodes into account; True if they decide otherwise now."""
        grades = self.nodes.grades(self._max_lags)
        if grades == self._grades:
            return False
        self._grades = grades
        self._astray = any(grade.astray for grade in grades.values())
        self.routes.clear()
        return True

    def objections(self, pending: Pending) -> str:
        """Say of each node why no worker there gets a request; empty if none is known.

        These are the nodes where workers have its script, and those of their databases.
        """
        nodes = self.nodes.facts
        info = self.info(pending.script)
        if info is None or (not nodes and info.max_lag is None):
            return ""
        names = {lane.node for lane in self._able(pending.script)}
        databases = {nodes[name].database for name in names if name in nodes}
        for name, facts in nodes.items():
            if not databases or facts.database in databases:
                names.add(name)
        return "; ".join(
            f"{name}: {self._objection(name, info, pending)}" for name in sorted(names)
        )

    def _objection(self, name: str, info: ScriptInfo, pending: Pending) -> str:
        against = objection(self.nodes.facts.get(name), info)
        if against := against or self.lacks(name, pending):
            return against
        able = [lane for lane in self._able(pending.script) if lane.node == name]
        if not able:
            return f"it has no worker of group {info.group}" if info.group else NOBODY
        unready = [w for lane in able for w in self.lanes[lane].workers if not w.ready]
        why = max((str(w.facts.get("reason") or "") for w in unready), default="")
        return f"{NOBODY}: {why}" if why else NOBODY

    def lacks(self, node: str, pending: Pending) -> str:
        """Say what a node lacks of what a request demands; empty: nothing."""
        min_lsn = pending.extras.get("min_lsn")
        return shortcoming(self.nodes.facts.get(node), pending.demand, min_lsn)

    def _able(self, script: str) -> dict[LaneKey, ScriptInfo]:
        """Return the lanes whose workers have `script`, whatever their nodes are."""
        return {
            lane.key: info
            for lane in self.lanes.values()
            if (info := lane.scripts.get(script))
            and info.error is None
            and info.group in (None, lane.key.group)
            and Suspect(lane.key.manifest, script) not in self.quarantine
        }

    def crashed(self, suspect: Suspect, now: float) -> bool:
        """Count a worker that died of a script; True if nobody gets it any more."""
        quarantined = self.quarantine.crashed(suspect, now)
        self.routes.clear()
        return quarantined

    def pardon(self, manifests: Container[str]) -> bool:
        """Lift the quarantine of these manifests' scripts; True if there was any."""
        lifted = self.quarantine.lift(manifests)
        self.routes.clear()
        return lifted

    def is_quarantined(self, script: str) -> bool:
        """Tell whether `script` is held back, and no other version can stand in."""
        if not self.quarantine or self._able(script):
            return False
        for manifest, scripts in reversed(self.manifests.items()):
            info = scripts.get(script)
            if info is not None and info.error is None:
                return Suspect(manifest, script) in self.quarantine
        return False

    def is_served(self, key: QueueKey) -> bool:
        """Tell whether some worker of these lanes is ready, idle or busy."""
        return any(self.lanes[lane].ready for lane in key)

    @property
    def has_idle(self) -> bool:
        """Tell whether some worker has nothing to do."""
        return any(lane.idle for lane in self.lanes.values())

    def choose(self, key: QueueKey) -> Worker | None:
        """Return the least recently used idle worker of these lanes."""
        best, best_since = None, 0.0
        for lane_key in key:
            first = next(iter(self.lanes[lane_key].idle.items()), None)
            if first is not None and (best is None or first[1] < best_since):
                best, best_since = first
        return best

    def add(self, worker: Worker) -> bool:
        """Take in a worker; True if its lane is new."""
        self.by_identity[worker.identity] = worker
        self.by_uuid[worker.uuid] = worker
        lane = self.lanes.get(worker.lane)
        fresh = lane is None
        if lane is None:
            scripts = self.manifests.get(worker.lane.manifest, {})
            lane = self.lanes[worker.lane] = Lane(
                worker.lane, scripts, horizon=self._horizon
            )
            self.routes.clear()
        worker.home = lane
        lane.workers.add(worker)
        lane.ready += worker.ready
        return fresh

    def remove(self, worker: Worker) -> bool:
        """Let a worker go; True if its lane went with it."""
        del self.by_identity[worker.identity]
        del self.by_uuid[worker.uuid]
        lane = self.lanes[worker.lane]
        self.set_ready(worker, False)
        lane.workers.remove(worker)
        self._remember(worker)
        if lane.workers:
            return False
        del self.lanes[worker.lane]
        self.routes.clear()
        return True

    def _remember(self, worker: Worker) -> None:
        node = worker.lane.node
        requests, errors = self.tallies.pop(node, Tally())
        self.tallies[node] = Tally(requests + worker.served, errors + worker.errors)
        if len(self.tallies) > TALLIES:
            del self.tallies[next(iter(self.tallies))]

    def rebind(self, worker: Worker, identity: bytes) -> None:
        """Note that a worker came back by another connection."""
        del self.by_identity[worker.identity]
        worker.identity = identity
        self.by_identity[identity] = worker

    def set_ready(self, worker: Worker, ready: bool) -> None:
        """Note whether a worker may be given work at all."""
        lane = self.lanes[worker.lane]
        lane.ready += ready - worker.ready
        worker.ready = ready
        if not ready:
            lane.idle.pop(worker, None)
            lane.spare.pop(worker, None)

    def set_idle(self, worker: Worker, now: float) -> None:
        """Note that a worker has nothing in hand, if it may be given work."""
        if worker.ready and not worker.hands:
            worker.home.idle.setdefault(worker, now)

    def of_supervisor(self, supervisor: bytes) -> list[Worker]:
        """Return the workers of one supervisor."""
        return [w for w in self.by_uuid.values() if w.supervisor == supervisor]

    def missing(
        self, supervisor: bytes, alive: Container[bytes], now: float
    ) -> list[Worker]:
        """Return the workers that their supervisor leaves out for some time.

        Once is no proof: its list may have been made before the worker. The dead are
        left out rightly, and waited for.
        """
        missing = []
        for worker in self.of_supervisor(supervisor):
            if worker.uuid in alive or worker.dead:
                worker.unlisted_at = None
            elif worker.unlisted_at is None:
                worker.unlisted_at = now
            elif now >= worker.unlisted_at + UNLISTED_FOR:
                missing.append(worker)
        return missing


def script_infos(manifest: Any) -> dict[str, ScriptInfo]:
    """Read what the broker needs from a manifest (docs/protocol.md, "Manifest").

    Raises:
        ValueError: It is not a manifest.
    """
    scripts = manifest.get("scripts") if isinstance(manifest, dict) else None
    if not isinstance(scripts, dict):
        raise ValueError("a manifest is a map with a map `scripts`")  # noqa: TRY004
    infos = {}
    for name, entry in scripts.items():
        if not isinstance(name, str) or not isinstance(entry, dict):
            raise ValueError("`scripts` maps names to maps")  # noqa: TRY004
        error, group = entry.get("error"), entry.get("group")
        infos[name] = ScriptInfo(
            name,
            idempotent=entry.get("idempotent") is True,
            budget=_seconds(entry.get("budget")) or None,
            error=None if error is None else str(error),
            access="read" if entry.get("access") == "read" else "write",
            group=group if isinstance(group, str) else None,
            max_lag=_seconds(entry.get("max_lag")),
        )
    return infos


def _seconds(value: Any) -> float | None:
    number = type(value) in (int, float) and isfinite(value) and value >= 0
    return float(value) if number else None

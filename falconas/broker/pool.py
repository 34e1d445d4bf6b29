"""The workers at hand, in lanes, and which of them gets a request.

A lane holds workers that are alike (same manifest, group, role): a script either
runs on all of them or on none, so that each event costs O(lanes), never O(workers).
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from math import isfinite
from typing import Any

from falconas.broker.backlog import QueueKey
from falconas.broker.quarantine import Quarantine, Suspect
from falconas.broker.records import Lane, LaneKey, ScriptInfo, Worker

# Manifests that no worker and no supervisor has any more are still remembered, so
# that a script without a worker is told from an unknown one; the oldest go first.
MANIFESTS = 64
# Two lists of workers so far apart are of two beats, not of one and a change.
UNLISTED_FOR = 0.5


class Pool:
    """Workers by identity and by uuid, lanes, and what each lane can run."""

    def __init__(self) -> None:
        self.by_identity: dict[bytes, Worker] = {}
        self.by_uuid: dict[bytes, Worker] = {}
        self.lanes: dict[LaneKey, Lane] = {}
        self.manifests: dict[str, dict[str, ScriptInfo]] = {}
        self.longest_budget = 0.0
        self.quarantine = Quarantine()
        self._routes: dict[str, QueueKey] = {}

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
        self._routes.clear()
        self.longest_budget = max(
            (
                info.budget or 0.0
                for m in self.manifests.values()
                for info in m.values()
            ),
            default=0.0,
        )
        return True

    def info(self, script: str) -> ScriptInfo | None:
        """Return the newest version of `script`, a sound one before a broken one."""
        broken = None
        for scripts in reversed(self.manifests.values()):
            info = scripts.get(script)
            if info is not None and info.error is None:
                return info
            broken = broken or info
        return broken

    def route(self, script: str) -> QueueKey:
        """Return the lanes that can run `script`; empty if there is none."""
        key = self._routes.get(script)
        if key is None:
            key = frozenset(
                lane.key
                for lane in self.lanes.values()
                if (info := (lane.scripts or {}).get(script))
                and info.error is None
                and Suspect(lane.key.manifest, script) not in self.quarantine
            )
            if key:  # names that clients make up must not fill the cache
                self._routes[script] = key
        return key

    def crashed(self, suspect: Suspect, now: float) -> bool:
        """Count a worker that died of a script; True if nobody gets it any more."""
        quarantined = self.quarantine.crashed(suspect, now)
        self._routes.clear()
        return quarantined

    def pardon(self, manifests: Container[str]) -> bool:
        """Lift the quarantine of these manifests' scripts; True if there was any."""
        lifted = self.quarantine.lift(manifests)
        self._routes.clear()
        return lifted

    def is_quarantined(self, script: str) -> bool:
        """Tell whether `script` is held back, and no other version can stand in."""
        if not self.quarantine or self.route(script):
            return False
        for manifest, scripts in reversed(self.manifests.items()):
            info = scripts.get(script)
            if info is not None and info.error is None:
                return Suspect(manifest, script) in self.quarantine
        return False

    def is_served(self, key: QueueKey) -> bool:
        """Tell whether some worker of these lanes is ready, idle or busy."""
        return any(self.lanes[lane].ready for lane in key)

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
            scripts = self.manifests.get(worker.lane.manifest)
            lane = self.lanes[worker.lane] = Lane(worker.lane, scripts)
            self._routes.clear()
        lane.workers.add(worker)
        lane.ready += worker.ready
        return fresh

    def remove(self, worker: Worker) -> bool:
        """Let a worker go; True if its lane went with it."""
        del self.by_identity[worker.identity]
        del self.by_uuid[worker.uuid]
        lane = self.lanes[worker.lane]
        lane.workers.remove(worker)
        lane.ready -= worker.ready
        lane.idle.pop(worker, None)
        if lane.workers:
            return False
        del self.lanes[worker.lane]
        self._routes.clear()
        return True

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

    def set_idle(self, worker: Worker, now: float) -> None:
        """Note that a worker has nothing in hand, if it may be given work."""
        if worker.ready and not worker.hands:
            self.lanes[worker.lane].idle.setdefault(worker, now)

    def set_busy(self, worker: Worker) -> None:
        """Note that a worker has something in hand."""
        self.lanes[worker.lane].idle.pop(worker, None)

    def of_supervisor(self, supervisor: bytes) -> list[Worker]:
        """Return the workers of one supervisor."""
        return [w for w in self.by_uuid.values() if w.supervisor == supervisor]

    def missing(self, supervisor: bytes, alive: list[Any], now: float) -> list[Worker]:
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
        error = entry.get("error")
        infos[name] = ScriptInfo(
            name,
            idempotent=entry.get("idempotent") is True,
            budget=_seconds(entry.get("budget")),
            error=None if error is None else str(error),
        )
    return infos


def _seconds(value: Any) -> float | None:
    number = type(value) in (int, float) and isfinite(value) and value > 0
    return float(value) if number else None

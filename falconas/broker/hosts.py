"""Supervisors: who is there, what their scripts are, and who fell silent."""

from __future__ import annotations

from typing import Any

from falconas.broker.records import Supervisor
from falconas.protocol import Register

SILENCE = 3.0


class Hosts:
    """Supervisors by uuid, and the manifests that they brought."""

    def __init__(self) -> None:
        self.supervisors: dict[bytes, Supervisor] = {}
        self._manifests: dict[str, dict[str, Any]] = {}

    def register(
        self, identity: bytes, register: Register, scripts: dict[str, Any], now: float
    ) -> None:
        """Take in a supervisor, new or changed, with its scripts' entries."""
        self.supervisors[register.supervisor] = Supervisor(
            register.supervisor,
            identity,
            register.host,
            register.manifest,
            register.extras,
            now,
        )
        self._manifests.pop(register.manifest, None)
        self._manifests[register.manifest] = scripts
        in_use = {s.manifest for s in self.supervisors.values()}
        for manifest in [m for m in self._manifests if m not in in_use]:
            del self._manifests[manifest]

    def heartbeat(self, uuid: bytes, identity: bytes, now: float) -> bool:
        """Note that a supervisor is alive; False if it must register first."""
        supervisor = self.supervisors.get(uuid)
        if supervisor is None:
            return False
        supervisor.seen = now
        supervisor.identity = identity
        return True

    def silent(self, now: float) -> list[Supervisor]:
        """Remove and return the supervisors that missed three heartbeats."""
        gone = [s for s in self.supervisors.values() if s.seen + SILENCE < now]
        for supervisor in gone:
            del self.supervisors[supervisor.uuid]
        return gone

    def leave(self, identity: bytes) -> None:
        """Let the supervisor at this connection go."""
        for supervisor in list(self.supervisors.values()):
            if supervisor.identity == identity:
                del self.supervisors[supervisor.uuid]

    def catalogue(self) -> dict[str, Any]:
        """Return each script's entry; of several versions, a sound and new one."""
        scripts: dict[str, Any] = {}
        for entries in self._manifests.values():
            for name, entry in entries.items():
                if not entry.get("error") or name not in scripts:
                    scripts[name] = entry
        return dict(sorted(scripts.items()))

"""Supervisors: who is there, what their scripts are, and who fell silent."""

from __future__ import annotations

from typing import Any

from falconas.broker.quarantine import Quarantine, Suspect
from falconas.broker.records import Supervisor
from falconas.broker.verdicts import QUARANTINED
from falconas.codec import decode_value
from falconas.errors import InvalidArgument, NotFound, Unavailable
from falconas.protocol import NAME_LIMIT, Heartbeat, Register

SILENCE = 3.0
REASON_LIMIT = 1000


class Hosts:
    """Supervisors by uuid, and the manifests that they brought."""

    def __init__(self) -> None:
        self.supervisors: dict[bytes, Supervisor] = {}
        self.departed: list[str] = []  # for the log
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

    def heartbeat(self, heartbeat: Heartbeat, identity: bytes, now: float) -> bool:
        """Note that a supervisor is alive, and how; False if it must register first."""
        supervisor = self.supervisors.get(heartbeat.supervisor)
        if supervisor is None:
            return False
        supervisor.seen = now
        supervisor.identity = identity
        supervisor.draining = heartbeat.extras.get("draining") is True
        supervisor.reload = _reload(heartbeat.extras.get("reload"))
        return True

    def named(self, host: Any) -> list[Supervisor]:
        """Return the supervisors of a host; without a name, all.

        Raises:
            FalconError: There are none.
        """
        everyone = list(self.supervisors.values())
        if host is None:
            if not everyone:
                text = "no supervisor is connected: start one with `falconas worker`"
                raise Unavailable(text, retry_safe=True)
            return everyone
        if not isinstance(host, str):
            raise InvalidArgument("host must be a str")
        named = [s for s in everyone if s.host == host]
        if not named:
            known = ", ".join(sorted({s.host for s in everyone})) or "none"
            raise NotFound(f"there is no host {host[:NAME_LIMIT]}; known: {known}")
        return named

    def silent(self, now: float) -> list[Supervisor]:
        """Remove and return the supervisors that missed three heartbeats."""
        gone = [s for s in self.supervisors.values() if s.seen + SILENCE < now]
        for supervisor in gone:
            del self.supervisors[supervisor.uuid]
            self.departed.append(f"host {supervisor.host} is silent: given up")
        return gone

    def leave(self, identity: bytes) -> list[Supervisor]:
        """Remove and return the supervisors at this connection: one, or none."""
        gone = [s for s in self.supervisors.values() if s.identity == identity]
        for supervisor in gone:
            del self.supervisors[supervisor.uuid]
            self.departed.append(f"host {supervisor.host} left")
        return gone

    def offers(self, script: str) -> bool:
        """Tell whether somebody there has a script; nobody there may have any."""
        known = self._manifests.values() if self.supervisors else ()
        return not known or any(script in entries for entries in known)

    def entry(self, suspect: Suspect) -> dict[str, Any]:
        """Return what a manifest says of a script; empty if nobody has it any more."""
        entry: dict[str, Any] = self._manifests.get(suspect.manifest, {}).get(
            suspect.script, {}
        )
        return entry

    def catalogue(self, quarantine: Quarantine) -> dict[str, Any]:
        """Return each script's entry; of several versions, a sound and new one."""
        scripts: dict[str, Any] = {}
        for manifest, entries in self._manifests.items():
            for name, entry in entries.items():
                if not entry.get("error") or name not in scripts:
                    scripts[name] = entry
                    if Suspect(manifest, name) in quarantine:
                        scripts[name] = {**entry, "quarantined": QUARANTINED}
        return dict(sorted(scripts.items()))


def beat_of(body: bytes) -> tuple[frozenset[bytes] | None, Any]:
    """Read a HEARTBEAT's body: live workers, if it says, and the facts of nodes."""
    try:
        said = decode_value(body)
    except ValueError:
        return None, None
    if not isinstance(said, dict):
        return None, None
    workers, nodes = said.get("workers"), said.get("nodes")
    if not isinstance(workers, list):
        return None, nodes
    # A set, for each worker is looked for in it.
    return frozenset(uuid for uuid in workers if isinstance(uuid, bytes)), nodes


def _reload(said: Any) -> dict[str, str] | None:
    """Read what a supervisor says of its last reload, if it can be read."""
    if not isinstance(said, dict):
        return None
    id_, state, reason = (said.get(key) for key in ("id", "state", "reason"))
    id_ = id_.encode() if isinstance(id_, str) else id_
    if not isinstance(id_, bytes) or not isinstance(state, str):
        return None
    return {
        "id": id_.hex(),
        "state": state[:NAME_LIMIT],
        "reason": reason[:REASON_LIMIT] if isinstance(reason, str) else "",
    }

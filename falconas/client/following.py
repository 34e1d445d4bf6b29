"""What becomes of a command to supervisors, read from the broker's reports.

Pure. A supervisor is known by its host and process: one that was started anew is
another, and loads the scripts as they are by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

# A supervisor that only lost its connection is back sooner.
GONE_AFTER = 5.0
# One that has nothing to do begins with a reload, and says so, sooner.
IDLE_AFTER = 5.0
_FINAL = frozenset({"done", "failed"})

Key = tuple[str, int]


class Reloaded(NamedTuple):
    """How a reload ended at one supervisor.

    `result` is "done", "failed" (the old scripts are still served), "gone" (the
    supervisor is) or "unknown" (it was not waited for longer); `reason` says why, and
    with "done" which scripts do not load. `old` and `new` are manifests, empty where
    they are not known.
    """

    host: str
    pid: int
    result: str
    old: str
    new: str
    reason: str


@dataclass(slots=True)
class _Followed:
    old: str
    new: str = ""
    result: str = ""
    state: str = ""
    reason: str = ""
    earlier: str = ""  # the reload of before ours
    missing_since: float | None = None
    idle_since: float | None = None


class Reloads:
    """Follows one RELOAD at those who were told.

    Args:
        id_: The command's id.
        told: The hosts of those who were told, as the broker answered.
        before: The broker's report from before.
    """

    def __init__(self, id_: bytes, told: Sequence[str], before: dict[str, Any]) -> None:
        self._id = id_.hex()
        self._told = len(told)
        self._followed = {
            key: _Followed(
                old=str(entry.get("manifest") or ""), earlier=_reload(entry)["id"]
            )
            for key, entry in supervisors(before)
            if key[0] in told
        }

    def look(self, report: dict[str, Any], now: float) -> bool:
        """Take in a report, empty if there is none; True once nobody is waited for."""
        if not report:
            return False
        present = dict(supervisors(report))
        for key, entry in present.items():
            if _reload(entry)["id"] == self._id:
                followed = self._followed.setdefault(key, _Followed(old=""))
                followed.state = _reload(entry)["state"]
                _end(followed, entry)
            elif key in self._followed:
                _hear_of_another(self._followed[key], entry, now)
        for key, followed in self._followed.items():
            self._miss(followed, key in present, now)
        ended = sum(bool(followed.result) for followed in self._followed.values())
        return ended == len(self._followed) >= self._told

    def results(self) -> list[Reloaded]:
        """Return how it ended for each, in order of their hosts."""
        return [
            Reloaded(
                *key, f.result or "unknown", f.old, f.new, f.reason or _unfinished(f)
            )
            for key, f in sorted(self._followed.items())
        ]

    def _miss(self, followed: _Followed, present: bool, now: float) -> None:
        if present or followed.result:
            followed.missing_since = None
        elif followed.missing_since is None:
            followed.missing_since = now
        elif now - followed.missing_since >= GONE_AFTER:
            followed.result, followed.reason = "gone", "its supervisor has left"


def supervisors(report: dict[str, Any]) -> Iterator[tuple[Key, dict[str, Any]]]:
    """Return the supervisors in a report, each with its host and process."""
    for entry in report.get("supervisors", ()):
        yield (str(entry.get("host")), int(entry.get("pid") or 0)), entry


def _unfinished(followed: _Followed) -> str:
    if followed.result:
        return ""
    return f"still {followed.state}" if followed.state else "not heard of"


def _reload(entry: dict[str, Any]) -> dict[str, str]:
    """Return what a supervisor says of its last reload."""
    said = entry.get("reload") or {}
    return {key: str(said.get(key) or "") for key in ("id", "state", "reason")}


def _end(followed: _Followed, entry: dict[str, Any]) -> None:
    """Take in that a supervisor has finished, if it says so."""
    said = _reload(entry)
    if not followed.result and said["state"] in _FINAL:
        followed.result, followed.reason = said["state"], said["reason"]
        followed.new = str(entry.get("manifest") or "")


def _hear_of_another(followed: _Followed, entry: dict[str, Any], now: float) -> None:
    """Take in that a supervisor speaks of another reload, or of none.

    Reloads that wait are done as one, of which it names the last: so one that came
    after ours and has ended speaks for ours.
    """
    said = _reload(entry)
    if followed.result or (said["id"] and said["state"] not in _FINAL):
        followed.idle_since = None
    elif followed.idle_since is None:
        followed.idle_since = now
    elif now - followed.idle_since >= IDLE_AFTER:
        if said["id"] != followed.earlier:
            _end(followed, entry)
        else:
            followed.result, followed.reason = "unknown", "it was not taken up"

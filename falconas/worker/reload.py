"""Reloads: who asked for one and what became of it, and what new scripts change.

They are made one after the other. Whoever asks while one is being made waits for the
next, which reads the folder after all of them had asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Manifest = Mapping[str, Any]

_NAMES_LIMIT = 200  # bytes: they go into a header
LOADING, ROLLING, DONE, FAILED = "loading", "rolling", "done", "failed"


class Reloads:
    """The ids of those who asked; pure."""

    def __init__(self) -> None:
        self.state = ""
        self._waiting: list[bytes] = []
        self._current: list[bytes] = []
        self._news: list[dict[str, Any]] = []

    @property
    def wanted(self) -> bool:
        """Whether to begin one now."""
        return bool(self._waiting) and not self._current

    @property
    def rolling(self) -> bool:
        """Whether workers are being replaced for one."""
        return bool(self._current) and self.state == ROLLING

    @property
    def active(self) -> bool:
        """Whether one is being made or waits."""
        return bool(self._current or self._waiting)

    def ask(self, id_: bytes) -> None:
        """Note that somebody wants one; asking twice is asking once."""
        if id_ not in self._waiting and id_ not in self._current:
            self._waiting.append(id_)

    def begin(self) -> None:
        """Note that the scripts are being loaded."""
        self._current, self._waiting = self._waiting, []
        self._tell(LOADING)

    def roll(self) -> None:
        """Note that they have been loaded, and workers are being replaced."""
        self._tell(ROLLING)

    def end(self, failure: str = "") -> None:
        """Note that the current one has ended."""
        self._tell(FAILED if failure else DONE, failure)
        self._current = []

    def abandon(self, reason: str) -> None:
        """Note that neither this one nor the next will come to an end."""
        self._current, self._waiting = self._current + self._waiting, []
        if self._current:
            self.end(reason)

    def take_news(self) -> list[dict[str, Any]]:
        """Return what has changed since the last time, for each id."""
        news, self._news = self._news, []
        return news

    def _tell(self, state: str, reason: str = "") -> None:
        self.state = state
        self._news += [
            {"id": id_, "state": state, "reason": reason} for id_ in self._current
        ]


def refusal(before: Manifest | None, after: Manifest, *, strict: bool) -> str:
    """Say why scripts must not replace those in service, nothing if they may.

    One that loads must go on loading; one that did not load before may go on so, unless
    `strict`.
    """
    known = before["scripts"] if before is not None else {}
    broken = _broken(after)
    for name, error in broken.items():
        loaded = name in known and known[name]["error"] is None
        if strict or loaded:
            more = f"; {unloaded(after)}" if len(broken) > 1 else ""
            return f"script {name} does not load: {error}{more}"
    return ""


def unloaded(manifest: Manifest) -> str:
    """Count and name the scripts that do not load, nothing if all do."""
    broken = _broken(manifest)
    if not broken:
        return ""
    names = ", ".join(broken)
    packed = names.encode(errors="replace")
    if len(packed) > _NAMES_LIMIT:
        names = packed[:_NAMES_LIMIT].decode(errors="ignore") + "…"
    what = "script does" if len(broken) == 1 else "scripts do"
    return f"{len(broken)} {what} not load: {names}"


def changes(before: Manifest, after: Manifest) -> str:
    """Say what is different between two manifests."""
    old, new = before["scripts"], after["scripts"]
    parts = {
        "scripts changed": [n for n in new if n in old and _content(new, old, n)],
        "new": [name for name in new if name not in old],
        "gone": [name for name in old if name not in new],
    }
    told = [
        f"{what}: {', '.join(sorted(names))}" for what, names in parts.items() if names
    ]
    return "; ".join(told) or "nothing changed"


def _broken(manifest: Manifest) -> dict[str, str]:
    entries = manifest["scripts"].items()
    return {
        name: entry["error"] for name, entry in entries if entry["error"] is not None
    }


def _content(new: Manifest, old: Manifest, name: str) -> bool:
    return bool(
        new[name]["hash"] != old[name]["hash"]
        or new[name]["error"] != old[name]["error"]
    )

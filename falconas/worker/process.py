"""Puts back what a script has changed of the process that it shares with others.

Each part has a look, which costs well below a microsecond, and what puts it back. The
looks are compared with those of the start; nearly always that is all there is to do.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from falconas.worker.parts import parts

log = logging.getLogger(__name__)


class ProcessState:
    """The state of this process, as it is when this is made.

    Make it in the worker's first thread when all of the worker's own signal handlers,
    log handlers and connections are set up.
    """

    def __init__(self) -> None:
        self._parts = parts()
        self._looks = [part.look for part in self._parts]
        self._then = [_frozen(look()) for look in self._looks]
        self._named: set[tuple[str, str]] = set()

    def restore(self, script: str = "") -> bool:
        """Put back what has changed; False if that is not possible.

        Args:
            script: Whose doing it was, for the log.
        """
        now = self._look()
        if _same(now, self._then):
            return True
        changed = []
        for part, is_, was in zip(self._parts, now, self._then, strict=True):
            if _same(is_, was):
                continue
            changed.append(part.name)
            try:
                part.put_back(was)
            except BaseException:
                log.debug("%s cannot be put back", part.name, exc_info=True)
        left = [
            part.name
            for part, is_, was in zip(
                self._parts, self._look(), self._then, strict=True
            )
            if not _same(is_, was)
        ]
        self._report(script, changed, left)
        return not left

    def _look(self) -> list[Any]:
        try:
            return [look() for look in self._looks]
        except BaseException:  # a working folder that is gone, for example
            return [_try(look) for look in self._looks]

    def _report(self, script: str, changed: list[str], left: list[str]) -> None:
        news = [name for name in changed if (script, name) not in self._named]
        self._named.update((script, name) for name in news)
        if news:
            log.warning(
                "script %s changed what other requests share: %s; %s",
                script,
                ", ".join(news),
                f"not put back: {', '.join(left)}" if left else "put back",
                extra={"script": script},
            )


def _frozen(value: Any) -> Any:
    """Copy what would change under our hands."""
    return type(value)(value) if type(value) in {dict, list} else value


def _same(one: Any, other: Any) -> bool:
    try:
        return bool(one == other)
    except BaseException:  # comparing calls code of scripts
        return False


def _try(look: Callable[[], Any]) -> Any:
    try:
        return look()
    except BaseException as error:
        return error

"""Puts back what a script has changed of the process that it shares with others.

Each part has a look, which costs well below a microsecond, and what puts it back. The
looks are compared with those of the start; nearly always that is all there is to do.
So all looks are one function, and what they find is compared at once; which part it was
is asked only when something has changed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from falconas.worker.parts import Part, parts

log = logging.getLogger(__name__)


class ProcessState:
    """The state of this process, as it is when this is made.

    Make it in the worker's first thread when all of the worker's own signal handlers,
    log handlers and connections are set up.
    """

    def __init__(self, of: Sequence[Part] = ()) -> None:
        self._parts = list(of) or parts()
        self._look = joined([part.look for part in self._parts])
        self._then = tuple(map(_frozen, self._look()))
        self._named: set[tuple[str, str]] = set()

    def restore(self, script: str = "") -> bool:
        """Put back what has changed; False if that is not possible.

        Args:
            script: Whose doing it was, for the log.
        """
        try:
            now = self._look()
            if now == self._then:
                return True
        except BaseException:  # a working folder that is gone, a script's own __eq__
            now = self._each()
        changed = self._changes(now)
        for part, was in changed:
            try:
                part.put_back(was)
            except BaseException:
                log.debug("%s cannot be put back", part.name, exc_info=True)
        left = self._changes(self._each())
        self._report(script, _names(changed), _names(left))
        return not left

    def _each(self) -> tuple[Any, ...]:
        return tuple(_try(part.look) for part in self._parts)

    def _changes(self, now: tuple[Any, ...]) -> list[tuple[Part, Any]]:
        """Return the parts that differ, with what they were."""
        return [
            (part, was)
            for part, is_, was in zip(self._parts, now, self._then, strict=True)
            if not _same(is_, was)
        ]

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


def joined(looks: Sequence[Callable[[], Any]]) -> Callable[[], tuple[Any, ...]]:
    """Return one function that returns what all of these do.

    To call each costs more than most of them do. So those that are a `partial` are
    written out: an attribute for `getattr`, else a call with its arguments.
    """
    names: dict[str, Any] = {}

    def name(value: Any) -> str:
        names[f"_{len(names)}"] = value
        return f"_{len(names) - 1}"

    def written(look: Callable[[], Any]) -> str:
        if not isinstance(look, partial):
            return f"{name(look)}()"
        if look.func is getattr:
            owner, attribute = look.args
            return f"{name(owner)}.{attribute}"
        given = [name(value) for value in look.args]
        given += [f"{key}={name(value)}" for key, value in look.keywords.items()]
        return f"{name(look.func)}({', '.join(given)})"

    source = f"lambda: ({''.join(f'{written(look)}, ' for look in looks)})"
    function: Callable[[], tuple[Any, ...]] = eval(source, names)  # noqa: S307
    return function


def _names(changes: list[tuple[Part, Any]]) -> list[str]:
    return list(dict.fromkeys(part.name for part, _ in changes))


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

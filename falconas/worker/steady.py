"""Whether an object has changed, told by the bytes of its C structure.

To compare a dict, or a context of `decimal`, takes ten times as long as to see that it
is the same object, and that no byte of it is another: a dict counts its versions, a
context holds all that matters itself. Where Python does not keep it so, which is tried
out at the start, they are compared.
"""

from __future__ import annotations

import ctypes
import decimal
from collections.abc import Callable
from typing import Any

_HEAD = object.__basicsize__  # with the number of references


def steady(
    get: Callable[[], Any], equal: Callable[[Any], bool], kind: type
) -> Callable[[], bool]:
    """Return what tells whether something is equal to what it was.

    Args:
        get: Returns it.
        equal: Compares it; asked only if it may have changed.
        kind: What it is, one of `KINDS`; if it is another, it is compared.
    """
    shown = KINDS[kind]()
    thing: Any = None
    memory: Any = None
    before = b""

    def look() -> bool:
        nonlocal thing, memory, before
        now = get()
        if now is thing and memory.raw == before:
            return True
        if not equal(now):
            return False
        if shown and type(now) is kind:
            thing, memory = now, structure(now)
            before = memory.raw
        return True

    return look


def structure(thing: object) -> Any:
    """Return the object's memory as an array of bytes, for as long as it lives."""
    size = type(thing).__basicsize__ - _HEAD
    return (ctypes.c_char * size).from_address(id(thing) + _HEAD)


def shows(thing: Any, *changes: Callable[[Any], object]) -> bool:
    """Tell whether each of these changes is seen in the object's bytes."""
    memory = structure(thing)
    for change in changes:
        before = memory.raw
        change(thing)
        if memory.raw == before:
            return False
    return True


def _dict_shows() -> bool:
    return shows(
        {b"a": b"b", b"c": b"d"},
        lambda it: it.update({b"a": b"c"}),
        lambda it: it.update({b"a": b"b"}),
        lambda it: it.pop(b"a"),
        lambda it: it.update({b"e": b"f"}),
    )


def _context_shows() -> bool:
    def put(name: str, value: Any) -> Callable[[Any], object]:
        return lambda it: setattr(it, name, value)

    def flip(signal: Any) -> Callable[[Any], object]:
        return lambda it: it.traps.update({signal: not it.traps[signal]})

    context = decimal.Context(
        prec=5, rounding=decimal.ROUND_UP, Emin=-5, Emax=5, capitals=1, clamp=0
    )
    return shows(
        context,
        put("prec", 6),
        put("rounding", decimal.ROUND_DOWN),
        put("Emin", -6),
        put("Emax", 6),
        put("capitals", 0),
        put("clamp", 1),
        *map(flip, context.traps),
    )


# With what tells whether this Python keeps them so that a change is seen.
KINDS: dict[type, Callable[[], bool]] = {
    dict: _dict_shows,
    decimal.Context: _context_shows,
}

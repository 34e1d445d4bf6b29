"""Scripts whose results cannot be sent."""

from typing import Any

from _zoo.trace import leave

from falconas import Context


class Plain:
    pass


class Spiteful:
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


def unknown_type(ctx: Context) -> Any:
    leave(ctx)
    return {"result": Plain()}


def cycle(ctx: Context) -> Any:
    leave(ctx)
    ring: list[Any] = []
    ring.append(ring)
    return ring


def too_deep(ctx: Context) -> Any:
    leave(ctx)
    value: Any = 1
    for _ in range(1100):
        value = [value]
    return value


def too_large_integer(ctx: Context) -> Any:
    leave(ctx)
    return 2**64


def lone_surrogate(ctx: Context) -> Any:
    leave(ctx)
    return "\ud800"


def without_text(ctx: Context) -> Any:
    leave(ctx)
    return Spiteful()


def too_many_bytes(ctx: Context) -> Any:
    leave(ctx)
    return b"x" * 500_000_000

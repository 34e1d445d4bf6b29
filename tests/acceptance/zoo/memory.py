"""Scripts that want memory."""

import resource
import sys

from _zoo.trace import leave

from falconas import Context

HOARD: list[bytearray] = []


def leak(ctx: Context) -> str:
    leave(ctx)
    HOARD.append(bytearray(b"x") * (300 << 20))
    return "done"


def sudden_gigabytes(ctx: Context) -> int:
    leave(ctx)
    assert resource.getrlimit(resource.RLIMIT_AS)[0] > 0, "this would hurt the machine"
    return len(bytearray(10 << 30))


def endless_recursion(ctx: Context) -> int:
    leave(ctx)
    sys.setrecursionlimit(10**9)

    def deeper(depth: int) -> int:
        return 1 + deeper(depth + 1)

    return deeper(0)

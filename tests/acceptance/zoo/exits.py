"""Scripts that end themselves, or their worker."""

import ctypes
import os
import sys

from _zoo.trace import leave

from falconas import Context


def sys_exit(ctx: Context) -> None:
    leave(ctx)
    sys.exit(3)


def system_exit(ctx: Context) -> None:
    leave(ctx)
    raise SystemExit


def keyboard_interrupt(ctx: Context) -> None:
    leave(ctx)
    raise KeyboardInterrupt


def generator_exit(ctx: Context) -> None:
    leave(ctx)
    raise GeneratorExit


def os_exit(ctx: Context) -> None:
    leave(ctx)
    os._exit(0)


def segmentation_fault(ctx: Context) -> None:
    leave(ctx)
    ctypes.string_at(0)

"""The C library's heap in processes that large bodies go through."""

from __future__ import annotations

import ctypes
import os

REUSED_BYTES = 4 << 20  # up to this size memory that is freed is used again
KEPT_BYTES = 16 << 20  # so much of it is not given back at once

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h
_SAID_BY = {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"}


def keep_freed() -> None:
    """Have the memory of one large body used again for the next one.

    By itself glibc gives it back to the kernel, which clears each page when it is
    wanted again; that was half of what an echo of a megabyte cost. What the environment
    says stands, and other C libraries do as they like. See mallopt(3).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and _SAID_BY.isdisjoint(os.environ):
        mallopt(_MMAP_THRESHOLD, REUSED_BYTES)
        mallopt(_TRIM_THRESHOLD, KEPT_BYTES)

"""What a worker holds beyond what it needs: memory, threads, descriptors, children.

The kernel is asked by descriptors that are kept open: the paths below /proc cost more
to walk than to read. Threads and children are asked for after each request, so that the
usual answer, none, costs next to nothing: no result of `os.stat` is made, no exception.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_FIELDS_BYTES = 128
_STAT_BYTES = 256
_HEAD_BYTES = 24  # device, inode, number of links: wherever Linux has 64 bits
# Without giving up the GIL, which takes as long as these calls do.
_libc = ctypes.PyDLL(None)
_waitpid = _libc.waitpid


class Vitals:
    """Counts against a base, which is taken when this is made.

    Make it when the worker is ready to serve: connected to its broker and database,
    with ZeroMQ's threads running. Connections that are made again later hold as many
    descriptors as before, or a few more; so few is nothing to act upon.
    """

    def __init__(self) -> None:
        self._memory = os.open("/proc/self/statm", os.O_RDONLY)
        self._tasks = os.open("/proc/self/task", os.O_RDONLY | os.O_DIRECTORY)
        self._files = os.open("/proc/self/fd", os.O_RDONLY | os.O_DIRECTORY)
        # Older kernels than 6.2 do not say how many there are.
        self._sized = os.fstat(self._files).st_size > 0
        # Older C libraries than 2.33 have it by another name.
        self._stat = getattr(_libc, "fstat", lambda *_: -1)
        stat = ctypes.create_string_buffer(_STAT_BYTES)
        self._found = ctypes.byref(stat)
        self._head = (ctypes.c_char * _HEAD_BYTES).from_buffer(stat)
        self._threads = _count_threads()
        self._stat(self._tasks, self._found)
        self._none_more = self._head.raw
        self._fds = self._count_fds()

    def threads(self) -> int:
        """Return how many threads there are beyond the base."""
        if (
            self._stat(self._tasks, self._found) == 0
            and self._head.raw == self._none_more  # as of any folder: links
        ):
            return 0
        return max(0, _count_threads() - self._threads)

    def measure(self) -> tuple[int, int]:
        """Return resident bytes, and descriptors beyond the base."""
        fields = os.pread(self._memory, _FIELDS_BYTES, 0).split(b" ", 2)
        return int(fields[1]) * PAGE_BYTES, max(0, self._count_fds() - self._fds)

    def has_children(self) -> bool:
        """Reap the children that have ended; tell whether others live on."""
        while (reaped := _waitpid(-1, None, os.WNOHANG)) > 0:
            pass
        return bool(reaped == 0)  # below: there is none

    def close(self) -> None:
        """Close what is kept open."""
        for fd in (self._memory, self._tasks, self._files):
            with suppress(OSError):
                os.close(fd)

    def _count_fds(self) -> int:
        if self._sized:
            return os.fstat(self._files).st_size
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


def _count_threads() -> int:
    return len(os.listdir("/proc/self/task"))  # noqa: PTH208

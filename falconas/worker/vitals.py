"""What a worker holds beyond what it needs: memory, threads, descriptors, children.

Each is asked of the kernel after each request, by descriptors that are kept open: the
paths below /proc cost more to walk than to read.
"""

from __future__ import annotations

import os
from contextlib import suppress

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_FIELDS_BYTES = 128


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
        self._threads = self._count_threads()
        self._fds = self._count_fds()

    def measure(self) -> tuple[int, int, int]:
        """Return resident bytes, and threads and descriptors beyond the base."""
        fields = os.pread(self._memory, _FIELDS_BYTES, 0).split(b" ", 2)
        return (
            int(fields[1]) * PAGE_BYTES,
            max(0, self._count_threads() - self._threads),
            max(0, self._count_fds() - self._fds),
        )

    def has_children(self) -> bool:
        """Reap the children that have ended; tell whether others live on."""
        try:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            while ended is not None:
                os.waitpid(ended.si_pid, os.WNOHANG)
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return False
        return True

    def close(self) -> None:
        """Close what is kept open."""
        for fd in (self._memory, self._tasks, self._files):
            with suppress(OSError):
                os.close(fd)

    def _count_threads(self) -> int:
        return os.fstat(self._tasks).st_nlink - 2  # as of any folder: . and ..

    def _count_fds(self) -> int:
        if self._sized:
            return os.fstat(self._files).st_size
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208

"""The stderr that a process was started with, for its log: never blocks for long.

A stalled reader of the log must stop neither deadlines nor verdicts. And a worker's
file descriptors 1 and 2 belong to its scripts.
"""

from __future__ import annotations

import io
import os
import select
import socket
import stat
from time import monotonic

STDERR = 2
PATIENCE = 0.05  # seconds; broker and supervisor have to keep deadlines
# A pipe that says it can be written to takes so much at once (PIPE_BUF).
_PIECE = 4096


class Stderr(io.TextIOBase):
    """This process's stderr as it is now, whatever file descriptor 2 becomes.

    A reader that has stopped reading holds up one line, and none of those after it:
    they are lost until it reads on.

    Args:
        fd: What it was started with.
        patience: Seconds that the one line waits.
    """

    encoding = "utf-8"

    def __init__(self, fd: int = STDERR, patience: float = PATIENCE) -> None:
        self._socket: socket.socket | None = None
        self._fd = _own(fd)
        if stat.S_ISSOCK(os.fstat(self._fd).st_mode):
            self._socket = socket.socket(fileno=os.dup(self._fd))
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLOUT)
        self._patience = self._left = patience
        self._torn = False

    def write(self, text: str, /) -> int:
        """Write a text.

        Raises:
            OSError: It was not written, or not all of it.
        """
        data = text.encode(errors="backslashreplace")
        rest = memoryview(b"\n" + data if self._torn else data)
        late = monotonic() + self._left
        while rest:
            if not self._poll.poll(max(0.0, late - monotonic()) * 1000):
                self._left = 0.0
                raise BlockingIOError
            written = self._write(rest[:_PIECE])
            self._torn = written < len(rest)
            rest = rest[written:]
        self._left = self._patience
        return len(text)

    def isatty(self) -> bool:
        """Tell whether it is a terminal."""
        return os.isatty(self._fd)

    def fileno(self) -> int:
        """Return the file descriptor."""
        return self._fd

    def close(self) -> None:
        """Close this way to it."""
        if not self.closed:
            os.close(self._fd)
            if self._socket is not None:
                self._socket.close()
        super().close()

    def _write(self, piece: memoryview) -> int:
        if self._socket is not None:
            return self._socket.send(piece, socket.MSG_DONTWAIT)
        return os.write(self._fd, piece)


def _own(fd: int) -> int:
    """Return a file descriptor of our own for the same file.

    For a pipe one that does not block, though others that write to it still do. A
    file's is a copy: it has to share the position with them.
    """
    if stat.S_ISFIFO(os.fstat(fd).st_mode):
        try:
            return os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            pass  # it belongs to another user
    return os.dup(fd)

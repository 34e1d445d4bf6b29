"""What scripts print, caught in files in memory.

A place for a worker has one such file, made by the supervisor, which is the worker's
stdout and stderr. Writing to it never blocks, it is read when the request is over, and
what a worker wrote last, in dying, is still there for its supervisor.
"""

from __future__ import annotations

import fcntl
import os
import sys
from contextlib import suppress
from time import monotonic_ns
from typing import TextIO

OUTPUT_BYTES = 64 << 10  # of one request
OUTPUT_LIMIT = 1 << 20  # of a request that still runs

_FORM = ("utf-8", "backslashreplace", True)
_FAR = (1 << 20) - 1


def make(count: int) -> list[int]:
    """Make the files of `count` workers; for the supervisor."""
    fds = []
    for _ in range(count):
        fd = os.memfd_create("falconas-output", os.MFD_CLOEXEC)
        # Whoever writes, writes to the end: also after it was cut off.
        fcntl.fcntl(fd, fcntl.F_SETFL, os.O_APPEND)
        fds.append(fd)
    return fds


def trim(fd: int, limit: int = OUTPUT_LIMIT) -> int:
    """Cut a file off that has outgrown `limit`; return how many bytes that cost."""
    size = os.fstat(fd).st_size
    if size <= limit:
        return 0
    kept = min(limit, OUTPUT_BYTES)
    os.ftruncate(fd, kept)
    return size - kept


def rest(fd: int) -> str:
    """Return the end of what a dead worker left, and empty the file."""
    size = os.fstat(fd).st_size
    if not size:
        return ""
    start = max(0, size - OUTPUT_BYTES)
    text = _decode(os.pread(fd, OUTPUT_BYTES, start))
    os.ftruncate(fd, 0)
    return f"({start} bytes left out) {text}" if start else text


class Output:
    """stdout and stderr of this process, caught in a file of `make`.

    The process's log must have a stream of its own: see `falconas.stderr`.

    Args:
        fd: The file. It stays open.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._streams = (self._redirect("stdout", 1), self._redirect("stderr", 2))

    @classmethod
    def install(cls, fd: int) -> Output:
        """Catch what this process prints from now on."""
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):
                stream.flush()
        return cls(fd)

    def take(self) -> tuple[str, int]:
        """Return what was printed since the last time, and how many bytes are missing.

        Whatever a script did to stdout and stderr is put right.
        """
        try:
            if self._is_untouched():
                return "", 0
            self._repair()
            size = os.fstat(self._fd).st_size
            if not size:
                return "", 0
            data = os.pread(self._fd, OUTPUT_BYTES, 0)
            os.ftruncate(self._fd, 0)
        except OSError:  # a script closed the file itself
            return "", 0
        return _decode(data), max(0, size - len(data))

    def _is_untouched(self) -> bool:
        """Tell whether nothing was printed and all is sound; else `take` looks closer.

        What is at 1 and 2 shares the file's position if it is that file. So that is
        moved to where no script can have moved another, and sought there; as everybody
        writes to the end, nobody is bothered. To ask what each is takes five times as
        long.
        """
        out, err = self._streams
        try:
            out.flush()
            err.flush()
            place = _far_away()
            return (
                os.lseek(self._fd, place, os.SEEK_END) == place  # so it is empty
                and os.lseek(1, 0, os.SEEK_CUR) == place
                and os.lseek(2, 0, os.SEEK_CUR) == place
                and sys.stdout is out
                and sys.stderr is err
                and (out.encoding, out.errors, out.line_buffering) == _FORM
                and (err.encoding, err.errors, err.line_buffering) == _FORM
            )
        except Exception:  # closed, detached, not there any more
            return False

    def _repair(self) -> None:
        out, err = self._streams
        for stream in self._streams:
            with suppress(Exception):
                stream.flush()
        fcntl.fcntl(self._fd, fcntl.F_SETFL, os.O_APPEND)
        place = os.lseek(self._fd, _far_away(), os.SEEK_END)
        if not self._is_sound("stdout", 1, out, place):
            out = self._redirect("stdout", 1)
        if not self._is_sound("stderr", 2, err, place):
            err = self._redirect("stderr", 2)
        self._streams = (out, err)

    def _is_sound(self, name: str, number: int, stream: TextIO, place: int) -> bool:
        try:
            stream.flush()
            return (
                getattr(sys, name) is stream
                and (stream.encoding, stream.errors, stream.line_buffering) == _FORM
                and os.lseek(number, 0, os.SEEK_CUR) == place
            )
        except Exception:  # closed, detached, not there any more
            return False

    def _redirect(self, name: str, number: int) -> TextIO:
        os.dup2(self._fd, number)
        encoding, errors, _ = _FORM
        stream = open(  # noqa: SIM115
            number, "w", 1, encoding=encoding, errors=errors, closefd=False
        )
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
        return stream


def _far_away() -> int:
    return monotonic_ns() & _FAR | 1


def _decode(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")

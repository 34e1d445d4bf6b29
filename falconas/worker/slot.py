"""What each worker is doing, in memory that it shares with its supervisor.

A worker writes its slot, the supervisor reads it, above all when the worker is dead:
then the slot is the only witness of what had been started. Cells are aligned and 64
bits wide, so that no cell is ever torn, under a sequence number that grows with each
change and is odd while the worker writes several that belong together.

The id of the last request that was started stays until the next one starts, also in
the states RESET and IDLE: a reply that was handed to ZeroMQ may die with the process.
It is written before the state, so that a worker killed between two cells never shows
state RUN with another request's id.

The supervisor writes two cells only: the id of a request to cancel. The first of them
is an epoch and the second a count from 1, which goes to 0 meanwhile: so a half written
id names no request.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from typing import Protocol

from falconas.worker.snapshot import Snapshot, Spoiled, State

__all__ = [
    "CELLS",
    "ID_BYTES",
    "SLOT_BYTES",
    "NoSlot",
    "Slot",
    "SlotLike",
    "SlotTable",
    "Snapshot",
    "Spoiled",
    "State",
]

CELLS = 16  # two cache lines; the one not named below is free
SLOT_BYTES = 8 * CELLS
ID_BYTES = 16
READS = 64

_SEQUENCE, _STATE, _ID_HIGH, _ID_LOW, _DEADLINE, _SERVED, _ERRORS, _PID = range(8)
_READY, _MEMORY, _THREADS, _FDS, _SPOILED, _CANCEL_HIGH, _CANCEL_LOW = range(8, 15)

_split_id = struct.Struct(">QQ").unpack
_pack_float, _unpack_bits = struct.Struct("=d").pack, struct.Struct("=Q").unpack


class SlotLike(Protocol):
    """Where the runner says what it does; a `Slot`."""

    def enter(self, state: State, id: bytes = b"", deadline: float = 0.0) -> None:  # noqa: A002
        """Note the state and the request that it is about."""

    def is_cancelled(self) -> bool:
        """Tell whether the request that was started last is to be cancelled."""

    def spoil(self, reason: Spoiled) -> None:
        """Note why this worker should be replaced."""


class NoSlot:
    """For a runner that nobody watches."""

    def enter(self, state: State, id: bytes = b"", deadline: float = 0.0) -> None:  # noqa: A002
        """Note nothing."""

    def is_cancelled(self) -> bool:
        """Nobody cancels."""
        return False

    def spoil(self, reason: Spoiled) -> None:
        """Note nothing."""


class Slot:
    """One worker's cells; only the worker may write them, but for `cancel`."""

    def __init__(self, cells: memoryview) -> None:
        self._cells = cells

    def clear(self, pid: int = 0) -> None:
        """Begin a new life in state BOOT; nothing was started yet."""
        cells = self._cells
        sequence = cells[_SEQUENCE] | 1
        cells[_SEQUENCE] = sequence
        for index in range(_STATE, _CANCEL_HIGH):
            cells[index] = pid if index == _PID else 0
        cells[_SEQUENCE] = sequence + 1

    def enter(self, state: State, id: bytes = b"", deadline: float = 0.0) -> None:  # noqa: A002
        """Note the state; with an id, also the request that it is about."""
        cells = self._cells
        sequence = cells[_SEQUENCE] | 1
        if id:
            cells[_SEQUENCE] = sequence
            cells[_ID_HIGH], cells[_ID_LOW] = _split_id(id)
            (cells[_DEADLINE],) = _unpack_bits(_pack_float(deadline))
        cells[_STATE] = state
        cells[_SEQUENCE] = sequence + 1

    def count(self, *, error: bool) -> None:
        """Count an answered request."""
        cells = self._cells
        cells[_SERVED] += 1
        if error:
            cells[_ERRORS] += 1
        cells[_SEQUENCE] = (cells[_SEQUENCE] | 1) + 1

    def set_ready(self, *, ready: bool) -> None:
        """Note whether the broker may give this worker work."""
        if self._cells[_READY] != ready:
            self._write(_READY, ready)

    def live(self, threads: int) -> None:
        """Note how many threads scripts have left running."""
        self._write(_THREADS, threads)

    def wear(self, memory: int, fds: int) -> None:
        """Note what scripts have left behind: bytes and file descriptors."""
        cells = self._cells
        sequence = cells[_SEQUENCE] | 1
        cells[_SEQUENCE] = sequence
        cells[_MEMORY] = memory
        cells[_FDS] = fds
        cells[_SEQUENCE] = sequence + 1

    def spoil(self, reason: Spoiled) -> None:
        """Note why this worker should be replaced."""
        self._write(_SPOILED, reason)

    def cancel(self, id: bytes) -> None:  # noqa: A002
        """Ask to cancel a request; for the supervisor."""
        cells = self._cells
        high, low = _split_id(id)
        cells[_CANCEL_LOW] = 0
        cells[_CANCEL_HIGH], cells[_CANCEL_LOW] = high, low

    def is_cancelled(self) -> bool:
        """Tell whether the request that was started last is to be cancelled."""
        cells = self._cells
        low = cells[_CANCEL_LOW]
        same = low == cells[_ID_LOW] and cells[_CANCEL_HIGH] == cells[_ID_HIGH]
        return same and low != 0

    def read(self) -> Snapshot:
        """Return what the slot says, consistent unless it says `torn`."""
        cells = self._cells.tolist()
        for _ in range(READS):
            again = self._cells.tolist()
            if again == cells and not cells[_SEQUENCE] & 1:
                return self._snapshot(cells, torn=False)
            cells = again
        return self._snapshot(cells, torn=True)

    def _write(self, index: int, value: int) -> None:
        cells = self._cells
        cells[index] = value
        cells[_SEQUENCE] = (cells[_SEQUENCE] | 1) + 1

    @staticmethod
    def _snapshot(cells: list[int], *, torn: bool) -> Snapshot:
        try:
            state, spoiled = State(cells[_STATE]), Spoiled(cells[_SPOILED])
        except ValueError:  # a script wrote into memory that is not its own
            return Snapshot(State.BOOT, b"", 0.0, 0, 0, 0, torn=True)
        id_ = struct.pack(">QQ", cells[_ID_HIGH], cells[_ID_LOW])
        (deadline,) = struct.unpack("=d", struct.pack("=Q", cells[_DEADLINE]))
        return Snapshot(
            state,
            id_ if any(id_) else b"",
            deadline,
            cells[_SERVED],
            cells[_ERRORS],
            cells[_PID],
            torn,
            cells[_SEQUENCE],
            bool(cells[_READY]),
            cells[_MEMORY],
            cells[_THREADS],
            cells[_FDS],
            spoiled,
        )


class SlotTable:
    """The slots of one supervisor's workers, in an anonymous file."""

    def __init__(self, fd: int, count: int) -> None:
        self.fd = fd
        self._memory = mmap.mmap(fd, max(1, count) * SLOT_BYTES)
        self._view = memoryview(self._memory)
        self._cells = self._view.cast("Q")
        self._slots = [self._cells[i * CELLS : (i + 1) * CELLS] for i in range(count)]

    @classmethod
    def create(cls, count: int) -> SlotTable:
        """Make a table; its `fd` is what other processes attach to."""
        flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
        fd = os.memfd_create("falconas-slots", flags)
        os.ftruncate(fd, max(1, count) * SLOT_BYTES)
        # A file cut short under a mapping would end all who look at it, by SIGBUS.
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        return cls(fd, count)

    @classmethod
    def attach(cls, fd: int, count: int) -> SlotTable:
        """Map the table that another process made."""
        return cls(fd, count)

    def slot(self, index: int) -> Slot:
        """Return the slot of the worker at `index`."""
        return Slot(self._slots[index])

    def close(self) -> None:
        """Unmap the table and close its file."""
        for view in (*self._slots, self._cells, self._view):
            view.release()
        self._memory.close()
        os.close(self.fd)

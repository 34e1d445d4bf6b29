"""What a slot says: pure."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple


class State(IntEnum):
    """What a worker is doing."""

    BOOT = 0
    IDLE = 1
    RUN = 2
    COMMIT = 3
    REPLY = 4
    RESET = 5


# To look up an enum's member takes as long as ten other names.
IDLE, RUN, COMMIT, REPLY, RESET = (
    State.IDLE,
    State.RUN,
    State.COMMIT,
    State.REPLY,
    State.RESET,
)


class Spoiled(IntEnum):
    """Why a worker that lives should serve no more than it must."""

    NO = 0
    MEMORY_ERROR = 1  # something may have been left half done
    CHILDREN = 2  # a script left a process running
    STATE = 3  # a script changed what cannot be undone


class Snapshot(NamedTuple):
    """A slot at one moment.

    Attributes:
        state: What the worker does, or did when it died.
        id: The request that it started last, empty if none yet.
        deadline: That request's, on this machine's monotonic clock.
        served: Requests that it answered.
        errors: How many of them with an error.
        pid: Its process, 0 if none has come up yet.
        torn: The worker died, or still was, in the middle of writing.
        sequence: Grows with each change.
        ready: The broker knows it and may give it work.
        memory: Its resident bytes, after the last request.
        threads: How many threads scripts have left behind.
        fds: How many file descriptors scripts have left open.
        spoiled: Why it should be replaced, if it should.
    """

    state: State
    id: bytes
    deadline: float
    served: int
    errors: int
    pid: int
    torn: bool = False
    sequence: int = 0
    ready: bool = False
    memory: int = 0
    threads: int = 0
    fds: int = 0
    spoiled: Spoiled = Spoiled.NO

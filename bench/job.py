"""What a load generator is to do, and how it counts."""

from __future__ import annotations

from array import array
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any, NamedTuple

from bench.works import Mismatch

# Given a work and a key; returns the value of the reply, which is checked.
Call = Callable[[str, int], Awaitable[Any]]


class Job(NamedTuple):
    """What a load generator is to do.

    Attributes:
        endpoint: Of the peer; of one without a server the conninfo of the database.
        work: Its name.
        outstanding: How many requests are kept on their way.
        warm: Seconds that do not count.
        seconds: Seconds that do.
    """

    endpoint: str
    work: str
    outstanding: int
    warm: float
    seconds: float


class Tally:
    """How long each request took, and when it ended."""

    def __init__(self) -> None:
        self.ended = array("d")
        self.took = array("d")

    def add(self, begun: float, ended: float) -> None:
        self.ended.append(ended)
        self.took.append(ended - begun)

    def figures(self, begun: float, ended: float) -> dict[str, Any]:
        """Return the figures of what ended within the time.

        Raises:
            Mismatch: Nothing did.
        """
        took = sorted(
            spent
            for at, spent in zip(self.ended, self.took, strict=True)
            if begun <= at < ended
        )
        return figures(took, ended - begun)


def figures(took: list[float], seconds: float) -> dict[str, Any]:
    """Return the figures of requests, given sorted."""
    if not took:
        raise Mismatch("no request ended in time")
    return {
        "requests": len(took),
        "seconds": seconds,
        "p50_ms": took[len(took) // 2] * 1e3,
        "p99_ms": took[len(took) * 99 // 100] * 1e3,
    }


def say(word: str) -> float:
    """Have what the servers spend be looked at; return the time."""
    print(word, flush=True)
    return monotonic()

"""The broker's clock, as far as a worker can know it."""

from __future__ import annotations

from math import inf
from typing import Any

DRIFT = 1e-4  # seconds a second


class Clock:
    """The broker's clock, by what it has said of it.

    A stamp was made before it came here, and after the broker had heard what it
    answers: between these two bounds the distance of the clocks must lie. They are
    widened slowly, for clocks drift.
    """

    def __init__(self) -> None:
        self._low, self._high = -inf, inf
        self._at = 0.0

    def sample(self, stamp: Any, heard_at: float, now: float) -> None:
        """Take in what the broker's clock said in a message that has come now.

        Args:
            stamp: Its time, if it is one.
            heard_at: When was sent what the broker had heard by then; -inf: nothing.
            now: The local time.
        """
        if type(stamp) not in (int, float):
            return
        faded = DRIFT * (now - self._at)
        self._low = max(self._low - faded, stamp - now)
        self._high += faded
        if stamp - heard_at >= self._low:  # else it was not heard when that was said
            self._high = min(self._high, stamp - heard_at)
        self._at = now

    def at_latest(self, time: float) -> float:
        """Return the local time by which it surely is so late there."""
        return time - self._low

    def at_earliest(self, time: float) -> float:
        """Return the local time before which it surely is not so late there."""
        return time - self._high

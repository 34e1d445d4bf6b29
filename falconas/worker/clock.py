"""The broker's clock, as far as a worker can know it."""

from __future__ import annotations

from math import inf
from typing import Any, TypeGuard

DRIFT = 1e-4  # seconds a second
_NUMBERS = frozenset({int, float})


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
        if not is_time(stamp):
            return
        faded = DRIFT * (now - self._at)
        low, high = self._low - faded, self._high + faded
        if (said := stamp - now) > low:
            low = said
        # Else it was not heard when that was said.
        if low <= stamp - heard_at < high:
            high = stamp - heard_at
        self._low, self._high, self._at = low, high, now

    def at_latest(self, time: float) -> float:
        """Return the local time by which it surely is so late there."""
        return time - self._low

    def at_earliest(self, time: float) -> float:
        """Return the local time before which it surely is not so late there."""
        return time - self._high


def is_time(stamp: Any) -> TypeGuard[float]:
    """Tell whether something that a broker said can be a time."""
    return type(stamp) in _NUMBERS

"""How long to wait before the next attempt."""

from __future__ import annotations

from collections.abc import Callable


class Backoff:
    """Waits that double from `first` to `limit`, each shortened at random by a half."""

    def __init__(self, first: float, limit: float, random: Callable[[], float]) -> None:
        self.first = first
        self.limit = limit
        self._random = random
        self._next = first

    def next(self) -> float:
        """Return how long to wait this time."""
        wait, self._next = self._next, min(self.limit, self._next * 2)
        return wait * (0.5 + self._random() / 2)

    def reset(self) -> None:
        """Begin anew: all is well."""
        self._next = self.first

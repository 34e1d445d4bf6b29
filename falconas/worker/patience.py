"""How long answers, and what waits behind a script, can wait: pure.

To send several answers wakes everybody once. So one is held back while the next script
at hand is known to be short; for a moment. And a script that takes long all the same
lets go what it holds up, while it runs.
"""

from __future__ import annotations

from math import inf

HOLD, HELD = 0.002, 8  # so long, and so many, answers are held back
LET_GO = 0.004  # when a script turned out to be long after all
# After so long it gives back what waits behind it, and what comes late once more.
LONG, LATER = 0.01, 0.05
SHORT, FADING = 0.001, 0.8  # of scripts, and of what is known of them


class Patience:
    """What is held back, and until when.

    Attributes:
        longest: Seconds that scripts took at most, of late.
    """

    def __init__(self) -> None:
        self.longest: dict[str, float] = {}
        self._held, self._held_at = 0, 0.0
        self._due: list[float] = []
        self._long = 0

    def holds(
        self, script: str, took: float, following: str | None, now: float
    ) -> bool:
        """Tell whether the answer of a script that has ended can wait for the next one.

        Args:
            script: It.
            took: How many seconds it ran.
            following: The script that is next, if its answer can wait likewise.
            now: The time.
        """
        longest = self.longest.get(script, 0.0) * FADING
        self.longest[script] = max(took, longest)
        if following is None or self.longest.get(following, inf) > SHORT:
            return False
        if not self._held:
            self._held_at = now
        self._held += 1
        return self._held < HELD and now < self._held_at + HOLD

    def released(self) -> None:
        """Note that nothing is held back any more."""
        self._held = 0

    def begin(self, now: float, *, followed: bool) -> float:
        """Return when a script that begins now has to let go first; inf for never.

        It is called for that by a signal, which some notice: so only where others may
        come to wait behind it, which the broker says (`followed`).
        """
        self._due = [now + LATER, now + LONG] if followed else []
        self._long = len(self._due)
        if self._held:
            self._due.append(self._held_at + LET_GO)
        return self._first()

    @property
    def is_long(self) -> bool:
        """The script that runs has to give back what waits behind it."""
        return 0 < len(self._due) <= self._long

    def next(self) -> float:
        """Return when it has to let go once more; inf for never."""
        self._due.pop()
        return self._first()

    def _first(self) -> float:
        return self._due[-1] if self._due else inf

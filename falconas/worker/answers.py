"""Answers that have perhaps not arrived: pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from math import inf
from typing import Any

from msgspec import Struct

from falconas.protocol import Reply, Return

AHEAD_LIMIT = 64  # of what a broker may say, and so of what is kept


class Answer(Struct):
    """What was said at the time `at`."""

    message: Reply | Return
    body: Any
    at: float

    @property
    def id(self) -> bytes:
        """The dispatch that this answers."""
        assert isinstance(self.message.id, bytes)
        return self.message.id


class Answers:
    """Kept, in order, until a request proves that the broker has heard them."""

    def __init__(self) -> None:
        self._answers: deque[Answer] = deque()

    def __len__(self) -> int:
        return len(self._answers)

    def __iter__(self) -> Iterator[Answer]:
        return iter(self._answers)

    def add(self, answer: Answer) -> None:
        """Keep one more."""
        self._answers.append(answer)

    def clear(self) -> None:
        """Forget all: another broker wants none of them."""
        self._answers.clear()

    def confirm(self, ahead: Any, unanswered: int) -> float:
        """Forget what has arrived; return when the last of that was sent, or -inf.

        Args:
            ahead: How many requests in this worker's hands the broker had no answer to
                when it sent the next one; none if it did not say.
            unanswered: To how many requests there was no answer yet.
        """
        unheard = ahead - unanswered if type(ahead) is int else 0
        unheard = min(unheard, AHEAD_LIMIT)
        answers, heard_at = self._answers, -inf
        while answers and len(answers) > unheard:
            heard_at = answers.popleft().at
        return heard_at

"""What a script gets: the request's facts and the database."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import logging

    from falconas.database.facade import Database


@dataclass(slots=True)
class Context:
    """First argument of each script.

    Attributes:
        db: The database; one transaction, begun and committed around the script, or
            in a group with autocommit each statement for itself.
        request_id: Names the request in logs.
        caller: Who asked, as far as the broker knows him.
        log: A logger that adds the script and the request to each line.
        node: Name of the database node.
        script: Name of the script.
        deadline: When the request's budget ends, on the clock of `time.monotonic`.
    """

    db: Database
    request_id: str
    caller: str | None
    log: logging.LoggerAdapter[logging.Logger]
    node: str
    script: str
    deadline: float

    def remaining(self) -> float:
        """Return how many seconds of the budget are left, never less than 0."""
        return max(0.0, self.deadline - time.monotonic())

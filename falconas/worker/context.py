"""What a script gets: the request's facts and the database."""

from __future__ import annotations

import logging
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from falconas.database.facade import Database


@dataclass(slots=True)
class Context:
    """First argument of each script.

    Attributes:
        db: The database; one transaction, begun and committed around the script, or
            in a group with autocommit each statement for itself.
        request_id: Names the request in logs.
        caller: Who asked, as far as the broker knows him.
        node: Name of the database node.
        script: Name of the script.
        deadline: When the request's budget ends, on the clock of `time.monotonic`.
    """

    db: Database
    request_id: str
    caller: str | None
    node: str
    script: str
    deadline: float
    _log: logging.LoggerAdapter[logging.Logger] | None = field(
        default=None, init=False, repr=False
    )

    @property
    def log(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger that adds the script and the request to each line."""
        if self._log is None:
            self._log = logging.LoggerAdapter(
                logging.getLogger(f"falconas.scripts.{self.script}"),
                {"script": self.script, "request": self.request_id},
            )
        return self._log

    def pipeline(self) -> AbstractContextManager[None]:
        """Send the block's statements without waiting: `ctx.db.pipeline()`."""
        return self.db.pipeline()

    def remaining(self) -> float:
        """Return how many seconds of the budget are left, never less than 0."""
        return max(0.0, self.deadline - time.monotonic())

"""A call without a verdict."""

from __future__ import annotations

from math import inf, isfinite
from typing import Any

from falconas.client.replies import Lsn
from falconas.errors import DeadlineExceeded, InvalidArgument
from falconas.protocol import BUDGET_LIMIT

# So long after its deadline, or after it was cancelled, a call ends here, whatever
# the broker does.
GRACE = 1.0


class Outstanding:
    """A call of the caller `owner`; it has an owner until it has a verdict.

    `script` is None for the catalogue, `budget` None for the script's own,
    `idempotent` None where the catalogue shall decide. `min_lsn` says by database what
    it must see.
    """

    __slots__ = (
        "asked",
        "attempts",
        "body",
        "budget",
        "cancel_on_disconnect",
        "cancelled_at",
        "deadline",
        "id",
        "idempotent",
        "min_lsn",
        "owner",
        "script",
    )

    def __init__(
        self,
        id_: bytes,
        owner: Any,
        script: str | None,
        body: bytes,
        budget: float | None,
        idempotent: bool | None,
        asked: float,
        deadline: float,
    ) -> None:
        self.id = id_
        self.owner = owner
        self.script = script
        self.body = body
        self.budget = budget
        self.idempotent = idempotent
        self.asked = asked
        self.deadline = deadline
        self.cancel_on_disconnect = False
        self.min_lsn: Lsn | None = None
        self.attempts = 0
        self.cancelled_at = inf

    @property
    def cancelled(self) -> bool:
        """The caller no longer wants it."""
        return self.cancelled_at < inf

    @property
    def overdue_at(self) -> float:
        """When the client ends it: what never left needs no grace."""
        if not self.attempts:
            return self.deadline
        return min(self.deadline, self.cancelled_at) + GRACE


def check_budget(budget: float) -> float:
    """Return `budget` in seconds.

    Raises:
        InvalidArgument: It is no number of seconds up to a week.
        DeadlineExceeded: It is used up.
    """
    if type(budget) is float and 0.0 < budget <= BUDGET_LIMIT:
        return budget
    number = isinstance(budget, int | float) and not isinstance(budget, bool)
    if not number or not isfinite(budget) or budget > BUDGET_LIMIT:
        raise InvalidArgument(
            f"budget must be a number of seconds up to {BUDGET_LIMIT:.0f},"
            f" got {ascii(budget)[:40]}"
        )
    if budget <= 0:
        raise DeadlineExceeded(f"the budget is {budget} s", retry_safe=True)
    return float(budget)

from __future__ import annotations

import pytest

from falconas.client.outstanding import GRACE, Outstanding, check_budget
from falconas.errors import DeadlineExceeded, InvalidArgument
from falconas.protocol import BUDGET_LIMIT


def test_what_never_left_needs_no_grace() -> None:
    call = Outstanding(bytes(16), "me", "read", b"", 2.0, None, 50.0, 52.0)
    assert call.overdue_at == 52.0
    call.attempts = 1
    assert call.overdue_at == 52.0 + GRACE
    assert not call.cancelled
    call.cancelled_at = 51.0
    assert call.cancelled
    assert call.overdue_at == 51.0 + GRACE


def test_a_budget_is_given_back_as_a_float() -> None:
    assert check_budget(3) == 3.0
    assert isinstance(check_budget(3), float)


@pytest.mark.parametrize("budget", [True, "1", float("nan"), BUDGET_LIMIT + 1, 1e999])
def test_what_is_no_budget_is_refused(budget: float) -> None:
    with pytest.raises(InvalidArgument, match="number of seconds up to 604800"):
        check_budget(budget)


@pytest.mark.parametrize("budget", [0, 0.0, -0.0, -1, -1e9])
def test_a_budget_that_is_used_up_is_a_deadline(budget: float) -> None:
    with pytest.raises(DeadlineExceeded):
        check_budget(budget)


def test_the_longest_budget_is_one() -> None:
    assert check_budget(BUDGET_LIMIT) == BUDGET_LIMIT

"""Calls by themselves; `test_core` shows them at work."""

from __future__ import annotations

from math import inf

import pytest

from falconas.client.calls import Calls
from falconas.client.outstanding import GRACE, Outstanding
from falconas.client.verdict import Verdict

NOW = 50.0


@pytest.fixture
def calls() -> Calls:
    return Calls(bytes(16), "tcp://broker:5570", 4.0, 3)


def accept(calls: Calls, owner: str, budget: float | None = None) -> Outstanding:
    return calls.accept(owner, "read", b"", NOW, budget=budget, idempotent=None)


def test_calls_are_handed_over_in_the_order_of_their_acceptance(calls: Calls) -> None:
    accepted = [accept(calls, owner) for owner in "abc"]
    assert calls.hand_over(3, 9.0, NOW) == accepted
    assert not calls.unsent
    calls.check_invariants()


def test_what_is_settled_has_no_owner_and_does_not_count(calls: Calls) -> None:
    call = accept(calls, "a")
    verdict = Verdict(b"\x01", None, {})
    calls.settle(call, verdict)
    assert call.owner is None
    assert len(calls) == 0
    assert calls.take_verdicts() == [("a", verdict)]
    assert calls.take_verdicts() == []


def test_a_call_is_settled_once(calls: Calls) -> None:
    call = accept(calls, "a")
    calls.settle(call, Verdict(b"", None, {}))
    with pytest.raises(KeyError):
        calls.settle(call, Verdict(b"", None, {}))


def test_nothing_is_due_before_the_first_deadline(calls: Calls) -> None:
    assert calls.due == inf
    accept(calls, "a", 3.0)
    accept(calls, "b", 2.0)
    assert calls.due == NOW + 2.0
    calls.sweep(NOW + 1.99, "")
    assert len(calls) == 2
    calls.sweep(NOW + 2.0, "")
    assert len(calls) == 1
    assert calls.due == NOW + 3.0


def test_a_call_that_was_sent_has_grace(calls: Calls) -> None:
    call = accept(calls, "a", 2.0)
    assert call.overdue_at == NOW + 2.0
    calls.hand_over(1, 9.0, NOW)
    assert call.overdue_at == NOW + 2.0 + GRACE

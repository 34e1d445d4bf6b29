from __future__ import annotations

from math import inf

import pytest

from falconas.protocol import Return
from falconas.worker.answers import AHEAD_LIMIT, Answer, Answers


def answers(count: int) -> Answers:
    kept = Answers()
    for number in range(count):
        kept.add(Answer(Return(b"%d" % number, "busy", {}), b"", float(number)))
    return kept


@pytest.mark.parametrize(
    ("ahead", "unanswered", "left"),
    [
        (None, 0, 0),  # nothing ahead of it: all has arrived
        (0, 0, 0),
        (2, 0, 2),  # both are answered here, and not heard of there
        (2, 1, 1),  # one of them still runs
        (2, 2, 0),
        (1, 3, 0),  # one was taken back meanwhile
        (9, 0, 3),
        ("2", 0, 0),
        (-1, 0, 0),
    ],
)
def test_what_the_broker_has_not_heard_is_kept(
    ahead: object, unanswered: int, left: int
) -> None:
    kept = answers(3)

    heard_at = kept.confirm(ahead, unanswered)

    assert [answer.id for answer in kept] == [b"0", b"1", b"2"][3 - left :]
    assert heard_at == (2 - left if left < 3 else -inf)


def test_a_broker_cannot_have_everything_kept() -> None:
    kept = answers(AHEAD_LIMIT + 9)
    kept.confirm(10**9, 0)
    assert len(kept) == AHEAD_LIMIT


def test_another_broker_wants_none() -> None:
    kept = answers(3)
    kept.clear()
    assert len(kept) == 0

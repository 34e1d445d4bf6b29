from __future__ import annotations

import time
from typing import Any

from falconas.worker.context import Context


def context(deadline: float) -> Context:
    nothing: Any = None
    return Context(nothing, "id", None, "main", "echo", deadline)


def test_remaining_counts_down_and_never_below_zero() -> None:
    assert 50 < context(time.monotonic() + 60).remaining() <= 60
    assert context(time.monotonic() - 1).remaining() == 0.0

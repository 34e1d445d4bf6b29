from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from falconas.cli.failures import Interrupted
from falconas.cli.interrupts import SIGNALS, Interrupts


def block(*steps: int | Exception | None) -> None:
    """Raise signals and errors within a block; None arms it."""
    with Interrupts() as interrupts:
        for step in steps:
            if step is None:
                interrupts.arm()
            elif isinstance(step, int):
                signal.raise_signal(step)
            else:
                raise step


def handlers() -> list[Callable[..., object] | int | None]:
    return [signal.getsignal(number) for number in SIGNALS]


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_interrupts_once_it_is_armed(number: int) -> None:
    before = handlers()
    with pytest.raises(Interrupted) as caught:
        block(number, None)
    assert caught.value.code == 128 + number
    with pytest.raises(Interrupted) as caught:
        block(None, number)
    assert caught.value.code == 128 + number
    block(number)
    assert handlers() == before


def test_what_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        block(None, signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_other_errors_pass() -> None:
    with pytest.raises(ValueError, match="mine"):
        block(None, ValueError("mine"))

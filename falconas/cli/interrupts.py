"""The signals by which somebody gives up a call."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Self

import click

from falconas.cli.failures import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """Within its block the signals are noted, and once it is armed they interrupt.

    An interrupted block ends in `Interrupted`. What is ignored stays ignored, as
    SIGHUP under nohup.
    """

    def __init__(self) -> None:
        self._armed = False
        self._noted = 0
        self._before = {
            number: handler
            for number in SIGNALS
            if (handler := signal.getsignal(number)) is not signal.SIG_IGN
        }

    def __enter__(self) -> Self:
        for number in self._before:
            signal.signal(number, self._note)
        return self

    def arm(self) -> None:
        """Raise KeyboardInterrupt if a signal came, or when one comes."""
        self._armed = True
        if self._noted:
            raise KeyboardInterrupt

    def __exit__(
        self,
        _: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._armed = False
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if isinstance(error, KeyboardInterrupt) and self._noted:
            if self._noted == signal.SIGINT:
                click.echo(err=True)  # the terminal shows ^C
            raise Interrupted(str(error), self._noted) from None

    def _note(self, number: int, _: FrameType | None) -> None:
        self._noted = number
        if self._armed:
            raise KeyboardInterrupt

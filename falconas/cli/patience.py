"""A word to who waits for a broker that may not be there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Timer
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from falconas.client.sync import Client

NOTICE_AFTER = 2.0


@contextmanager
def patient(client: Client, frontend: str) -> Iterator[None]:
    """Say on stderr what is waited for, if no broker answers soon."""

    def notice() -> None:
        if not client.stats().get("connected"):
            click.echo(f"waiting for a broker at {frontend}", err=True)

    timer = Timer(NOTICE_AFTER, notice)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()

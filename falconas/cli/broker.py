from __future__ import annotations

import click

from falconas.cli.options import options
from falconas.config import Settings
from falconas.stderr import Stderr


@click.command
@options("broker", "log", stream=Stderr)
def broker(settings: Settings) -> int:
    """Take requests from clients and hand them to workers.

    Stops on SIGTERM or Ctrl-C when every outstanding request has its verdict, at
    the second one at once.
    """
    from falconas.broker.loop import main

    return main(settings)

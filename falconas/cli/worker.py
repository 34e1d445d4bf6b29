from __future__ import annotations

import logging

import click

from falconas.checks import idle
from falconas.cli.checks import check_database, check_scripts
from falconas.cli.options import options
from falconas.config import Settings
from falconas.stderr import Stderr

log = logging.getLogger("falconas.config")


@click.command
@options("worker", "database", "log", stream=Stderr)
def worker(settings: Settings) -> int:
    """Serve the scripts of a folder with several processes.

    Each worker has its own PostgreSQL connection. Stops on SIGTERM or Ctrl-C when
    the running requests have ended.
    """
    check_scripts(settings)
    check_database(settings)
    for warning in idle(settings):
        log.warning(warning)
    from falconas.worker.supervisor import main

    return main(settings)

"""The command `falconas`.

Nothing heavy is imported before a command needs it, so that help is quick.
"""

from __future__ import annotations

import logging
import os
import platform
import signal
import sys
from collections.abc import Sequence

if sys.argv[1:2] == ["worker"]:
    # Until the supervisor listens, a reload has nothing to do, and must not end us:
    # what follows takes a while.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)

import click

from falconas.cli.broker import broker
from falconas.cli.call import call
from falconas.cli.cluster import cluster
from falconas.cli.config import config
from falconas.cli.demo import demo
from falconas.cli.dev import dev
from falconas.cli.failures import Exit, describe
from falconas.cli.operate import drain, reload
from falconas.cli.options import help_if_bare
from falconas.cli.run import run
from falconas.cli.show import nodes, scripts, status
from falconas.cli.worker import worker

__all__ = ["cli", "main"]

log = logging.getLogger("falconas.cli")


def _version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if not wanted:
        return
    from importlib.metadata import version as version_of

    import psycopg
    import zmq

    libpq = psycopg.pq.version()
    click.echo(
        f"falconas {version_of('falconas')}"
        f" (Python {platform.python_version()}, pyzmq {zmq.__version__},"
        f" libzmq {zmq.zmq_version()}, msgpack {version_of('msgpack')},"
        f" psycopg {psycopg.__version__}, libpq {libpq // 10000}.{libpq % 10000})"
    )
    ctx.exit()


@click.group(
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_version,
    help="Show the versions of falconas and what it stands on.",
)
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Serve named Python scripts over ZeroMQ, each worker with its own PostgreSQL.

    Options go before the environment (FALCONAS_SECTION__KEY), that before
    falconas.toml. `falconas dev` is the quickest start.
    """
    help_if_bare(ctx)


COMMANDS = (dev, demo, run, call, scripts, status, nodes, reload, drain, cluster)
for command in (*COMMANDS, broker, worker, config):
    cli.add_command(command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit; no traceback ever reaches the user."""
    try:
        code = cli.main(arguments, prog_name="falconas", standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output has had enough; stdout has nothing left to say.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = Exit.FAILED
    except (Exception, KeyboardInterrupt) as error:
        if logging.getLogger().isEnabledFor(logging.DEBUG):
            log.debug("this is where", exc_info=error)
        line, code = describe(error)
        click.echo(f"falconas: {line}" if code != Exit.FAILED else line, err=True)
    sys.exit(int(code or 0))

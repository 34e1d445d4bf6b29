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

from falconas.cli.lazy import Entry, LazyGroup

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


_HERE = "falconas.cli."
COMMANDS = {
    "broker": Entry(
        _HERE + "broker", "Take requests from clients and hand them to workers."
    ),
    "call": Entry(_HERE + "call", "Call SCRIPT and print its result."),
    "cluster": Entry(
        _HERE + "cluster", "Practise failover on the nodes of `falconas dev --nodes`."
    ),
    "config": Entry(_HERE + "config", "Show, check or write the configuration."),
    "demo": Entry(
        _HERE + "demo", "Show FalconAS at work on TPC-H data; needs the extra `demo`."
    ),
    "dev": Entry(
        _HERE + "dev", "Serve this folder's scripts: PostgreSQL, broker and workers."
    ),
    "drain": Entry(
        _HERE + "operate", "Stop the broker, or the workers of HOST, gracefully."
    ),
    "nodes": Entry(
        _HERE + "show", "Show the database nodes: role, lag, health, and work done."
    ),
    "reload": Entry(
        _HERE + "operate", "Let workers, all or those of HOST, load their scripts anew."
    ),
    "run": Entry(_HERE + "run", "Run SCRIPT here, without broker and workers."),
    "scripts": Entry(
        _HERE + "show", "List the scripts, or tell all about the one called NAME."
    ),
    "status": Entry(
        _HERE + "show", "Show the broker's workers, their state, and what waits."
    ),
    "worker": Entry(
        _HERE + "worker", "Serve the scripts of a folder with several processes."
    ),
}


@click.group(
    cls=LazyGroup,
    entries=COMMANDS,
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
    from falconas.cli.options import help_if_bare

    help_if_bare(ctx)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit; no traceback ever reaches the user."""
    try:
        code = cli.main(arguments, prog_name="falconas", standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output has had enough; stdout has nothing left to say.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except (Exception, KeyboardInterrupt) as error:
        if logging.getLogger().isEnabledFor(logging.DEBUG):
            log.debug("this is where", exc_info=error)
        from falconas.cli.failures import Exit, describe

        line, code = describe(error)
        click.echo(f"falconas: {line}" if code != Exit.FAILED else line, err=True)
    sys.exit(int(code or 0))

from __future__ import annotations

import click

from falconas.cli.failures import Exit
from falconas.cli.options import options
from falconas.cli.output import print_value
from falconas.cli.reports import reloads_text
from falconas.config import Settings


@click.command
@click.argument("host", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
@options("client.control", "log.level")
def reload(settings: Settings, *, host: str | None, as_json: bool) -> int:
    """Let workers, all or those of HOST, load their scripts anew.

    New workers take over one share after the other and no request fails. Where a
    script that loads now would not any more, the old ones go on serving.
    """
    from falconas.client.operator import Operator

    results = Operator(settings.client.control).reload(host)
    if as_json:
        print_value([result._asdict() for result in results], as_json=True)
    else:
        click.echo(reloads_text(results))
    done = all(result.result == "done" for result in results)
    return Exit.OK if done else Exit.FAILED


@click.command
@click.argument("host", required=False)
@click.option("--no-wait", is_flag=True, help="Do not wait until it has ended.")
@options("client.control", "log.level")
def drain(settings: Settings, *, host: str | None, no_wait: bool) -> None:
    """Stop the broker, or the workers of HOST, gracefully.

    Requests that were accepted are finished. New ones are served by other hosts;
    a broker that drains refuses them.
    """
    from falconas.client.operator import WAIT, Operator

    operator = Operator(settings.client.control)
    operator.drain(host, wait=0.0 if no_wait else WAIT)
    what = "the broker" if host is None else f"host {host}"
    click.echo(f"{what} {'drains' if no_wait else 'has stopped'}", err=True)

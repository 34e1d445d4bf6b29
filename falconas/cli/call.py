from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import click

from falconas.cli import arguments
from falconas.cli.failures import describe_verdict
from falconas.cli.interrupts import Interrupts
from falconas.cli.options import options
from falconas.cli.output import print_value, served_by
from falconas.cli.patience import patient
from falconas.config import OPTIONS, ConfigError, Settings
from falconas.errors import Cancelled, FalconError, NotFound, Started

if TYPE_CHECKING:
    from falconas.client.sync import Call, Client

HELP_WAIT = 1.0
_CANCELLED = {
    Started.NO: "cancelled; it had not started",
    Started.YES: "cancelled; it had started",
    Started.UNKNOWN: "cancelled; whether it had started is not known",
}


def budget_option(command: Any) -> Any:
    """Add `--budget DURATION`, as a number of seconds."""

    def parse(_: click.Context, __: click.Parameter, text: str | None) -> float | None:
        try:
            kind = OPTIONS["client.budget"].kind
            return None if text is None else float(kind.parse_text(text))
        except ValueError as error:
            raise ConfigError(f"--budget {error}") from None

    return click.option(
        "--budget",
        metavar="DURATION",
        callback=parse,
        help="Longest time for it, all waiting included.  [default: the script's]",
    )(command)


@click.command
@click.argument("script")
@click.argument("parameters", nargs=-1, metavar="[KEY=VALUE|KEY:=JSON]...")
@click.option("--params", metavar="FILE|-", help="JSON object with parameters.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("-v", "--verbose", is_flag=True, help="Say on stderr who served it.")
@budget_option
@options("client.frontend", "log.level")
def call(
    settings: Settings,
    *,
    script: str,
    parameters: tuple[str, ...],
    params: str | None,
    as_json: bool,
    verbose: bool,
    budget: float | None,
) -> None:
    """Call SCRIPT and print its result.

    KEY=VALUE is turned into the type that the script declares; KEY:=JSON gives it
    exactly. They go before what --params says.
    """
    words = arguments.parse(parameters)
    values = arguments.read(params) if params else {}
    from falconas.client.sync import Client

    client = settings.client
    patience = client.budget if budget is None else budget
    with (
        Client(client.frontend, budget=patience) as broker,
        patient(broker, client.frontend),
    ):
        texts = any(not word.exact for word in words)
        known = broker.scripts() if texts else {}
        entry = known.get(script) or {}
        values |= arguments.convert(words, entry.get("params") or [])
        # Once it is sent it may be under way.
        with _helping(broker, script, known), Interrupts() as interrupts:
            outstanding = broker.submit(script, values, budget=budget)
            result = _result(outstanding, interrupts)
        info = outstanding.info
    print_value(result, as_json=as_json)
    if verbose:
        click.echo(served_by(info), err=True)


@contextmanager
def _helping(broker: Client, script: str, known: dict[str, Any]) -> Iterator[None]:
    """Say which script may have been meant if there is none of that name."""
    try:
        yield
    except NotFound as error:
        with suppress(FalconError):
            known = known or broker.scripts(budget=HELP_WAIT)
            if script not in known:
                from falconas.cli.reports import nearest

                error.message += f"; {nearest(script, known)}"
        raise


def _result(call: Call, interrupts: Interrupts) -> Any:
    try:
        interrupts.arm()
        return call.result()
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_cancelled(call)) from None


def _cancelled(call: Call) -> str:
    """Cancel a call and say how it ended; its client knows within a second."""
    call.cancel()
    try:
        call.result()
    except Cancelled as error:
        return _CANCELLED[error.started]
    except FalconError as error:
        return f"it had failed: {describe_verdict(error)}"
    return "too late to cancel: it was done"

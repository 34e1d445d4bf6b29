from __future__ import annotations

import click


@click.command
@click.option("--keep", is_flag=True, help="Leave everything running at the end.")
@click.option("--stop", is_flag=True, help="Only stop what --keep left running.")
@click.option("--clean", is_flag=True, help="Stop it, and remove what was generated.")
def demo(keep: bool, stop: bool, clean: bool) -> None:
    """Show FalconAS at work on TPC-H data; needs the extra `demo`.

    Starts a private PostgreSQL, a broker and workers, calls the example scripts
    of a checkout and stops everything again.
    """
    from falconas import demo as show
    from falconas.cli.table import render

    if clean:
        show.clean()
        return
    if stop:
        click.echo("stopped" if show.stop() else "nothing was running")
        return
    show.run(click.echo, render, keep=keep)

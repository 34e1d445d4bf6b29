"""Results on stdout."""

from __future__ import annotations

from typing import Any

import click

from falconas.cli.table import render


def print_value(value: Any, *, as_json: bool) -> None:
    """Print a value for people, or as JSON."""
    click.echo(to_json(value) if as_json else render(value))


def to_json(value: Any) -> str:
    """Return a value as indented JSON; what JSON lacks is written as text.

    Decimal, UUID, date and time as usual, bytes as base64.
    """
    import msgspec

    data = msgspec.json.encode(value, enc_hook=str, order=None)
    return msgspec.json.format(data, indent=2).decode()


def served_by(info: dict[str, Any]) -> str:
    """Return who served a call, from the extras of its reply."""
    who = info.get("worker", "this process")
    node = info.get("node", "?")
    spent = info.get("run_us")
    time = f" in {spent / 1000:.1f} ms" if isinstance(spent, int | float) else ""
    version = info.get("hash")
    script = f", script {short(version)}" if version else ""
    return f"served by {who} on node {node}{time}{script}"


def short(digest: Any) -> str:
    """Return as much of a hash as people compare."""
    return str(digest or "")[:8]

"""Commands that are imported when they are used: a list of them needs none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any, NamedTuple

import click


class Entry(NamedTuple):
    """Where a command is, and the first sentence of its help."""

    module: str
    said: str


class LazyGroup(click.Group):
    """A group of commands of which it knows the names.

    Args:
        entries: Each command by its name, which is also its name in the module.
    """

    def __init__(self, entries: Mapping[str, Entry], **options: Any) -> None:
        super().__init__(**options)
        self._entries = entries
        self.commands = Commands(entries)  # type: ignore[assignment]

    def format_commands(
        self, ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        """Write the list of commands."""
        rows = [(name, self._entries[name].said) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


class Commands(Mapping[str, click.Command]):
    """Commands by name, each imported when it is looked up."""

    def __init__(self, entries: Mapping[str, Entry]) -> None:
        self._entries = dict(entries)
        self._loaded: dict[str, click.Command] = {}

    def __getitem__(self, name: str) -> click.Command:
        if name not in self._loaded:
            module = import_module(self._entries[name].module)
            self._loaded[name] = getattr(module, name)
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

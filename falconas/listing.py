"""The configuration as text: for people, as a file, for another process."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping

from falconas.logs import mask
from falconas.settings import (
    FAMILIES,
    MEMBERS,
    OPTIONS,
    SECTIONS,
    Option,
    Settings,
    known,
    order_variable,
)


def show(settings: Settings, origins: Mapping[str, str]) -> str:
    """Write all options as TOML, with the origin of each; passwords are masked."""
    lines: list[str] = []
    section = ""
    for option in options_of(settings):
        if option.section != section:
            section = option.section
            lines += ["", f"[{section}]"]
        value = option.value(settings)
        text = option.kind.toml(mask(value) if option.secret else value)
        lines.append(f"{f'{option.key} = {text}':<44}  # {origins[option.path]}")
    return "\n".join(lines[1:]) + "\n"


def environ_of(settings: Settings) -> dict[str, str]:
    """Return the variables that give another process the same settings."""
    orders = {
        order_variable(family): ",".join(names)
        for family, names in _names(settings).items()
        if names
    }
    return orders | {
        option.variable: option.kind.text(option.value(settings))
        for option in options_of(settings)
    }


def options_of(settings: Settings) -> Iterable[Option]:
    """Return all options of these settings, also those of each node and group."""
    return known(_names(settings)).values()


def example() -> str:
    """Write a complete falconas.toml: each option with its help and default."""
    lines = [
        "# Configuration of FalconAS. Each option stands here with its default;",
        "# take away the # in front of what you change. The environment goes before",
        f"# this file ({OPTIONS['broker.frontend'].variable}=…), options of the",
        "# command line go before both.",
    ]
    for section, cls in SECTIONS.items():
        lines += ["", f"# {(cls.__doc__ or '').strip()}", f"[{section}]"]
        lines += _explained(OPTIONS, section)
    for family, cls in FAMILIES.items():
        text = f"{(cls.__doc__ or '').strip()} As many as you like, each with its NAME."
        lines += ["", *_comment(text), f"# [{family}.NAME]"]
        lines += _explained(MEMBERS, f"{family}.NAME")
    return "\n".join(lines) + "\n"


def _explained(options: Mapping[str, Option], section: str) -> list[str]:
    lines = []
    for option in options.values():
        if option.section != section:
            continue
        text = f"{option.help} Must be {option.kind.wanted}."
        if option.follows:
            text += f" Not set: as {option.follows}."
        lines += _comment(text)
        lines.append(f"# {option.key} = {option.kind.toml(option.default)}")
    return lines


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, 78, initial_indent="# ", subsequent_indent="# ")


def _names(settings: Settings) -> dict[str, Iterable[str]]:
    return {family: getattr(settings, family) for family in FAMILIES}

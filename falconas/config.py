"""Configuration: one falconas.toml, the environment and the command line.

In rising precedence: default, file, environment, command line. Whatever is
wrong ends in a `ConfigError`, one line that names the place and says what would
be right.
"""

from __future__ import annotations

import difflib
import logging
import re
import stat
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from falconas.checks import ConfigError, StartError, check_broker, check_nodes
from falconas.logs import has_password
from falconas.options import Name, dialable, is_loopback
from falconas.settings import (
    FAMILIES,
    MEMBERS,
    OPTIONS,
    PREFIX,
    SECTIONS,
    Broker,
    Client,
    Database,
    Log,
    Option,
    Settings,
    Worker,
    known,
    order_variable,
)

__all__ = [
    "OPTIONS",
    "Broker",
    "Client",
    "ConfigError",
    "Database",
    "Loaded",
    "Log",
    "Option",
    "Settings",
    "StartError",
    "Worker",
    "check_broker",
    "is_loopback",
    "load",
    "locate",
    "resolve",
]

FILE = "falconas.toml"
FILE_VARIABLE = "FALCONAS_CONFIG"
DEFAULT = "default"

Tables = Mapping[str, Mapping[str, Any]]  # of a file, by section
Names = Mapping[str, Iterable[str]]  # of the nodes and the groups
Options = Mapping[str, Option]
Found = Iterator[tuple[Option, Any, str]]  # an option, its value, where it was found

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Loaded:
    """Settings, where each value came from, and what to warn of."""

    settings: Settings
    origins: dict[str, str]
    warnings: list[str]


def load(
    path: Path | None,
    environ: Mapping[str, str],
    options: Mapping[str, Mapping[str, Any]],
) -> Settings:
    """Return the settings and log the warnings; see `resolve`."""
    loaded = resolve(path, environ, options)
    for warning in loaded.warnings:
        log.warning(warning)
    return loaded.settings


def resolve(
    path: Path | None,
    environ: Mapping[str, str],
    options: Mapping[str, Mapping[str, Any]],
) -> Loaded:
    """Merge file, environment and command line.

    Args:
        path: The configuration file, None for none.
        environ: The environment's variables.
        options: The command line's values by section and key; texts are parsed.

    Raises:
        ConfigError: A name is unknown, a value is wrong, the file is unreadable.
    """
    tables = _tables(path) if path else {}
    names = _members(path, tables, environ)
    every = known(names)
    values = {name: option.default for name, option in every.items()}
    origins = dict.fromkeys(every, DEFAULT)
    sources: list[Found] = [
        _from_file(path, tables, every),
        _from_environ(environ, every),
        _from_command_line(options, every),
    ]
    for source in sources:
        for option, value, origin in source:
            values[option.path], origins[option.path] = value, origin
    for name, option in every.items():
        leader = option.follows
        if leader and origins[name] == DEFAULT and origins[leader] != DEFAULT:
            values[name] = dialable(values[leader])
            origins[name] = f"{leader}, {origins[leader]}"
    settings = _settings(names, values)
    check_nodes(settings)
    warnings = [*_exposed(path, origins, values, every), *_misspelt(environ)]
    return Loaded(settings, origins, warnings)


def locate(option: str | None, environ: Mapping[str, str], folder: Path) -> Path | None:
    """Return the configuration file: as told, else falconas.toml if it is there."""
    if told := option or environ.get(FILE_VARIABLE):
        return Path(told)
    found = folder / FILE
    return found if found.exists() else None


def _settings(names: Names, values: Mapping[str, Any]) -> Settings:
    def made(cls: type[Any], section: str) -> Any:
        return cls(
            **{item.name: values[f"{section}.{item.name}"] for item in fields(cls)}
        )

    sections = {name: made(cls, name) for name, cls in SECTIONS.items()}
    families = {
        family: {name: made(cls, f"{family}.{name}") for name in names[family]}
        for family, cls in FAMILIES.items()
    }
    return Settings(**(sections | families))


def _members(path: Path | None, tables: Tables, environ: Mapping[str, str]) -> Names:
    """Return the names of all nodes and groups, in their order."""
    found: dict[str, dict[str, None]] = {family: {} for family in FAMILIES}
    for section in tables:
        family, _, name = section.partition(".")
        if name:
            found[family][_name(name, f"{path}: [{section}]")] = None
    for family, members in found.items():
        for variable in sorted(environ):
            start = f"{order_variable(family)}__"
            middle = variable.removeprefix(start).rpartition("__")[0]
            if variable.startswith(start) and middle:
                members[_name(middle.lower(), variable)] = None
    return {family: _ordered(family, list(found[family]), environ) for family in found}


def _ordered(family: str, names: list[str], environ: Mapping[str, str]) -> list[str]:
    """Put those first that the environment says are first."""
    variable = order_variable(family)
    first = [item.strip() for item in environ.get(variable, "").split(",") if item]
    for name in first:
        if name not in names:
            raise ConfigError(f"{variable}: there is no [{family}.{name}]")
    return list(dict.fromkeys([*first, *names]))


def _name(name: str, where: str) -> str:
    try:
        return Name().parse(name)
    except ValueError as error:
        raise ConfigError(f"{where}: its name {error}") from None


def _tables(path: Path) -> Tables:
    """Return the sections of a file; those of families as `nodes.NAME`."""
    titles = [*SECTIONS, *(f"{family}.NAME" for family in FAMILIES)]
    found = {}
    for section, table in _read(path).items():
        if section not in SECTIONS and section not in FAMILIES:
            wanted = _near(f"[{section}]", [f"[{title}]" for title in titles])
            raise ConfigError(f"{path}: unknown section [{section}]; {wanted}")
        if not isinstance(table, dict):
            raise ConfigError(f"{path}: {section} must be a section: [{section}]")
        if section in SECTIONS:
            found[section] = table
            continue
        for name, member in table.items():
            if not isinstance(member, dict):
                raise ConfigError(
                    f"{path}: {section}.{name} must be a section: [{section}.{name}];"
                    f" options stand in [{section}.NAME]"
                )
            found[f"{section}.{name}"] = member
    return found


def _from_file(path: Path | None, tables: Tables, every: Options) -> Found:
    for section, table in tables.items():
        for key, value in table.items():
            option = _option(every, section, key, f"{path}:")
            yield option, _parse(option, value, f"{path}: {option.path}"), str(path)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: there is no such file; `falconas config example` writes one"
        ) from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 at byte {error.start}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: is not TOML: {error}") from None


def _from_environ(environ: Mapping[str, str], every: Options) -> Found:
    variables = {option.variable: option for option in every.values()}
    for name in sorted(environ):
        if not name.startswith(PREFIX) or "__" not in name:
            continue
        if name not in variables:
            hint = _near_variable(name, variables)
            raise ConfigError(f"unknown variable {name}; {hint}")
        option = variables[name]
        yield option, _parse(option, environ[name], name, text=True), name


def _from_command_line(
    options: Mapping[str, Mapping[str, Any]], every: Options
) -> Found:
    for section, table in options.items():
        for key, value in table.items():
            option = _option(every, section, key, "command line:")
            if option.secret and isinstance(value, str) and has_password(value):
                raise ConfigError(
                    f"{option.flag} must not hold a password, everybody on this"
                    " machine can read it: put it into the password file"
                    " (PGPASSFILE), a service file, the variable"
                    f" {option.variable} or the configuration file"
                )
            text = isinstance(value, str)
            yield option, _parse(option, value, option.flag, text=text), option.flag


def _option(every: Options, section: str, key: str, where: str) -> Option:
    name = f"{section}.{key}"
    if name in every:
        return every[name]
    hints = (
        [option.path for option in options.values() if option.key == key]
        for options in (OPTIONS, MEMBERS)
    )
    same_key = next(filter(None, hints), [])
    keys = [option.key for option in every.values() if option.section == section]
    hint = (
        f"did you mean {' or '.join(same_key)}?"
        if same_key
        else _near(key, keys, f"{section}.")
    )
    raise ConfigError(f"{where} unknown option {name}; {hint}")


def _near(name: str, names: Iterable[str], before: str = "") -> str:
    near = difflib.get_close_matches(name, names, 1, 0.6)
    if near:
        return f"did you mean {before}{near[0]}?"
    return "known are " + ", ".join(before + name for name in names)


def _near_variable(name: str, variables: Iterable[str]) -> str:
    short = [variable.removeprefix(PREFIX) for variable in variables]
    near = difflib.get_close_matches(name.removeprefix(PREFIX), short, 1, 0.6)
    if near:
        return f"did you mean {PREFIX}{near[0]}?"
    return "`falconas config example` lists all options"


def _parse(option: Option, value: Any, where: str, *, text: bool = False) -> Any:
    try:
        return option.kind.parse_text(value) if text else option.kind.parse(value)
    except ValueError as error:
        raise ConfigError(f"{where} {error}") from None


def _exposed(
    path: Path | None,
    origins: Mapping[str, str],
    values: Mapping[str, Any],
    every: Options,
) -> Iterator[str]:
    secret = any(
        option.secret and origins[name] == str(path) and has_password(values[name])
        for name, option in every.items()
    )
    if path and secret and path.stat().st_mode & stat.S_IROTH:
        yield (
            f"{path} holds a password and everybody on this machine can read it:"
            f" chmod 640 {path}"
        )


def _misspelt(environ: Mapping[str, str]) -> Iterator[str]:
    """Warn of variables with one underscore where two are needed."""
    for name in sorted(environ):
        for option in (*OPTIONS.values(), *MEMBERS.values()):
            pattern = option.variable.replace("__", "_").replace("NAME", "(.+)")
            match = re.fullmatch(pattern, name)
            if match and "__" not in name:
                wanted = option.variable.replace("NAME", "".join(match.groups()))
                yield f"variable {name} is not read; did you mean {wanted}?"
                break

"""Configuration: one falconas.toml, the environment and the command line.

In rising precedence: default, file, environment, command line. Whatever is
wrong ends in a `ConfigError`, one line that names the place and says what would
be right.
"""

from __future__ import annotations

import difflib
import logging
import stat
import textwrap
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from falconas.logs import has_password, mask
from falconas.options import dialable, is_loopback
from falconas.settings import (
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
    "environ_of",
    "example",
    "is_loopback",
    "load",
    "locate",
    "resolve",
    "show",
]

FILE = "falconas.toml"
FILE_VARIABLE = "FALCONAS_CONFIG"
DEFAULT = "default"

Found = Iterator[tuple[Option, Any, str]]  # an option, its value, where it was found

log = logging.getLogger(__name__)


class ConfigError(ValueError):
    """The configuration is wrong; the text is one line that says what is right."""


class StartError(ConfigError):
    """A process cannot start as configured: a port is in use, a program missing."""


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
    values = {name: option.default for name, option in OPTIONS.items()}
    origins = dict.fromkeys(OPTIONS, DEFAULT)
    sources: list[Iterable[tuple[Option, Any, str]]] = [
        _from_file(path) if path else [],
        _from_environ(environ),
        _from_command_line(options),
    ]
    for source in sources:
        for option, value, origin in source:
            values[option.path], origins[option.path] = value, origin
    for name, option in OPTIONS.items():
        leader = option.follows
        if leader and origins[name] == DEFAULT and origins[leader] != DEFAULT:
            values[name] = dialable(values[leader])
            origins[name] = f"{leader}, {origins[leader]}"
    built = {
        section: cls(**{o.key: values[o.path] for o in _of(section)})
        for section, cls in SECTIONS.items()
    }
    warnings = [*_exposed(path, origins, values), *_misspelt(environ)]
    return Loaded(Settings(**built), origins, warnings)


def locate(option: str | None, environ: Mapping[str, str], folder: Path) -> Path | None:
    """Return the configuration file: as told, else falconas.toml if it is there."""
    if told := option or environ.get(FILE_VARIABLE):
        return Path(told)
    found = folder / FILE
    return found if found.exists() else None


def check_broker(broker: Broker) -> None:
    """Refuse settings that a broker must not start with.

    Raises:
        ConfigError: Others could reach it without a key, endpoints are the same,
            or the largest request does not fit into the queue.
    """
    endpoints = {
        key: getattr(broker, key) for key in ("frontend", "backend", "control")
    }
    for key, endpoint in endpoints.items():
        if not broker.insecure and not is_loopback(endpoint):
            raise ConfigError(
                f"broker.{key} = {endpoint} can be reached from other machines and"
                " no keys are set: listen on 127.0.0.1 or ipc://, or say --insecure"
                " (broker.insecure = true)"
            )
    if len(set(endpoints.values())) < len(endpoints):
        raise ConfigError(
            "broker.frontend, broker.backend and broker.control must differ"
        )
    if broker.params_bytes > broker.queue_bytes:
        raise ConfigError(
            f"broker.params_bytes ({broker.params_bytes}) must not be larger than"
            f" broker.queue_bytes ({broker.queue_bytes})"
        )


def show(settings: Settings, origins: Mapping[str, str]) -> str:
    """Write all options as TOML, with the origin of each; passwords are masked."""
    lines = []
    for section in SECTIONS:
        lines.append(f"[{section}]")
        for option in _of(section):
            value = getattr(getattr(settings, section), option.key)
            text = option.kind.toml(mask(value) if option.secret else value)
            lines.append(f"{f'{option.key} = {text}':<44}  # {origins[option.path]}")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def environ_of(settings: Settings) -> dict[str, str]:
    """Return the variables that give another process the same settings."""
    return {
        option.variable: option.kind.text(
            getattr(getattr(settings, option.section), option.key)
        )
        for option in OPTIONS.values()
    }


def example() -> str:
    """Write a complete falconas.toml: each option with its help and default."""
    lines = [
        "# Configuration of FalconAS. Each option stands here with its default;",
        "# take away the # in front of what you change. The environment goes before",
        f"# this file ({OPTIONS['broker.frontend'].variable}=…), options of the",
        "# command line go before both.",
        "",
    ]
    for section, cls in SECTIONS.items():
        lines += [f"# {(cls.__doc__ or '').strip()}", f"[{section}]"]
        for option in _of(section):
            text = f"{option.help} Must be {option.kind.wanted}."
            if option.follows:
                text += f" Not set: as {option.follows}."
            lines += textwrap.wrap(
                text, 78, initial_indent="# ", subsequent_indent="# "
            )
            lines.append(f"# {option.key} = {option.kind.toml(option.default)}")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _of(section: str) -> list[Option]:
    return [option for option in OPTIONS.values() if option.section == section]


def _from_file(path: Path) -> Found:
    for section, table in _read(path).items():
        if section not in SECTIONS:
            wanted = _near(f"[{section}]", [f"[{name}]" for name in SECTIONS])
            raise ConfigError(f"{path}: unknown section [{section}]; {wanted}")
        if not isinstance(table, dict):
            raise ConfigError(f"{path}: {section} must be a section: [{section}]")
        for key, value in table.items():
            option = _option(section, key, f"{path}:")
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


def _from_environ(environ: Mapping[str, str]) -> Found:
    known = {option.variable: option for option in OPTIONS.values()}
    for name in sorted(environ):
        if not name.startswith(PREFIX) or "__" not in name:
            continue
        if name not in known:
            raise ConfigError(f"unknown variable {name}; {_near_variable(name)}")
        option = known[name]
        yield option, _parse(option, environ[name], name, text=True), name


def _from_command_line(options: Mapping[str, Mapping[str, Any]]) -> Found:
    for section, table in options.items():
        for key, value in table.items():
            option = _option(section, key, "command line:")
            if option.secret and isinstance(value, str) and has_password(value):
                raise ConfigError(
                    f"{option.flag} must not hold a password, everybody on this"
                    " machine can read it: put it into the password file"
                    " (PGPASSFILE), a service file, the variable"
                    f" {option.variable} or the configuration file"
                )
            text = isinstance(value, str)
            yield option, _parse(option, value, option.flag, text=text), option.flag


def _option(section: str, key: str, where: str) -> Option:
    name = f"{section}.{key}"
    if name in OPTIONS:
        return OPTIONS[name]
    same_key = [path for path, option in OPTIONS.items() if option.key == key]
    hint = (
        f"did you mean {' or '.join(same_key)}?"
        if same_key
        else _near(name, [option.path for option in _of(section)])
    )
    raise ConfigError(f"{where} unknown option {name}; {hint}")


def _near(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, 1, 0.6)
    if near:
        return f"did you mean {near[0]}?"
    return "known are " + ", ".join(known)


def _near_variable(name: str) -> str:
    short = {
        option.variable.removeprefix(PREFIX): option for option in OPTIONS.values()
    }
    near = difflib.get_close_matches(name.removeprefix(PREFIX), short, 1, 0.6)
    if near:
        return f"did you mean {short[near[0]].variable}?"
    return "`falconas config example` lists all options"


def _parse(option: Option, value: Any, where: str, *, text: bool = False) -> Any:
    try:
        return option.kind.parse_text(value) if text else option.kind.parse(value)
    except ValueError as error:
        raise ConfigError(f"{where} {error}") from None


def _exposed(
    path: Path | None, origins: Mapping[str, str], values: Mapping[str, Any]
) -> Iterator[str]:
    for name, option in OPTIONS.items():
        if path is None or origins[name] != str(path) or not option.secret:
            continue
        if has_password(values[name]) and path.stat().st_mode & stat.S_IROTH:
            yield (
                f"{path} holds a password and everybody on this machine can read it:"
                f" chmod 640 {path}"
            )


def _misspelt(environ: Mapping[str, str]) -> Iterator[str]:
    known = {o.variable.replace("__", "_"): o.variable for o in OPTIONS.values()}
    for name in sorted(known.keys() & environ.keys()):
        yield f"variable {name} is not read; did you mean {known[name]}?"

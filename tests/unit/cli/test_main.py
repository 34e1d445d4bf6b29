from __future__ import annotations

import subprocess
import sys
from typing import Any

import click
import pytest

from falconas.cli import COMMANDS, cli
from falconas.config import OPTIONS


def commands() -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for name, command in cli.commands.items():
        inner = command.commands if isinstance(command, click.Group) else {}
        found += [(name, *path) for path in ((), *((key,) for key in inner))]
    return found


@pytest.mark.parametrize("path", commands(), ids=" ".join)
def test_each_command_has_help(falconas: Any, path: tuple[str, ...]) -> None:
    result = falconas(*path, "--help")
    assert result.code == 0
    assert result.err == ""
    assert result.out.startswith(f"Usage: falconas {' '.join(path)}")


@pytest.mark.parametrize("path", [(), ("config",)])
def test_a_group_alone_shows_its_help(falconas: Any, path: tuple[str, ...]) -> None:
    result = falconas(*path)
    assert (result.code, result.out) == (2, "")
    assert result.err == falconas(*path, "--help").out


def test_the_list_of_commands_is_not_cut_off(falconas: Any) -> None:
    out = falconas("--help").out
    assert "..." not in out.partition("Commands:")[2]


def test_version_names_what_it_stands_on(falconas: Any) -> None:
    result = falconas("--version")
    assert result.code == 0
    for name in (
        "falconas",
        "Python",
        "pyzmq",
        "libzmq",
        "msgpack",
        "psycopg",
        "libpq",
    ):
        assert f"{name} " in result.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["brokr"], ["no such command 'brokr'", "falconas --help"]),
        (["broker", "--fronted", "x"], ["--fronted", "--frontend", "broker --help"]),
        (["broker", "--budget"], ["--budget", "requires an argument"]),
        (["broker", "extra"], ["extra", "broker --help"]),
        (["broker", "--budget", "soon"], ["--budget must be a duration", '"soon"']),
        (["broker", "--config", "nope"], ["nope: there is no such file"]),
        (["call"], ["missing argument 'SCRIPT'", "call --help"]),
    ],
)
def test_wrong_usage_is_one_line_and_code_2(
    falconas: Any, arguments: list[str], words: list[str]
) -> None:
    result = falconas(*arguments)
    assert result.code == 2
    assert result.out == ""
    (line,) = result.err.splitlines()
    assert line.startswith("falconas: ")
    for word in words:
        assert word in line


def test_a_fault_of_ours_is_one_line_too(
    falconas: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Any) -> int:
        raise ZeroDivisionError("oh\nno")

    monkeypatch.setattr("falconas.broker.loop.main", fail)
    result = falconas("broker")
    assert result.code == 1
    assert result.err == (
        "internal error: ZeroDivisionError: oh no (--log-level debug shows where)\n"
    )


def test_debug_shows_where(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Any) -> int:
        raise ZeroDivisionError("no")

    monkeypatch.setattr("falconas.broker.loop.main", fail)
    from falconas.cli import main

    with pytest.raises(SystemExit):
        main(["broker", "--log-level", "debug", "--log-format", "text"])
    assert "Traceback" in capfd.readouterr().err


def test_ctrl_c_is_130(falconas: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: Any) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("falconas.broker.loop.main", interrupt)
    result = falconas("broker")
    assert result.code == 130
    assert result.err.split() == ["falconas:", "interrupted"]


def test_options_of_the_command_line_are_those_of_the_settings() -> None:
    flags = {option.flag for option in OPTIONS.values()}
    own = {"--help", "--config", "--json", "--params", "--verbose"}
    own |= {"--no-wait", "--nodes"}
    for name, command in cli.commands.items():
        for parameter in command.params if name != "demo" else ():
            if isinstance(parameter, click.Option):
                assert set(parameter.opts) & (flags | own), parameter.opts


def test_the_list_of_commands_says_what_they_say() -> None:
    for name, command in cli.commands.items():
        assert command.name == name
        assert command.get_short_help_str(200) == COMMANDS[name].said


def loaded_by(*arguments: str) -> set[str]:
    """Return the modules that are there when the command line has ended."""
    code = (
        "import atexit, sys\n"
        "atexit.register(lambda: print(*sys.modules, file=sys.stderr))\n"
        "from falconas.cli import main\n"
        f"main({arguments!r})"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    assert found.stdout.startswith("Usage: falconas")
    return set(found.stderr.split())


HEAVY = {"zmq", "psycopg", "msgspec", "msgpack", "asyncio"}


def test_help_imports_nothing_of_the_commands() -> None:
    loaded = loaded_by("--help")
    assert not loaded & (HEAVY | {"dataclasses", "decimal", "ipaddress", "tomllib"})
    ours = {name for name in loaded if name.startswith("falconas.")}
    assert ours <= {"falconas.errors", "falconas.cli", "falconas.cli.lazy"}


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_of_a_command_imports_neither_zmq_nor_psycopg(name: str) -> None:
    assert not loaded_by(name, "--help") & (HEAVY - {"asyncio"})

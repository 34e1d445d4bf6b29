from __future__ import annotations

import sys

import click
import pytest
from click.testing import CliRunner

from falconas.cli.lazy import Entry, LazyGroup

ENTRIES = {
    "sings": Entry("falconas_test_birds", "Sing."),
    "flies": Entry("falconas_test_birds", "Fly."),
    "gone": Entry("falconas_test_nowhere", "Not there."),
}


@pytest.fixture
def group() -> LazyGroup:
    return LazyGroup(ENTRIES, name="bird", help="A bird.")


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command
    def sings() -> None:
        """Sing."""
        click.echo("la")

    module = type(sys)("falconas_test_birds")
    module.sings = sings  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)


def test_help_imports_no_command(group: LazyGroup) -> None:
    out = CliRunner().invoke(group, ["--help"]).output
    listed = [line.split(maxsplit=1) for line in out.splitlines()[-3:]]
    assert listed == [["flies", "Fly."], ["gone", "Not there."], ["sings", "Sing."]]
    assert not {entry.module for entry in ENTRIES.values()} & set(sys.modules)


def test_a_command_is_imported_when_it_is_used(group: LazyGroup, module: None) -> None:
    result = CliRunner().invoke(group, ["sings"])
    assert (result.output, result.exit_code) == ("la\n", 0)
    assert group.commands["sings"] is group.commands["sings"]
    assert len(group.commands) == len(list(group.commands)) == 3


def test_what_is_no_command_is_none(group: LazyGroup) -> None:
    assert group.commands.get("swims") is None
    assert "swims" in CliRunner().invoke(group, ["swims"]).output


def test_what_cannot_be_imported_says_so(group: LazyGroup) -> None:
    with pytest.raises(ModuleNotFoundError, match="falconas_test_nowhere"):
        group.commands["gone"]

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from falconas.cli.options import options
from falconas.config import Settings

GOT: list[Any] = []


@click.command
@click.option("--own", default=1)
@options("broker", "worker.count", "database.dsn", "log")
def command(settings: Settings, **own: Any) -> None:
    """Keep what arrives."""
    GOT[:] = [settings, own]


@pytest.fixture
def got() -> Callable[..., Settings]:
    def invoke(*arguments: str) -> Settings:
        result = CliRunner().invoke(command, arguments, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        settings: Settings = GOT[0]
        return settings

    return invoke


def test_the_settings_come_first_and_own_options_after(got: Any) -> None:
    assert got("--own", "3") == Settings()
    assert GOT[1] == {"own": 3}


def test_options_reach_their_sections(got: Any) -> None:
    settings = got("--budget", "2s", "-n", "4", "--insecure", "--dsn", "host=h")
    assert settings.broker.budget == 2.0
    assert settings.broker.insecure is True
    assert settings.worker.count == 4
    assert settings.database.dsn == "host=h"


def test_a_flag_can_be_taken_back(got: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FALCONAS_BROKER__INSECURE", "true")
    assert got().broker.insecure is True
    assert got("--no-insecure").broker.insecure is False


def test_the_file_is_the_told_one_or_the_one_at_hand(got: Any, tmp_path: Path) -> None:
    (tmp_path / "falconas.toml").write_text("[broker]\nbudget = 5\n")
    (tmp_path / "other.toml").write_text("[broker]\nbudget = 6\n")
    assert got().broker.budget == 5.0
    assert got("--config", "other.toml").broker.budget == 6.0
    assert got("--config", "other.toml", "--budget", "7s").broker.budget == 7.0


def test_the_log_is_set_up_and_warnings_go_there(tmp_path: Path) -> None:
    file = tmp_path / "falconas.toml"
    file.write_text("[log]\nformat = 'text'\n[database]\ndsn = 'password=x'\n")
    file.chmod(0o644)
    result = CliRunner().invoke(command, ["--log-level", "warning"])
    assert result.stdout == ""
    assert f"warning config: {file} holds a password" in result.stderr
    assert logging.getLogger().level == logging.WARNING


def test_help_shows_default_and_metavar() -> None:
    out = CliRunner().invoke(command, ["--help"], terminal_width=200).output
    assert "--budget DURATION" in out
    assert "[default: tcp://127.0.0.1:5570]" in out
    assert "--insecure / --no-insecure" in out
    assert "-n, --count N" in out
    assert "[default: 64MiB]" in out
    assert "--drain-timeout" in out
    assert "--node" not in out

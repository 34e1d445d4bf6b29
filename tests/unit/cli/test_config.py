from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from falconas import listing


def test_show_tells_value_and_origin(
    falconas: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FALCONAS_BROKER__BUDGET", "7s")
    monkeypatch.setenv("FALCONAS_DATABASE__DSN", "host=h password=hidden")
    result = falconas("config", "show")
    assert result.code == 0
    assert 'budget = "7s"' in result.out
    assert "# FALCONAS_BROKER__BUDGET" in result.out
    assert "hidden" not in result.out


def test_example_is_a_configuration(falconas: Any, tmp_path: Path) -> None:
    result = falconas("config", "example")
    assert result.out == listing.example()
    (tmp_path / "falconas.toml").write_text(result.out)
    (tmp_path / "workers").mkdir()
    assert falconas("config", "check") == (0, "the configuration is good\n", "")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[broker]\nfronted = 1\n", "did you mean broker.frontend?"),
        ("[broker]\nfrontend = 'tcp://*:1'\n", "--insecure"),
        ("[database]\ndsn = 'nonsense'\n", "the DSN is malformed"),
    ],
)
def test_check_finds_what_is_wrong(
    falconas: Any, tmp_path: Path, text: str, words: str
) -> None:
    (tmp_path / "workers").mkdir()
    (tmp_path / "my.toml").write_text(text)
    result = falconas("config", "check", "--config", "my.toml")
    assert result.code == 2
    assert result.out == ""
    (line,) = result.err.splitlines()
    assert words in line


@pytest.mark.parametrize("command", ["show", "check"])
def test_warnings_go_to_stderr(falconas: Any, tmp_path: Path, command: str) -> None:
    (tmp_path / "workers").mkdir()
    file = tmp_path / "falconas.toml"
    file.write_text("[database]\ndsn = 'password=hidden'\n")
    file.chmod(0o644)
    result = falconas("config", command)
    assert result.code == 0
    assert "chmod 640" in result.err


def test_a_host_without_scripts_is_told_so_and_is_good(falconas: Any) -> None:
    result = falconas("config", "check")
    assert (result.code, result.out) == (0, "the configuration is good\n")
    (line,) = result.err.splitlines()
    assert "does not exist" in line
    assert "a host that runs no workers needs none" in line


def test_check_names_all_that_is_wrong(falconas: Any, tmp_path: Path) -> None:
    text = "[broker]\nfrontend = 'tcp://*:1'\n[database]\ndsn = 'nonsense'\n"
    (tmp_path / "falconas.toml").write_text(text)
    result = falconas("config", "check")
    assert (result.code, result.out) == (2, "")
    broker, database, scripts = result.err.splitlines()
    assert "--insecure" in broker
    assert "the DSN is malformed" in database
    assert "does not exist" in scripts


def test_check_and_show_know_nodes_and_groups(falconas: Any, tmp_path: Path) -> None:
    file = tmp_path / "nodes.toml"
    file.write_text(
        "[nodes.n1]\ndsn = 'host=a password=hidden'\n[nodes.n2]\n"
        "[groups.all]\nnodes = ['n1']\n"
    )
    file.chmod(0o600)

    result = falconas("config", "check", "--config", str(file))
    assert result.code == 0
    assert "node n2 belongs to no group" in result.err

    result = falconas("config", "show", "--config", str(file))
    assert "[groups.all]\n" in result.out
    assert 'dsn = "host=a password=***"' in result.out

    assert result.err == ""  # what concerns workers only is for check
    file.write_text(
        "[database]\ndsn = 'dbname=d'\n[nodes.n1]\ndsn = 'host=a'\n"
        "[nodes.n2]\ndsn = 'host=a'\n"
    )
    result = falconas("config", "check", "--config", str(file))
    assert result.code == 0
    assert "nodes n1 and n2 are the same server, a" in result.err

    file.write_text("[nodes.n1]\ndsn = 'hidden'\n")
    result = falconas("config", "check", "--config", str(file))
    assert result.code == 2
    assert "nodes.n1.dsn: the DSN is malformed" in result.err
    assert "hidden" not in result.err

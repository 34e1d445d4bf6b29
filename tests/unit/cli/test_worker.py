from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from falconas.cli import main
from falconas.config import Settings


@pytest.fixture
def got(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    found: list[Settings] = []

    def main(settings: Settings) -> int:
        found.append(settings)
        return 0

    monkeypatch.setattr("falconas.worker.supervisor.main", main)
    return found


def test_the_settings_arrive(
    falconas: Any, got: list[Settings], tmp_path: Path
) -> None:
    (tmp_path / "s").mkdir()
    result = falconas("worker", "-n", "3", "--scripts", "s", "--dsn", "host=h")
    assert result.code == 0, result.err
    assert got[0].worker.count == 3
    assert got[0].database.dsn == "host=h"


def test_what_gets_no_work_is_warned_of(
    got: list[Settings], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "workers").mkdir()
    (tmp_path / "falconas.toml").write_text(
        "[nodes.n1]\n[nodes.n2]\n[groups.all]\nnodes = ['n1']\n"
    )
    with pytest.raises(SystemExit):
        main(["worker"])
    assert got
    assert "node n2 belongs to no group" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("command", "handler"), [("worker", "SIG_IGN"), ("broker", "SIG_DFL")]
)
def test_a_reload_before_the_supervisor_listens_ends_nothing(
    command: str, handler: str
) -> None:
    code = (
        "import signal; signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"  # not nohup's
        "import falconas.cli; print(signal.getsignal(signal.SIGHUP).name)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, command], capture_output=True, check=True
    )
    assert done.stdout.decode().strip() == handler


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--scripts", "nope"], "nope does not exist: make it, or name another"),
        (["--dsn", "nonsense"], "database.dsn: the DSN is malformed"),
        (["--dsn", "postgresql://u:hidden@h"], "--dsn must not hold a password"),
        (["--backend", "tcp://*:1"], "--backend must name the host to connect to"),
        (["-n", "many"], "--count must be a whole number"),
    ],
)
def test_bad_input_starts_nothing(
    falconas: Any, got: list[Settings], tmp_path: Path, arguments: list[str], words: str
) -> None:
    (tmp_path / "workers").mkdir()
    result = falconas("worker", *arguments)
    assert result.code == 2
    (line,) = result.err.splitlines()
    assert words in line
    assert "hidden" not in line
    assert got == []

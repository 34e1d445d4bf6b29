from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from falconas.cli import main
from falconas.cli.database import FOLDER, NODES_FOLDER
from falconas.client.operator import Operator
from falconas.client.sync import Client
from falconas.database.cluster import EmbeddedCluster

PATIENCE = 60.0


def test_a_database_that_does_not_answer_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "workers").mkdir()
    with pytest.raises(SystemExit) as caught:
        main(["dev", "--dsn", "host=127.0.0.1 port=1"])
    assert caught.value.code == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("falconas: cannot start: no connection to the database: ")
    assert not (tmp_path / ".falconas").exists()


READ = """
from falconas import script

@script(access="read")
def run(ctx):
    return ctx.node
"""
WRITE = """
def run(ctx):
    ctx.db.execute("create table kept (n int)")
    return ctx.node
"""


def test_several_nodes_serve_and_end_with_it(tmp_path: Path) -> None:
    (tmp_path / "workers").mkdir()
    (tmp_path / "workers" / "look.py").write_text(READ)
    (tmp_path / "workers" / "keep.py").write_text(WRITE)
    (tmp_path / "falconas.toml").write_text('[nodes.n2]\ntags = ["far"]\n')
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("FALCONAS", "PG"))}
    ends = ("frontend", "backend", "control")
    own = {f"FALCONAS_BROKER__{e.upper()}": f"ipc://{tmp_path}/{e}" for e in ends}
    with (tmp_path / "log").open("w") as log:
        dev = subprocess.Popen(
            [sys.executable, "-P", "-m", "falconas.cli", "dev", "--nodes=2", "-n2"],
            cwd=tmp_path,
            env=kept | own,
            stderr=log,
        )
    cluster = EmbeddedCluster(tmp_path / NODES_FOLDER, standbys=1)
    try:
        with Client(f"ipc://{tmp_path}/frontend", budget=PATIENCE) as client:
            client.scripts()  # waits for the broker
            operator = Operator(f"ipc://{tmp_path}/control", timeout=PATIENCE)
            while not all(node["ready"] for node in served(operator)):
                with suppress(subprocess.TimeoutExpired):
                    dev.wait(0.1)
                    pytest.fail((tmp_path / "log").read_text())
            assert client.call("keep") == "n1"
            assert {client.call("look") for _ in range(4)} == {"n1", "n2"}
        command = [sys.executable, "-P", "-m", "falconas.cli", "run", "look"]
        assert subprocess.check_output(command, cwd=tmp_path, env=kept) == b"n1\n"
        assert not (tmp_path / FOLDER).exists()
        roles = {node["name"]: node["role"] for node in operator.inspect()["nodes"]}
        assert roles == {"n1": "primary", "n2": "standby"}
        assert all(node.running for node in cluster.nodes)
        dev.send_signal(signal.SIGINT)
        assert dev.wait(PATIENCE) == 130
    finally:
        dev.kill()
        dev.wait()
    assert not any(node.server.postmaster() for node in cluster.nodes)
    cluster.delete()


def served(operator: Operator) -> list[dict[str, Any]]:
    """Return the nodes; one that has no facts if there are not both."""
    nodes: list[dict[str, Any]] = operator.inspect()["nodes"]
    return nodes if len(nodes) > 1 else [{"ready": 0}]


def test_nodes_of_our_own_need_their_programs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "workers").mkdir()
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
    with pytest.raises(SystemExit) as caught:
        main(["dev", "--nodes", "2", "--log-level", "error"])
    assert caught.value.code == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("falconas: cannot start: ")
    assert 'pip install "falconas[embedded]"' in line

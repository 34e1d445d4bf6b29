from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from falconas.cli.checks import check_database, check_scripts
from falconas.config import ConfigError, Database, Settings, Worker
from falconas.settings import Node


def test_the_scripts_folder_is_there(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    check_scripts(Settings(worker=Worker(scripts=str(tmp_path))))
    for path, words in [
        (file, "is not a folder"),
        (tmp_path / "no", "does not exist: make it, or name another by --scripts"),
    ]:
        with pytest.raises(ConfigError, match=words):
            check_scripts(Settings(worker=Worker(scripts=str(path))))


def test_the_scripts_folder_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(ConfigError, match=r"cannot be read: Permission denied$"):
        check_scripts(Settings(worker=Worker(scripts=str(tmp_path))))


def test_the_connection_string_is_one() -> None:
    check_database(Settings())
    good = replace(Settings(), database=Database(dsn="postgresql://u@h:5432/d"))
    check_database(good)
    bad = replace(Settings(), database=Database(dsn="host= 'hidden"))
    with pytest.raises(ConfigError, match=r"^database\.dsn: ") as caught:
        check_database(bad)
    assert "hidden" not in str(caught.value)


def test_each_node_has_a_connection_string() -> None:
    check_database(Settings(nodes={"n1": Node(dsn="host=a"), "n2": Node()}))
    bad = Settings(nodes={"n1": Node(dsn="hidden")})
    with pytest.raises(ConfigError, match=r"^nodes\.n1\.dsn: ") as caught:
        check_database(bad)
    assert "hidden" not in str(caught.value)


def test_nodes_are_not_too_many() -> None:
    many = ",".join(f"h{i}" for i in range(200))
    check_database(Settings(nodes={"n1": Node(dsn=f"host={many}")}))
    bad = Settings(nodes={name: Node(dsn=f"host={many}") for name in ("n1", "n2")})
    with pytest.raises(ConfigError, match=r"^there are 400 nodes; 256 are the most$"):
        check_database(bad)

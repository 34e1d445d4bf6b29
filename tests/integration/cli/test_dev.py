from __future__ import annotations

from pathlib import Path

import pytest

from falconas.cli import main


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

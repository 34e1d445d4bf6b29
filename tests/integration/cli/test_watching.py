"""Watching a real folder."""

from __future__ import annotations

import builtins
import logging
import queue
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from falconas.cli.watching import is_script, named, reloading

PATIENCE = 20.0


class Watched:
    """A watched folder, and what happened."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.reloads: queue.Queue[None] = queue.Queue()

    def write(self, name: str) -> None:
        """Write a file; a new one, as the watcher may not have begun yet."""
        (self.folder / name).write_text("x")

    def reload_after(self, prefix: str) -> None:
        """Write files until there is a reload."""
        for number in range(100):
            self.write(f"{prefix}{number}.py")
            try:
                self.reloads.get(timeout=PATIENCE / 100)
            except queue.Empty:
                continue
            return
        pytest.fail("no reload")


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    watched = Watched(tmp_path)
    with reloading(tmp_path, lambda: watched.reloads.put(None)):
        yield watched
    assert "falconas-watch" not in {thread.name for thread in threading.enumerate()}


def test_a_script_that_changes_is_reloaded(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    watched.reload_after("a")
    assert any(record.message.startswith("changed: a") for record in caplog.records)


def test_other_files_reload_nothing(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    watched.reload_after("a")
    for name in ("notes.txt", ".hidden.py", "b.py~"):
        watched.write(name)
    watched.reload_after("c")
    told = [record.message for record in caplog.records]
    assert told
    assert not any(word in line for line in told for word in ("notes", "hidden", "~"))


def test_what_counts_as_a_script(tmp_path: Path) -> None:
    wanted = ["a.py", "_helper.py", "reports/daily.py"]
    other = ["a.pyc", "a.py~", ".a.py", ".git/a.py", "4913", "reports"]
    assert all(is_script(str(tmp_path / name), tmp_path) for name in wanted)
    assert not any(is_script(str(tmp_path / name), tmp_path) for name in other)


def test_a_folder_below_a_hidden_one_is_watched_all_the_same(tmp_path: Path) -> None:
    folder = tmp_path / ".project" / "workers"
    assert is_script(str(folder / "a.py"), folder)


def test_a_few_of_many_files_are_named(tmp_path: Path) -> None:
    paths = {str(tmp_path / f"{name}.py") for name in "abcde"}
    assert named(paths, tmp_path) == "a.py, b.py, c.py and 2 more"
    assert named({str(tmp_path / "a.py")}, tmp_path) == "a.py"


def test_a_folder_that_cannot_be_watched_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError("no more watches")

    monkeypatch.setattr("watchfiles.watch", refuse)
    with reloading(tmp_path, lambda: pytest.fail("a reload")):
        pass  # its thread is awaited
    assert "changed scripts are no longer reloaded: no more watches" in caplog.text


def test_without_watchfiles_it_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    found = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "watchfiles":
            raise ImportError(name)
        return found(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    caplog.set_level(logging.INFO)
    with reloading(tmp_path, lambda: pytest.fail("a reload")):
        assert len(caplog.records) == 1
    assert "pip install 'falconas[dev]'" in caplog.text

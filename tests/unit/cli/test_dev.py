from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from falconas.cli.dev import _reloading, _until_end, _until_ready, _welcome
from falconas.config import Broker, Database, Settings
from falconas.database.embedded import EmbeddedError
from falconas.errors import Unavailable


class FakeChildren:
    """Broker and worker that end when the script says so."""

    def __init__(self, ends: list[str | None]) -> None:
        self.ends = ends

    def wait(self, _: float | None = None) -> str | None:
        return self.ends.pop(0)


class FakeOperator:
    answers: list[Any]

    def __init__(self, control: str, *, timeout: float) -> None:
        assert timeout > 0
        self.control = control

    def inspect(self) -> Any:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return {"workers": [{"state": state} for state in answer]}


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    FakeOperator.answers = []
    monkeypatch.setattr("falconas.client.operator.Operator", FakeOperator)
    return FakeOperator.answers


def test_ready_is_the_first_worker_that_serves(answers: list[Any]) -> None:
    answers += [Unavailable("no broker yet"), [], ["unready"], ["unready", "idle"]]
    children: Any = FakeChildren([None] * 4)
    assert _until_ready(children, Settings()) is None
    assert answers == []


def test_a_command_that_ends_before_is_named(answers: list[Any]) -> None:
    answers += [[]]
    children: Any = FakeChildren([None, "broker"])
    assert _until_ready(children, Settings()) == "broker"


def test_the_welcome_says_what_to_do_next() -> None:
    own = replace(Settings(), database=Database(dsn="host=/tmp/x port=1"))
    text = _welcome(own, "echo value=text", given=False)
    assert "falconas call echo value=text\n" in text
    assert "tcp://127.0.0.1:5570" in text
    assert "--frontend" not in text
    assert "our own in .falconas/dev (psql 'host=/tmp/x port=1')\n" in text
    broker = Broker(frontend="tcp://*:7000")
    theirs = Database(dsn="host=h password=hidden")
    settings = replace(Settings(), broker=broker, database=theirs)
    text = _welcome(settings, "echo", given=True)
    assert "falconas call --frontend tcp://127.0.0.1:7000 echo\n" in text
    assert "the given one (host=h password=***)" in text
    assert "PG… variables" in _welcome(Settings(), "echo", given=True)


def test_a_changed_script_is_told_to_the_workers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[tuple[str, signal.Signals]] = []
    watched: list[Path] = []

    @contextmanager
    def reloading(folder: Path, reload: Callable[[], None]) -> Iterator[None]:
        watched.append(folder)
        reload()
        yield

    monkeypatch.setattr(sys.modules["falconas.cli.dev"], "reloading", reloading)
    children: Any = FakeChildren(["worker"])
    children.signal = lambda *order: told.append(order)

    assert _reloading(children, Settings(), given=True) == "worker"
    assert (watched, told) == ([Path("workers")], [("worker", signal.SIGHUP)])


def test_a_database_of_our_own_that_dies_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    states = [True, False]

    class FakePostgres:
        def __init__(self, folder: Path) -> None:
            assert folder == Path(".falconas/dev")

        def dsn(self) -> str:
            if states.pop(0):
                return ""
            raise EmbeddedError("none is running")

    monkeypatch.setattr("falconas.database.embedded.EmbeddedPostgres", FakePostgres)
    children: Any = FakeChildren([None, None])
    assert _until_end(children) == "PostgreSQL"
    assert states == []
    children = FakeChildren(["worker"])
    assert _until_end(children) == "worker"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--scripts", "nope"], "does not exist"),
        (["--dsn", "nonsense"], "the DSN is malformed"),
        (["--frontend", "tcp://*:1"], "--insecure"),
        (["-n", "x"], "--count must be"),
    ],
)
def test_bad_input_starts_nothing(
    falconas: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    words: str,
) -> None:
    def started(*_: Any) -> Any:
        pytest.fail("it went on")

    # By its module: the package's attribute `dev` is the command.
    monkeypatch.setattr(sys.modules["falconas.cli.dev"], "database", started)
    (tmp_path / "workers").mkdir()
    result = falconas("dev", *arguments)
    assert result.code == 2
    (line,) = result.err.splitlines()
    assert words in line
    assert not (tmp_path / ".falconas").exists()

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from falconas.cli.database import Place
from falconas.cli.dev import _reloading, _until_end, _until_ready, _welcome
from falconas.config import Broker, Settings, StartError, Worker
from falconas.errors import Unavailable
from falconas.settings import Node


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


def place(settings: Settings, where: str = "here", *ups: bool) -> Place:
    left = list(ups)
    return Place(settings, where, lambda: left.pop(0) if left else True)


def test_the_welcome_says_what_to_do_next() -> None:
    text = _welcome(place(Settings(), "our own (psql x)"), "echo value=text")
    assert "falconas call echo value=text\n" in text
    assert "tcp://127.0.0.1:5570" in text
    assert "--frontend" not in text
    assert "database: our own (psql x)\n" in text
    assert "falconas nodes" not in text
    broker = Broker(frontend="tcp://*:7000")
    settings = replace(Settings(), broker=broker, nodes={"n1": Node()})
    text = _welcome(place(settings), "echo")
    assert "falconas call --frontend tcp://127.0.0.1:7000 echo\n" in text
    assert "    falconas nodes\n" in text
    settings = replace(settings, worker=Worker(control="ipc://c"))
    assert "    falconas nodes --control ipc://c\n" in _welcome(place(settings), "x")


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

    assert _reloading(children, place(Settings())) == "worker"
    assert (watched, told) == ([Path("workers")], [("worker", signal.SIGHUP)])


def test_a_database_of_our_own_that_dies_is_noticed() -> None:
    children: Any = FakeChildren([None, None])
    ours = place(Settings(), "here", True, True, False)
    assert _until_end(children, ours) == "PostgreSQL"
    children = FakeChildren(["worker"])
    assert _until_end(children, place(Settings())) == "worker"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--scripts", "nope"], "does not exist"),
        (["--dsn", "nonsense"], "the DSN is malformed"),
        (["--frontend", "tcp://*:1"], "--insecure"),
        (["-n", "x"], "--count must be"),
        (["--nodes", "0"], "--nodes"),
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


@pytest.mark.parametrize(
    ("arguments", "count"),
    [(["--nodes=3"], 3), (["--nodes=1"], 2), (["--nodes=3", "-n1"], 1), ([], 0)],
)
def test_each_node_has_a_worker_unless_told_otherwise(
    falconas: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    count: int,
) -> None:
    def started(settings: Settings, *_: Any, **__: Any) -> Any:
        raise StartError(f"{settings.worker.count} workers")

    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.setattr(sys.modules["falconas.cli.dev"], "database", started)
    (tmp_path / "workers").mkdir()
    assert f"cannot start: {count} workers" in falconas("dev", *arguments).err

from __future__ import annotations

import os
import select
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest

from falconas.config import Database, Settings, Worker
from falconas.worker import capture, probing
from falconas.worker.children import Child, ZygoteChild, find_dead
from falconas.worker.slot import SlotTable
from falconas.worker.zygote import Boot, Manifest

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE = 20.0
Babbler = Child[probing.Message]


@pytest.fixture
def zygote(tmp_path: Path) -> Iterator[ZygoteChild]:
    (tmp_path / "echo.py").write_text("def run(ctx): ...\n")
    slots, outputs = SlotTable.create(1), capture.make(1)
    settings = Settings(worker=Worker(scripts=str(tmp_path)), database=Database())
    boot = Boot(settings, b"s" * 16, os.getpid(), 1, outputs)
    child = ZygoteChild(3, boot, slots.fd)
    yield child
    child.close()
    slots.close()
    os.close(outputs[0])


def listen(zygote: ZygoteChild) -> bool:
    ready, _, _ = select.select([zygote], [], [], PATIENCE)
    return bool(ready)


def test_it_keeps_what_its_zygote_has_loaded(zygote: ZygoteChild) -> None:
    assert zygote.hear() == ([], True)
    assert listen(zygote)
    ((message,), more) = zygote.hear()
    assert more
    assert isinstance(message, Manifest)
    assert zygote.hash == message.hash
    assert list(zygote.manifest["scripts"]) == ["echo"]


def test_a_killed_zygote_remembers_the_first_reason(zygote: ZygoteChild) -> None:
    listen(zygote)
    zygote.hear()
    zygote.kill("too slow")
    zygote.kill("again")
    assert listen(zygote)
    assert zygote.hear() == ([], False)
    os.waitid(os.P_PID, zygote.pid, os.WEXITED | os.WNOWAIT)
    assert find_dead() == zygote.pid
    _, status = os.waitpid(zygote.pid, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code == -signal.SIGKILL
    assert zygote.reaped(code) == []
    assert zygote.failure == "too slow"


BABBLER = """
import os, socket, sys
end = socket.socket(fileno=int(sys.argv[1]))
end.recv(1 << 16)
for data in (b"nonsense", b"x" * 100_000):
    end.send(data)
"""


@pytest.fixture
def babbler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Babbler]:
    """A child that says what is no message, and ends."""
    (tmp_path / "babbler.py").write_text(BABBLER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    child = Babbler("babbler", probing.Message, probing.Ask([]))
    yield child
    child.close()


def test_who_says_what_is_no_message_is_killed_and_can_still_be_reaped(
    babbler: Babbler,
) -> None:
    os.waitid(os.P_PID, babbler.pid, os.WEXITED | os.WNOWAIT)
    assert babbler.hear() == ([], True)
    assert babbler.failure.startswith("it said what is no message: ")
    assert babbler.hear() == ([], True)
    assert babbler.hear() == ([], False)
    babbler.kill("again")
    assert find_dead() == babbler.pid
    _, status = os.waitpid(babbler.pid, 0)
    assert babbler.reaped(os.waitstatus_to_exitcode(status)) == []
    babbler.kill("after its end, when its id may be somebody else's")


def test_one_that_floods_holds_up_nobody_for_long(babbler: Babbler) -> None:
    messages = iter([probing.Ask([])] * 10_000)
    babbler._channel.receive = messages.__next__  # type: ignore[method-assign]
    heard, more = babbler.hear()
    assert 0 < len(heard) < 10_000
    assert more


def open_files() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


def test_where_no_process_is_to_be_had_no_file_is_left_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    before = open_files()
    with pytest.raises(OSError, match="temporarily unavailable"):
        Babbler("babbler", probing.Message, probing.Ask([]))
    assert open_files() == before

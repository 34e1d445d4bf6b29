from __future__ import annotations

import os
import select
import signal
from typing import TYPE_CHECKING

import pytest

from falconas.config import Database, Settings, Worker
from falconas.worker import capture
from falconas.worker.children import ZygoteChild, find_dead
from falconas.worker.slot import SlotTable
from falconas.worker.zygote import Boot, Manifest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PATIENCE = 20.0


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

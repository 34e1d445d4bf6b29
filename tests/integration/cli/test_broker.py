from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from falconas.client.operator import Operator

PATIENCE = 20.0


@pytest.fixture
def full_pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    try:
        while True:
            os.write(writer, b"." * 4096)
    except BlockingIOError:
        os.set_blocking(writer, True)  # as whoever writes to it finds it
    yield reader, writer
    os.close(reader)
    os.close(writer)


def read(fd: int) -> bytes:
    """Read until the next line of the log that gets through."""
    found = b""
    while not found.endswith(b"}\n"):
        found += os.read(fd, 1 << 16)
    return found


def test_a_log_that_nobody_reads_does_not_stop_the_broker(
    tmp_path: Path, full_pipe: tuple[int, int]
) -> None:
    reader, writer = full_pipe
    kept = {k: v for k, v in os.environ.items() if not k.startswith("FALCONAS")}
    ends = ("frontend", "backend", "control")
    own = {f"FALCONAS_BROKER__{e.upper()}": f"ipc://{tmp_path}/{e}" for e in ends}
    broker = subprocess.Popen(
        [sys.executable, "-P", "-m", "falconas.cli", "broker"],
        env=kept | own,
        stderr=writer,
    )
    try:
        operator = Operator(f"ipc://{tmp_path}/control", timeout=PATIENCE)
        assert operator.inspect()["workers"] == []
        os.read(reader, 1 << 20)
        broker.terminate()
        first, *_ = read(reader).splitlines()
        assert broker.wait(PATIENCE) == 0
    finally:
        broker.kill()
        broker.wait()
    event = json.loads(first.lstrip(b"."))["event"]
    assert event.startswith("lines of the log that could not be written: ")

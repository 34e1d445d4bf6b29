from __future__ import annotations

import logging
import os
import select
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from falconas import logs
from falconas.stderr import Stderr

if TYPE_CHECKING:
    from collections.abc import Iterator

LINE = "x" * 999 + "\n"


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    pair = os.pipe()
    yield pair
    for fd in pair:
        os.close(fd)


@pytest.fixture
def stderr(pipe: tuple[int, int]) -> Iterator[Stderr]:
    stream = Stderr(pipe[1], patience=0)
    yield stream
    stream.close()
    stream.close()


def drain(fd: int) -> bytes:
    found = b""
    while select.select([fd], [], [], 0)[0]:
        found += os.read(fd, 1 << 16)
    return found


def fill(stream: Stderr) -> int:
    written = 0
    while True:
        try:
            stream.write(LINE)
        except BlockingIOError:
            return written
        written += 1


def test_it_writes_at_once_and_all(pipe: tuple[int, int], stderr: Stderr) -> None:
    assert stderr.write("a \N{SNOWMAN} \udcff\n") == 6
    assert drain(pipe[0]) == "a \N{SNOWMAN} \\udcff\n".encode()
    assert not stderr.isatty()


def test_it_stays_when_the_descriptor_becomes_another(pipe: tuple[int, int]) -> None:
    writer = os.dup(pipe[1])
    stream = Stderr(writer)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, writer)
    stream.write("here\n")
    assert drain(pipe[0]) == b"here\n"
    assert not os.get_inheritable(stream.fileno())
    stream.close()
    os.close(null)
    os.close(writer)


def test_a_reader_that_does_not_read_is_not_waited_for(
    pipe: tuple[int, int], stderr: Stderr
) -> None:
    assert fill(stderr) > 8
    with pytest.raises(BlockingIOError):
        stderr.write("lost\n")
    text = drain(pipe[0])
    stderr.write("next\n")

    rest = text + drain(pipe[0])
    assert rest.endswith(b"\nnext\n")
    assert b"lost" not in rest
    assert not os.get_blocking(stderr.fileno())  # others may be faster than we
    assert os.get_blocking(pipe[1])  # that of the others


def test_a_text_longer_than_the_pipe_is_cut_and_ended(
    pipe: tuple[int, int], stderr: Stderr
) -> None:
    with pytest.raises(BlockingIOError):
        stderr.write("x" * 500_000)
    drain(pipe[0])
    stderr.write("next\n")
    assert drain(pipe[0]) == b"\nnext\n"


def test_a_file_is_shared_with_those_who_write_to_it_too(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb", buffering=0) as file:
        stream = Stderr(file.fileno())
        stream.write("one\n")
        file.write(b"two\n")
        stream.write("three\n")
        stream.close()
    assert (tmp_path / "log").read_text() == "one\ntwo\nthree\n"


def test_a_socket_is_not_waited_for_either() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        stream = Stderr(ours.fileno(), patience=0)
        stream.write("one\n")
        assert theirs.recv(99) == b"one\n"
        assert fill(stream) > 8
        assert ours.getblocking()
        stream.close()


def test_lines_that_are_lost_are_counted_and_the_log_says_so(
    pipe: tuple[int, int], stderr: Stderr
) -> None:
    logs.setup("info", "text", stderr)
    log = logging.getLogger("falconas.test")
    (handler,) = logging.getLogger().handlers
    assert isinstance(handler, logs.Handler)
    while not handler.dropped:
        log.info(LINE)
    log.info("lost")
    lost = handler.dropped
    drain(pipe[0])

    log.info("seen")

    said = drain(pipe[0]).decode()
    assert lost == 2
    assert f"lines of the log that could not be written: {lost}" in said
    assert said.endswith("test: seen\n")
    assert handler.dropped == 0

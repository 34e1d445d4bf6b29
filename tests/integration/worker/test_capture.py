from __future__ import annotations

import fcntl
import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from falconas.worker import capture
from falconas.worker.capture import OUTPUT_BYTES, Output
from tests.child import in_child


@pytest.fixture
def fd() -> Any:
    (fd,) = capture.make(1)
    yield fd
    os.close(fd)


def size(fd: int) -> int:
    return os.fstat(fd).st_size


def test_the_files_are_not_for_other_programs() -> None:
    fds = capture.make(2)

    assert not any(os.get_inheritable(fd) for fd in fds)
    assert len({os.fstat(fd).st_ino for fd in fds}) == 2
    for fd in fds:
        os.close(fd)


def test_what_is_written_after_a_cut_goes_to_the_end(fd: int) -> None:
    os.write(fd, b"x" * 100)
    os.ftruncate(fd, 0)
    os.write(fd, b"y")

    assert capture.rest(fd) == "y"


def test_trim_keeps_what_the_worker_would_read(fd: int) -> None:
    os.write(fd, b"x" * 300_000)

    assert capture.trim(fd, 300_000) == 0
    assert capture.trim(fd, 299_999) == 300_000 - OUTPUT_BYTES
    assert size(fd) == OUTPUT_BYTES


def test_rest_is_the_end_of_it_and_empties_the_file(fd: int) -> None:
    assert capture.rest(fd) == ""
    os.write(fd, b"Fatal \xff error\n")
    assert capture.rest(fd) == "Fatal \\xff error\n"
    os.write(fd, b"x" * OUTPUT_BYTES + b"end")
    assert capture.rest(fd) == f"(3 bytes left out) {'x' * (OUTPUT_BYTES - 3)}end"
    assert size(fd) == 0


def test_all_that_is_printed_is_taken_once(fd: int) -> None:
    def work() -> list[Any]:
        output = Output.install(fd)
        print("one")
        print("two \N{SNOWMAN} \udcff", file=sys.stderr, end="")
        os.write(1, b"three")
        subprocess.run(["echo", "four"], check=True)
        return [output.take(), output.take()]

    text = "one\nthreefour\ntwo \N{SNOWMAN} \\udcff"
    assert in_child(work) == [[text, 0], ["", 0]]


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_line_that_has_not_ended_is_taken(fd: int, name: str) -> None:
    def work() -> list[Any]:
        output = Output.install(fd)
        output.take()
        print("x", end="", file=getattr(sys, name))
        return [output.take(), output.take()]

    assert in_child(work) == [["x", 0], ["", 0]]


def test_more_than_fits_is_counted(fd: int) -> None:
    def work() -> list[Any]:
        output = Output.install(fd)
        print("x" * (OUTPUT_BYTES + 9), end="")
        text, left_out = output.take()
        return [len(text), left_out, output.take()]

    assert in_child(work) == [OUTPUT_BYTES, 9, ["", 0]]


def replace() -> None:
    sys.stdout = io.StringIO()
    sys.stderr = None


def close_streams() -> None:
    sys.stdout.close()
    sys.stderr.close()


def detach() -> None:
    sys.stdout.detach()  # type: ignore[union-attr]


def close_files() -> None:
    os.close(1)
    os.close(2)


def put_others_there() -> None:
    os.close(1)
    os.open(os.devnull, os.O_WRONLY)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)


def replace_stdout() -> None:
    sys.stdout = io.StringIO()


def replace_stderr() -> None:
    sys.stderr = io.StringIO()


def put_a_forgery_at(number: int) -> None:
    """Another empty file, at the same position."""
    where = os.lseek(number, 0, os.SEEK_CUR)
    forged = os.memfd_create("forged")
    os.lseek(forged, where, os.SEEK_SET)
    os.dup2(forged, number)


def put_a_forgery_at_1() -> None:
    put_a_forgery_at(1)


def put_a_forgery_at_2() -> None:
    put_a_forgery_at(2)


def reopen_it() -> None:
    """The same file, opened once more, does not append."""
    other = os.open("/proc/self/fd/1", os.O_RDWR)
    os.lseek(other, os.lseek(1, 0, os.SEEK_CUR), os.SEEK_SET)
    os.dup2(other, 1)


def exchange_them() -> None:
    sys.stdout, sys.stderr = sys.stderr, sys.stdout


def reconfigure() -> None:
    sys.stdout.reconfigure(  # type: ignore[union-attr]
        encoding="ascii", errors="strict", line_buffering=False
    )


@pytest.mark.parametrize("silent", [False, True])
@pytest.mark.parametrize(
    "meddle",
    [
        replace,
        close_streams,
        detach,
        close_files,
        put_others_there,
        replace_stdout,
        replace_stderr,
        put_a_forgery_at_1,
        put_a_forgery_at_2,
        reopen_it,
        exchange_them,
        reconfigure,
    ],
)
def test_what_a_script_does_to_them_ends_with_the_request(
    fd: int, meddle: Callable[[], None], silent: bool
) -> None:
    def work() -> list[Any]:
        output = Output.install(fd)
        before = sum(1 for _ in Path("/proc/self/fd").iterdir())
        output.take()
        meddle()
        if not silent:
            with suppress(Exception):
                print("lost or not")
        output.take()
        print("\N{SNOWMAN}")
        sys.stderr.write("b\n")
        subprocess.run("echo c; echo d >&2", shell=True, check=True)
        more = sum(1 for _ in Path("/proc/self/fd").iterdir()) - before
        return [*output.take(), more]

    text, left_out, more = in_child(work)

    assert text == "\N{SNOWMAN}\nb\nc\nd\n"
    assert left_out == 0
    assert more <= 1  # what the script opened itself


def test_who_no_longer_appends_loses_one_text_at_most(fd: int) -> None:
    def work() -> list[Any]:
        output = Output.install(fd)
        output.take()
        fcntl.fcntl(1, fcntl.F_SETFL, 0)
        print("lost or not")
        output.take()
        print("one")
        taken = output.take()
        print("two")
        return [taken, output.take()]

    assert in_child(work) == [["one\n", 0], ["two\n", 0]]


def test_nothing_printed_means_nothing_is_done_to_it(fd: int) -> None:
    def work() -> list[Any]:
        output = Output.install(fd)
        output._repair = None  # type: ignore[method-assign,assignment]
        return [output.take(), output.take()]

    assert in_child(work) == [["", 0], ["", 0]]


def test_a_script_that_closes_the_file_itself_hurts_nobody(fd: int) -> None:
    def work() -> Any:
        output = Output.install(fd)
        os.closerange(fd, fd + 1)
        os.close(1)
        return output.take()

    assert in_child(work) == ["", 0]


def test_dying_words_are_there_for_the_supervisor(fd: int) -> None:
    pid = os.fork()
    if not pid:
        Output.install(fd)
        print("partly", end="")
        sys.stdout.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)

    assert capture.rest(fd) == "partly"

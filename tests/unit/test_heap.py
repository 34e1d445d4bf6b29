"""A process that keeps freed memory is not given the same pages over and over."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from falconas import heap

LOOP = """
import resource
from falconas import heap
{call}
size = 1 << 20
blocks = [bytes(size) for _ in range(3)]
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for number in range(100):
    blocks = [bytes(blocks[0]), bytearray(size), b"x" * size]
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
PAGES = 100 * 3 * (1 << 20) // os.sysconf("SC_PAGE_SIZE")  # if each is new


def faults(call: str, **environment: str) -> int:
    """Return how many pages the kernel had to give."""
    result = subprocess.run(
        [sys.executable, "-c", LOOP.format(call=call)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return int(result.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's heap")
def test_freed_memory_is_used_again() -> None:
    assert faults("heap.keep_freed()") < PAGES / 20


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's heap")
def test_what_the_environment_says_stands() -> None:
    said = {"MALLOC_MMAP_THRESHOLD_": "100000"}
    assert faults("heap.keep_freed()", **said) > PAGES / 2


def test_a_library_without_it_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda _: object())
    heap.keep_freed()

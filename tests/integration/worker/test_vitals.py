from __future__ import annotations

import _thread
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from falconas.worker.vitals import Vitals
from tests.child import in_child


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_memory_is_what_is_resident() -> None:
    def work() -> list[int]:
        vitals = Vitals()
        before, _ = vitals.measure()
        block = b"x" * (64 << 20)
        after, _ = vitals.measure()
        return [before, after - before, len(block)]

    before, more, size = in_child(work)

    assert before > 1 << 20
    assert size <= more < 2 * size


def test_threads_and_descriptors_are_counted_from_the_base() -> None:
    def work() -> list[Any]:
        kept = os.open("/", os.O_RDONLY)
        vitals = Vitals()
        quiet = [vitals.threads(), vitals.measure()[1]]
        done = threading.Event()
        threads = [threading.Thread(target=done.wait) for _ in range(2)]
        for thread in threads:
            thread.start()
        fds = [os.open("/", os.O_RDONLY) for _ in range(7)]
        busy = [vitals.threads(), vitals.measure()[1]]
        done.set()
        for thread in threads:
            thread.join()
        for fd in (*fds, kept):
            os.close(fd)
        return [quiet, busy, vitals.measure()[1]]

    assert in_child(work) == [[0, 0], [2, 7], 0]


def test_a_kernel_that_does_not_say_how_many_is_asked_for_the_list() -> None:
    def work() -> list[int]:
        vitals = Vitals()
        counted = vitals._count_fds()
        vitals._sized = False
        listed = vitals._count_fds()
        return [counted, listed - open_files(), listed]

    counted, difference, listed = in_child(work)

    assert difference == 0
    assert listed - counted in {0, 1}  # the list's own


def test_whoever_takes_its_descriptor_away_hides_no_thread() -> None:
    """Closed, or with another folder, of no threads, in its place."""

    def work() -> list[int]:
        vitals = Vitals()
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        found = [vitals.threads()]
        os.close(vitals._tasks)
        found.append(vitals.threads())
        os.dup2(os.open("/", os.O_RDONLY), vitals._tasks)
        return [*found, vitals.threads()]

    assert in_child(work) == [1, 1, 1]


def test_a_thread_that_has_not_begun_is_counted() -> None:
    def work() -> list[int]:
        vitals, before = Vitals(), _thread._count()
        sys.setswitchinterval(100)  # it gets no turn before it is counted
        _thread.start_new_thread(threading.Event().wait, ())
        return [_thread._count() - before, vitals.threads()]

    assert in_child(work) == [0, 1]


def test_a_c_library_of_another_kind_counts_as_well() -> None:
    def work() -> list[int]:
        vitals = Vitals()
        vitals._stat = lambda *_: -1
        quiet = vitals.threads()
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        return [quiet, vitals.threads()]

    assert in_child(work) == [0, 1]


def test_the_base_is_this_process_and_not_the_one_before() -> None:
    def work() -> int:
        Path("/").stat()
        return Vitals().threads()

    idle = threading.Event()
    thread = threading.Thread(target=idle.wait)
    thread.start()
    try:
        assert in_child(work) == 0
    finally:
        idle.set()
        thread.join()


def test_children_that_have_ended_are_reaped_and_others_are_told_of() -> None:
    def work() -> list[Any]:
        vitals = Vitals()
        found = [vitals.has_children()]
        quick = subprocess.Popen([sys.executable, "-c", ""], stdin=subprocess.PIPE)
        os.waitid(os.P_PID, quick.pid, os.WEXITED | os.WNOWAIT)
        found.append(vitals.has_children())
        slow = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
        found.append(vitals.has_children())
        slow.communicate()
        found.append(vitals.has_children())
        return [*found, quick.wait()]

    assert in_child(work) == [False, False, True, False, 0]


def test_it_closes_what_it_opened() -> None:
    def work() -> bool:
        before = open_files()
        Vitals().close()
        return open_files() == before

    assert in_child(work)

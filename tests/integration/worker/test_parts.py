"""In processes of their own: what these tests do would meet all the others."""

from __future__ import annotations

import ctypes
import decimal
import faulthandler
import gc
import io
import locale
import logging
import logging.config
import os
import random
import resource
import select
import signal
import socket
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from falconas.worker.channel import bind_life_to
from falconas.worker.parts import _SIGNALS, Randomness, parts
from falconas.worker.process import ProcessState
from tests.child import in_child


def go_where_nothing_is() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)


def set_alarm() -> None:
    signal.signal(signal.SIGALRM, signal.SIG_IGN)


def move_time_zone() -> None:
    os.environ["TZ"] = "Asia/Tokyo"
    time.tzset()


def change_environment() -> None:
    os.environ["FALCONAS_TEST"] = "left"
    os.environ["PATH"] = "/nowhere"
    del os.environ["HOME"]


def round_differently() -> None:
    decimal.getcontext().prec = 3
    decimal.getcontext().traps[decimal.Inexact] = True


def spoil_default_context() -> None:
    decimal.DefaultContext.prec = 3
    decimal.DefaultContext.traps[decimal.Inexact] = True


def change_context(name: str, value: object) -> Callable[[], None]:
    """In place, and as a context of a kind of its own."""

    def change() -> None:
        setattr(decimal.getcontext(), name, value)
        setattr(decimal.DefaultContext, name, value)

    return change


def put_another_context() -> None:
    class Own(decimal.Context):
        pass

    decimal.setcontext(Own(prec=3))


def swap_two_variables() -> None:
    """As many of the same size, and all values as before."""
    os.environ["HOME"], os.environ["PATH"] = os.environ["PATH"], os.environ["HOME"]


def rename_a_variable() -> None:
    data = os.environ._data  # type: ignore[attr-defined]
    data[b"PATX"] = data.pop(b"PATH")


def limit(kind: int) -> Callable[[], None]:
    def change() -> None:
        _, hard = resource.getrlimit(kind)
        resource.setrlimit(kind, (64, hard))

    return change


def replace_hooks() -> None:
    sys.excepthook = sys.unraisablehook = print
    sys.stdin = io.StringIO()


def replace_thread_hook() -> None:
    threading.excepthook = print


def replace_handlers() -> None:
    logging.getLogger().handlers.clear()
    logging.getLogger("falconas").addFilter(lambda _: False)


def configure_logging() -> None:
    logging.config.dictConfig({"version": 1})


def replace_factory() -> None:
    logging.setLogRecordFactory(lambda *_: None)  # type: ignore[arg-type]


def wake_nobody() -> None:
    signal.set_wakeup_fd(-1)


def trace() -> None:
    sys.settrace(lambda *_: None)
    sys.setprofile(lambda *_: None)


def keep_timer() -> None:
    signal.setitimer(signal.ITIMER_VIRTUAL, 100, 100)


def compare_badly() -> None:
    class Odd:
        def __eq__(self, other: object) -> bool:
            raise RuntimeError

        __hash__ = None  # type: ignore[assignment]

    sys.path.insert(0, Odd())  # type: ignore[arg-type]


CHANGES: dict[str, tuple[str, Callable[[], object]]] = {
    "chdir": ("working folder", lambda: os.chdir("/")),
    "a folder that is gone": ("working folder", go_where_nothing_is),
    "umask": ("umask", lambda: os.umask(0o777)),
    "RLIMIT_FSIZE": ("resource limits", limit(resource.RLIMIT_FSIZE)),
    "RLIMIT_NOFILE": ("resource limits", limit(resource.RLIMIT_NOFILE)),
    "SIGALRM": ("signal handlers", set_alarm),
    "SIGTERM": (
        "signal handlers",
        lambda: signal.signal(signal.SIGTERM, lambda *_: None),
    ),
    "blocked": (
        "blocked signals",
        lambda: signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM}),
    ),
    "wakeup": ("wakeup descriptor", wake_nobody),
    "timer": ("timers", keep_timer),
    "faulthandler": ("faulthandler", faulthandler.disable),
    "environment": ("environment", change_environment),
    "time zone": ("environment", move_time_zone),
    "sys.path": ("sys.path", lambda: sys.path.insert(0, "/nowhere")),
    "meta_path": ("sys.meta_path", sys.meta_path.clear),
    "hooks": ("hooks of sys", replace_hooks),
    "hook of threads": ("threading.excepthook", replace_thread_hook),
    "trace": ("trace function", trace),
    "recursion": ("recursion limit", lambda: sys.setrecursionlimit(10**6)),
    "switching": ("switch interval", lambda: sys.setswitchinterval(1)),
    "digits": ("digits of integers", lambda: sys.set_int_max_str_digits(0)),
    "gc": ("garbage collector", gc.disable),
    "gc's callbacks": ("gc.callbacks", lambda: gc.callbacks.append(print)),
    "dlopen": ("flags of dlopen", lambda: sys.setdlopenflags(os.RTLD_LAZY)),
    "gc's thresholds": ("garbage collector", lambda: gc.set_threshold(1)),
    "decimal": ("decimal context", round_differently),
    "another decimal": ("decimal context", put_another_context),
    "exponents": ("decimal context", change_context("Emax", 9)),
    "exponents below": ("decimal.DefaultContext", change_context("Emin", -9)),
    "rounding": ("decimal.DefaultContext", change_context("rounding", "ROUND_UP")),
    "capitals": ("decimal context", change_context("capitals", 0)),
    "clamp": ("decimal.DefaultContext", change_context("clamp", 1)),
    "swapped": ("environment", swap_two_variables),
    "renamed": ("environment", rename_a_variable),
    "decimal's default": ("decimal.DefaultContext", spoil_default_context),
    "locale": ("locale", lambda: locale.setlocale(locale.LC_ALL, "C.UTF-8")),
    "socket": ("socket time-out", lambda: socket.setdefaulttimeout(0.001)),
    "log level": ("log levels", lambda: logging.getLogger().setLevel(99)),
    "log handlers": ("log handlers", replace_handlers),
    "logging.disable": ("logging.disable", logging.disable),
    "logging.config": ("loggers", configure_logging),
    "log records": ("log records", replace_factory),
    "warnings": ("warnings.filters", lambda: warnings.simplefilter("ignore")),
    "odd objects": ("sys.path", compare_badly),
}


def prepare() -> None:
    """Make it differ from what some of the changes set."""
    faulthandler.enable(2)
    locale.setlocale(locale.LC_ALL, "C")
    os.environ.update(HOME="/", PATH="/bin:/usr/bin")
    _, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    sys.settrace(None)
    sys.setprofile(None)
    logging.getLogger("falconas").filters.clear()
    logging.getLogger().handlers[:] = [logging.NullHandler()]


@pytest.mark.parametrize("name", CHANGES)
def test_what_a_script_changes_is_put_back(name: str) -> None:
    part, change = CHANGES[name]

    def work() -> list[Any]:
        prepare()
        lines = io.StringIO()
        logging.getLogger().handlers.append(logging.StreamHandler(lines))
        state = ProcessState()
        assert state.restore("good")  # what is remembered is
        change()
        restored = state.restore("hostile")
        said = lines.getvalue()
        same = state._look() == state._then and state.restore("good")
        return [restored, same and lines.getvalue() == said, said]

    restored, same, said = in_child(work)

    assert restored
    assert same
    assert "hostile" in said
    assert "good" not in said
    assert part in said


def test_the_kernel_agrees() -> None:
    def work() -> list[Any]:
        prepare()
        handled: list[int] = []
        signal.signal(signal.SIGUSR1, lambda number, _: handled.append(number))
        folder = str(Path.cwd())
        state = ProcessState()
        os.chdir("/")
        os.environ["FALCONAS_TEST"] = "left"
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
        assert state.restore()
        signal.raise_signal(signal.SIGUSR1)
        with os.popen("echo $FALCONAS_TEST") as shell:
            return [str(Path.cwd()) == folder, handled, shell.read()]

    assert in_child(work) == [True, [signal.SIGUSR1], "\n"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may raise it again")
def test_a_priority_is_put_back() -> None:
    def work() -> bool:
        state = ProcessState()
        os.nice(3)
        return state.restore() and os.getpriority(os.PRIO_PROCESS, 0) == before

    before = os.getpriority(os.PRIO_PROCESS, 0)
    assert in_child(work)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may set groups")
def test_groups_are_put_back() -> None:
    def work() -> bool:
        before = os.getgroups()
        state = ProcessState()
        os.setgroups([65534])
        os.seteuid(65534)
        return state.restore() and os.getgroups() == before

    assert in_child(work)


def change_user() -> None:
    os.seteuid(65534)


def change_user_for_a_while() -> None:
    os.seteuid(65534)
    os.seteuid(0)


def change_group_for_a_while() -> None:
    os.setegid(65534)
    os.setegid(0)


def unbind() -> None:
    ctypes.CDLL(None).prctl(1, 0)


@pytest.mark.parametrize(
    "change", [change_user, change_user_for_a_while, change_group_for_a_while, unbind]
)
def test_it_dies_with_its_parent_all_the_same(change: Callable[[], None]) -> None:
    """The kernel forgets that it is to, when the user or the group changes."""

    def work() -> bool:
        ended, writer = os.pipe()
        ready, mark = os.pipe()
        parent = os.fork()
        if not parent:
            if not os.fork():
                with suppress(BaseException):
                    bind_life_to(os.getppid())
                    state = ProcessState()
                    change()
                    restored = state.restore()
                    signal.alarm(30)  # else it stays for ever when this fails
                    os.write(mark, b"y" if restored else b"n")
                    signal.pause()
                os._exit(0)
            signal.pause()
        os.close(writer)
        restored = os.read(ready, 1) == b"y"
        os.kill(parent, signal.SIGKILL)
        os.waitpid(parent, 0)
        closed, _, _ = select.select([ended], [], [], 10)  # its last holder is gone
        return restored and bool(closed)

    if os.geteuid() and change is not unbind:
        pytest.skip("only root may become another user")
    assert in_child(work)


def test_it_ends_if_its_parent_died_meanwhile() -> None:
    def work() -> int:
        [part] = [part for part in parts() if "parent" in part.name]
        child = os.fork()
        if not child:
            part.put_back(signal.SIGKILL)
            os._exit(0)
        return os.waitpid(child, 0)[1]

    assert in_child(work) == signal.SIGKILL


@pytest.mark.parametrize("number", _SIGNALS)
def test_each_signal_is_looked_at(number: int) -> None:
    def work() -> list[Any]:
        prepare()
        before = signal.getsignal(number)
        state = ProcessState()
        signal.signal(number, lambda *_: None)
        return [state.restore(), signal.getsignal(number) == before]

    assert in_child(work) == [True, True]


def test_a_change_that_comes_back_is_seen_again() -> None:
    def work() -> list[str | int]:
        prepare()
        state = ProcessState()
        for _ in range(3):
            change_environment()
            round_differently()
            assert state.restore()
        return [os.environ["PATH"], decimal.getcontext().prec]

    assert in_child(work) == ["/bin:/usr/bin", decimal.getcontext().prec]


def test_what_was_seeded_is_not_seeded_for_the_next() -> None:
    def work() -> list[float]:
        state = ProcessState()
        numbers = []
        for _ in range(2):
            random.seed(7)
            assert state.restore()
            numbers.append(random.random())
        return numbers

    first, second = in_child(work)

    assert first != second


def test_seeding_is_left_out_where_nobody_has_seeded() -> None:
    def work() -> list[bool]:
        randomness = Randomness()
        randomness.renew()
        before = random.getstate()
        randomness.renew()
        same = random.getstate() == before
        random.gauss(0, 1)
        randomness.renew()
        return [same, random.getstate() == before]

    assert in_child(work) == [True, False]


def test_a_trace_that_would_end_the_worker_later_is_off() -> None:
    def work() -> int:
        state = ProcessState()
        faulthandler.dump_traceback_later(3600)
        assert state.restore()
        return threading.active_count()

    assert in_child(work) == 1


def test_what_everybody_may_do_is_not_talked_about() -> None:
    def work() -> list[Any]:
        lines = io.StringIO()
        logging.getLogger().handlers[:] = [logging.StreamHandler(lines)]
        state = ProcessState()
        third = decimal.Decimal(1) / 3  # sets a flag in the context
        random.gauss(0, 1)
        restored = state.restore("x")
        flags = decimal.getcontext().flags[decimal.Inexact]
        return [restored, lines.getvalue(), flags, str(third)[:3]]

    assert in_child(work) == [True, "", False, "0.3"]

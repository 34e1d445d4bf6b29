"""What of a process its scripts share: how to look at each part and put it back.

The looks are made for `process.joined`: a `partial` of a C function, or of `getattr`,
costs no call of Python's.
"""

from __future__ import annotations

import ctypes
import decimal
import faulthandler
import gc
import importlib
import locale
import logging
import os
import random
import resource
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable
from functools import partial
from operator import attrgetter, eq
from typing import Any, NamedTuple

from falconas.worker.steady import steady

# What `signal` makes of these, members of enums, takes twenty times as long.
_raw: Any = importlib.import_module("_signal")
# Nobody can handle SIGKILL and SIGSTOP, and the C library keeps 32 and 33 to itself.
_SIGNALS = sorted(set(range(1, 32)) - {signal.SIGKILL, signal.SIGSTOP})
_LIMITS = (
    resource.RLIMIT_AS,
    resource.RLIMIT_CPU,
    resource.RLIMIT_FSIZE,
    resource.RLIMIT_NOFILE,
)
_TIMERS = (signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)  # the third is the deadline's
_PR_SET_PDEATHSIG, _PR_GET_PDEATHSIG = 1, 2
# Without its flags, which any computation sets.
_CONTEXT = ("prec", "rounding", "Emin", "Emax", "capitals", "clamp", "traps")
# Without giving up the GIL, which takes as long as these calls do.
_libc = ctypes.PyDLL(None)


class Part(NamedTuple):
    """A part of the process's state.

    Attributes:
        name: What the log calls it.
        look: Returns it, fit for comparing.
        put_back: Called with what `look` returned at the start.
    """

    name: str
    look: Callable[[], Any]
    put_back: Callable[[Any], object]


def parts() -> list[Part]:
    """Return all parts, as they are now; in the order to put them back."""
    return [
        *_kernel(),
        *_signals(),
        *_interpreter(),
        *_hooks(),
        *_decimal(),
        *_libraries(),
        *_logging(),
    ]


def _kernel() -> list[Part]:
    """What the kernel keeps of the process."""
    folder = os.open(".", os.O_PATH | os.O_DIRECTORY)
    mask = os.umask(0)
    os.umask(mask)

    def limit(kind: int) -> Part:
        return Part(
            "resource limits",
            partial(resource.getrlimit, kind),
            lambda was: resource.setrlimit(kind, was),
        )

    def set_priority(was: int) -> None:
        os.setpriority(os.PRIO_PROCESS, 0, was)

    return [
        Part("user", os.geteuid, os.seteuid),
        Part("group", os.getegid, os.setegid),
        Part("supplementary groups", os.getgroups, os.setgroups),
        _death_of_parent(),  # after those: the kernel forgets it when they change
        Part("process group", os.getpgrp, lambda was: os.setpgid(0, was)),
        Part("priority", partial(os.getpriority, os.PRIO_PROCESS, 0), set_priority),
        Part("working folder", os.getcwd, lambda _: os.fchdir(folder)),
        Part("umask", partial(os.umask, mask), _nothing),  # to ask is to set
        *map(limit, _LIMITS),
    ]


def _death_of_parent() -> Part:
    """The signal that comes when the parent dies."""
    parent = os.getppid()
    control = _libc.prctl
    signal_ = ctypes.c_int()
    place = ctypes.byref(signal_)

    def look() -> int:
        control(_PR_GET_PDEATHSIG, place)
        return signal_.value

    def put_back(was: int) -> None:
        control(_PR_SET_PDEATHSIG, was)
        if was and os.getppid() != parent:  # it died in between
            signal.raise_signal(was)

    return Part("signal at the parent's death", look, put_back)


def _signals() -> list[Part]:
    """What signals do: handlers before the mask, lest a blocked one meets a wrong.

    `interrupt` stops timers too, but before the script's last code has run: a result
    may be packed by it.
    """
    wakeup = signal.set_wakeup_fd(-1)
    # to ask is to set
    wake = partial(signal.set_wakeup_fd, wakeup, warn_on_full_buffer=False)
    wake()

    def timer(kind: int) -> Part:
        return Part(
            "timers",
            partial(signal.getitimer, kind),
            lambda _: signal.setitimer(kind, 0),
        )

    def handler(number: int) -> Part:
        def put_back(was: Any) -> None:
            if was is not None:  # of a C library's own: unknown to Python
                signal.signal(number, was)

        return Part("signal handlers", partial(_raw.getsignal, number), put_back)

    def set_faulthandler(was: bool) -> None:
        faulthandler.enable(2) if was else faulthandler.disable()

    return [
        *map(timer, _TIMERS),
        *map(handler, _SIGNALS),
        Part(
            "blocked signals",
            partial(_raw.pthread_sigmask, int(signal.SIG_BLOCK), ()),
            partial(signal.pthread_sigmask, signal.SIG_SETMASK),
        ),
        Part("wakeup descriptor", wake, _nothing),
        Part("faulthandler", faulthandler.is_enabled, set_faulthandler),
        Part("", faulthandler.cancel_dump_traceback_later, _nothing),
    ]


def _interpreter() -> list[Part]:
    """What Python keeps: in `sys`, `gc`, `os.environ`."""

    def enable_collector(was: bool) -> None:
        gc.enable() if was else gc.disable()

    def set_thresholds(was: tuple[int, ...]) -> None:
        gc.set_threshold(*was)

    variables = partial(attrgetter("environ._data"), os)
    environment = dict(variables())
    return [
        Part(
            "environment",
            steady(variables, partial(eq, environment), dict),
            lambda _: _set_environment(environment),
        ),
        Part("time zone", partial(getattr, time, "tzname"), lambda _: time.tzset()),
        _list("sys.path", sys, "path"),
        Part("recursion limit", sys.getrecursionlimit, sys.setrecursionlimit),
        Part("switch interval", sys.getswitchinterval, sys.setswitchinterval),
        Part(
            "digits of integers", sys.get_int_max_str_digits, sys.set_int_max_str_digits
        ),
        Part("garbage collector", gc.isenabled, enable_collector),
        Part("garbage collector", gc.get_threshold, set_thresholds),
        Part("garbage collector", gc.get_debug, gc.set_debug),
        _list("gc.callbacks", gc, "callbacks"),
        Part("flags of dlopen", sys.getdlopenflags, sys.setdlopenflags),
    ]


def _hooks() -> list[Part]:
    """What Python calls."""
    names = ("excepthook", "unraisablehook", "displayhook", "stdin")
    return [
        _list("sys.meta_path", sys, "meta_path"),
        _list("sys.path_hooks", sys, "path_hooks"),
        *(_attribute("hooks of sys", sys, name) for name in names),
        _attribute("threading.excepthook", threading, "excepthook"),
        Part("trace function", sys.gettrace, sys.settrace),
        Part("profile function", sys.getprofile, sys.setprofile),
    ]


def _decimal() -> list[Part]:
    """How decimal numbers are computed, here and in new threads."""
    fields = attrgetter(*_CONTEXT)
    context, default = decimal.getcontext().copy(), decimal.DefaultContext.copy()
    here, elsewhere = fields(context), fields(default)

    def same(now: decimal.Context) -> bool:
        now.clear_flags()
        return bool(fields(now) == here)

    def set_context(_: Any) -> None:
        decimal.setcontext(context.copy())

    def same_default(now: decimal.Context) -> bool:
        return bool(fields(now) == elsewhere)

    def set_default_context(_: Any) -> None:
        for name in _CONTEXT[:-1]:
            setattr(decimal.DefaultContext, name, getattr(default, name))
        decimal.DefaultContext.traps.update(default.traps)

    return [
        Part(
            "decimal context",
            steady(decimal.getcontext, same, decimal.Context),
            set_context,
        ),
        Part(
            "decimal.DefaultContext",
            steady(
                partial(getattr, decimal, "DefaultContext"),
                same_default,
                decimal.Context,
            ),
            set_default_context,
        ),
    ]


def _libraries() -> list[Part]:
    """What modules of the standard library keep for all who use them."""

    def set_filters(was: list[Any]) -> None:
        warnings.resetwarnings()  # also makes what was found before void
        warnings.filters[:] = was  # type: ignore[index]

    def set_locale(was: bytes) -> None:
        locale.setlocale(locale.LC_ALL, was.decode())

    # Python's own decodes what it is told, which takes most of its time.
    ask_locale = _libc.setlocale
    ask_locale.restype = ctypes.c_char_p
    return [
        Part("locale", partial(ask_locale, locale.LC_ALL, None), set_locale),
        Part("socket time-out", socket.getdefaulttimeout, socket.setdefaulttimeout),
        Part("", Randomness().renew, _nothing),
        Part("warnings.filters", partial(getattr, warnings, "filters"), set_filters),
        _attribute("warnings.showwarning", warnings, "showwarning"),
    ]


class Randomness:
    """Sees to it that no script knows which random numbers the next one gets.

    Seeding takes 10 µs. It is left out if nobody can have seeded: a number kept for
    `random.gauss` is gone when someone has, or has used it.
    """

    def __init__(self) -> None:
        self._generator: Any = random.seed.__self__  # type: ignore[attr-defined]
        self._mark: object = None

    def renew(self) -> None:
        """Seed from the operating system if the generator may have been seeded."""
        if self._mark is None or self._generator.gauss_next is not self._mark:
            self._generator.seed()
            self._mark = self._generator.gauss_next = self._generator.normalvariate()


def _logging() -> list[Part]:
    """What decides whether our own lines are written."""
    root, ours = logging.root, logging.getLogger("falconas")
    sample = logging.getLogger(__name__)

    def set_disabled(was: bool) -> None:
        for name, item in list(root.manager.loggerDict.items()):
            if name.startswith("falconas") and isinstance(item, logging.Logger):
                item.disabled = was

    parts = [
        # Without the underscore it is a property.
        Part(
            "logging.disable",
            partial(getattr, root.manager, "_disable"),
            logging.disable,
        ),
        # One for all: logging.config disables loggers that it does not know.
        Part("loggers", partial(getattr, sample, "disabled"), set_disabled),
        _attribute("log records", logging, "_logRecordFactory"),
    ]
    for logger in (root, ours):
        parts += [
            Part("log levels", partial(getattr, logger, "level"), logger.setLevel),
            _attribute("log levels", logger, "disabled"),
            _attribute("log levels", logger, "propagate"),
            _list("log handlers", logger, "handlers"),
            _list("log filters", logger, "filters"),
        ]
    return parts


def _list(label: str, owner: Any, name: str) -> Part:
    """A list that `owner` holds."""

    def put_back(was: list[Any]) -> None:
        getattr(owner, name)[:] = was

    return Part(label, partial(getattr, owner, name), put_back)


def _attribute(label: str, owner: Any, name: str) -> Part:
    """What `owner` has under that name, which nobody changes in itself."""
    return Part(label, partial(getattr, owner, name), partial(setattr, owner, name))


def _set_environment(was: dict[bytes, bytes]) -> None:
    data = os.environ._data  # type: ignore[attr-defined]  # noqa: SLF001
    for name in data.keys() - was.keys():
        os.unsetenv(name)
    for name, value in was.items():
        os.putenv(name, value)
    data.clear()
    data.update(was)


def _nothing(_: Any) -> None:
    pass

"""What of a process its scripts share: how to look at each part and put it back."""

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
from operator import attrgetter
from typing import Any, NamedTuple

# What `signal` makes of these, members of enums, takes twenty times as long.
_raw: Any = importlib.import_module("_signal")
_SIGNALS = range(1, signal.SIGRTMIN)
_LIMITS = (
    resource.RLIMIT_AS,
    resource.RLIMIT_CPU,
    resource.RLIMIT_FSIZE,
    resource.RLIMIT_NOFILE,
)
_TIMERS = (signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)  # the third is the deadline's
_PR_SET_PDEATHSIG, _PR_GET_PDEATHSIG = 1, 2
_CONTEXT = ("prec", "rounding", "Emin", "Emax", "capitals", "clamp")


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
    control = ctypes.CDLL(None, use_errno=True).prctl
    control.argtypes = [ctypes.c_int, ctypes.c_void_p]
    signal_ = ctypes.c_int()
    place = ctypes.addressof(signal_)

    def look() -> int:
        control(_PR_GET_PDEATHSIG, place)
        return signal_.value

    def put_back(was: int) -> None:
        control(_PR_SET_PDEATHSIG, was)
        if was and os.getppid() != parent:  # it died in between
            signal.raise_signal(was)

    return Part("signal at the parent's death", look, put_back)


def _signals() -> list[Part]:
    """What signals do: handlers before the mask, lest a blocked one meets a wrong."""
    wakeup = signal.set_wakeup_fd(-1)
    # to ask is to set
    wake = partial(signal.set_wakeup_fd, wakeup, warn_on_full_buffer=False)
    wake()

    def timers() -> list[Any]:
        return list(map(signal.getitimer, _TIMERS))

    def stop_timers(_: Any) -> None:
        for timer in _TIMERS:
            signal.setitimer(timer, 0)

    def set_handlers(was: list[Any]) -> None:
        for number, is_, handler in zip(_SIGNALS, handlers(), was, strict=True):
            if is_ is not handler and handler is not None:
                signal.signal(number, handler)

    def handlers() -> list[Any]:
        return list(map(_raw.getsignal, _SIGNALS))

    def set_faulthandler(was: bool) -> None:
        faulthandler.enable(2) if was else faulthandler.disable()

    return [
        Part("timers", timers, stop_timers),
        Part("signal handlers", handlers, set_handlers),
        Part(
            "blocked signals",
            partial(_raw.pthread_sigmask, signal.SIG_BLOCK, ()),
            partial(signal.pthread_sigmask, signal.SIG_SETMASK),
        ),
        Part("wakeup descriptor", wake, _nothing),
        Part("faulthandler", faulthandler.is_enabled, set_faulthandler),
        Part("", faulthandler.cancel_dump_traceback_later, _nothing),
    ]


def _interpreter() -> list[Part]:
    """What Python keeps: in `sys`, `gc`, `os.environ`."""

    def collector() -> tuple[Any, ...]:
        return gc.isenabled(), gc.get_threshold(), gc.get_debug()

    def set_collector(was: tuple[Any, ...]) -> None:
        enabled, threshold, debug = was
        gc.enable() if enabled else gc.disable()
        gc.set_threshold(*threshold)
        gc.set_debug(debug)

    return [
        Part("environment", lambda: os.environ._data, _set_environment),  # type: ignore[attr-defined]  # noqa: SLF001
        Part("time zone", lambda: time.tzname, lambda _: time.tzset()),
        _list("sys.path", sys, "path"),
        Part("recursion limit", sys.getrecursionlimit, sys.setrecursionlimit),
        Part("switch interval", sys.getswitchinterval, sys.setswitchinterval),
        Part(
            "digits of integers", sys.get_int_max_str_digits, sys.set_int_max_str_digits
        ),
        Part("garbage collector", collector, set_collector),
        _list("gc.callbacks", gc, "callbacks"),
        Part("flags of dlopen", sys.getdlopenflags, sys.setdlopenflags),
    ]


def _hooks() -> list[Part]:
    """What Python calls."""
    names = ("excepthook", "unraisablehook", "displayhook", "stdin")

    def set_hooks(was: tuple[Any, ...]) -> None:
        for name, value in zip(names, was, strict=True):
            setattr(sys, name, value)

    def set_thread_hook(was: Any) -> None:
        threading.excepthook = was

    return [
        _list("sys.meta_path", sys, "meta_path"),
        _list("sys.path_hooks", sys, "path_hooks"),
        Part("hooks of sys", partial(attrgetter(*names), sys), set_hooks),
        Part("threading.excepthook", lambda: threading.excepthook, set_thread_hook),
        Part("trace function", sys.gettrace, sys.settrace),
        Part("profile function", sys.getprofile, sys.setprofile),
    ]


def _decimal() -> list[Part]:
    """How decimal numbers are computed, here and in new threads."""
    context = decimal.getcontext().copy()

    def set_context(_: Any) -> None:
        decimal.setcontext(context.copy())

    def look_at_context() -> Any:
        current = decimal.getcontext()
        current.clear_flags()  # any computation sets them
        return current.__reduce__()[1]

    def set_default_context(was: Any) -> None:
        for name, value in zip(_CONTEXT, was, strict=False):
            setattr(decimal.DefaultContext, name, value)
        traps = was[-1]
        for trap in decimal.DefaultContext.traps:
            decimal.DefaultContext.traps[trap] = trap in traps

    return [
        Part("decimal context", look_at_context, set_context),
        Part(
            "decimal.DefaultContext",
            lambda: decimal.DefaultContext.__reduce__()[1],
            set_default_context,
        ),
    ]


def _libraries() -> list[Part]:
    """What modules of the standard library keep for all who use them."""

    def set_filters(was: list[Any]) -> None:
        warnings.resetwarnings()  # also makes what was found before void
        warnings.filters[:] = was  # type: ignore[index]

    def set_showwarning(was: Any) -> None:
        warnings.showwarning = was

    return [
        Part(
            "locale",
            partial(locale.setlocale, locale.LC_ALL),
            partial(locale.setlocale, locale.LC_ALL),
        ),
        Part("socket time-out", socket.getdefaulttimeout, socket.setdefaulttimeout),
        Part("", Randomness().renew, _nothing),
        Part("warnings.filters", lambda: warnings.filters, set_filters),
        Part("warnings.showwarning", lambda: warnings.showwarning, set_showwarning),
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

    def set_logger(logger: logging.Logger, was: tuple[Any, ...]) -> None:
        level, logger.disabled, logger.propagate = was
        logger.setLevel(level)

    parts = [
        Part("logging.disable", lambda: root.manager.disable, logging.disable),
        # One for all: logging.config disables loggers that it does not know.
        Part("loggers", lambda: sample.disabled, set_disabled),
        Part("log records", logging.getLogRecordFactory, logging.setLogRecordFactory),
    ]
    look = attrgetter("level", "disabled", "propagate")
    for logger in (root, ours):
        parts += [
            Part("log levels", partial(look, logger), partial(set_logger, logger)),
            _list("log handlers", logger, "handlers"),
            _list("log filters", logger, "filters"),
        ]
    return parts


def _list(label: str, owner: Any, name: str) -> Part:
    """A list that `owner` holds."""

    def put_back(was: list[Any]) -> None:
        getattr(owner, name)[:] = was

    return Part(label, partial(getattr, owner, name), put_back)


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

"""Scripts that change their process."""

import decimal
import gc
import locale
import logging
import os
import random
import signal
import socket
import sys
from typing import Any

from _zoo.trace import leave

from falconas import Context

KEPT: list[Any] = []


def chdir(ctx: Context) -> str:
    leave(ctx)
    os.chdir("/proc")
    return "done"


def umask(ctx: Context) -> str:
    leave(ctx)
    os.umask(0o777)
    return "done"


def environ(ctx: Context) -> str:
    leave(ctx)
    os.environ["ZOO"] = "of another request"
    del os.environ["HOME"]
    return "done"


def setlocale(ctx: Context) -> str:
    leave(ctx)
    usual = locale.setlocale(locale.LC_ALL)
    locale.setlocale(locale.LC_ALL, "C.UTF-8" if usual == "C" else "C")
    return "done"


def decimal_context(ctx: Context) -> str:
    leave(ctx)
    decimal.getcontext().prec = 2
    return "done"


def signal_handlers(ctx: Context) -> str:
    leave(ctx)
    for number in (signal.SIGTERM, signal.SIGALRM, signal.SIGCHLD, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    return "done"


def signal_mask(ctx: Context) -> str:
    leave(ctx)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM, signal.SIGTERM})
    return "done"


def sys_path(ctx: Context) -> str:
    leave(ctx)
    sys.path.insert(0, "/nowhere")
    return "done"


def socket_timeout(ctx: Context) -> str:
    leave(ctx)
    socket.setdefaulttimeout(0.001)
    return "done"


def gc_disable(ctx: Context) -> str:
    leave(ctx)
    gc.disable()
    return "done"


def random_seed(ctx: Context) -> str:
    leave(ctx)
    random.seed(42)
    return "done"


def logging_level(ctx: Context) -> str:
    leave(ctx)
    logging.disable(logging.CRITICAL)
    logging.getLogger().setLevel(logging.CRITICAL)
    return "done"


def recursion_limit(ctx: Context) -> str:
    leave(ctx)
    sys.setrecursionlimit(123_456)
    return "done"


def excepthook(ctx: Context) -> str:
    leave(ctx)
    sys.excepthook = print
    return "done"


def files_left(ctx: Context) -> str:
    leave(ctx)
    KEPT.extend(open(os.devnull) for _ in range(60))
    return "done"

"""Scripts that do not come to an end."""

import itertools
import queue
import signal
import socket
import subprocess
import threading
import time
from collections import deque

from _zoo.trace import leave

from falconas import Context


def endless_loop(ctx: Context) -> None:
    leave(ctx)
    while True:
        pass


def except_exception_loop(ctx: Context) -> None:
    leave(ctx)
    while True:
        try:
            time.sleep(0.001)
        except Exception:
            pass


def bare_except_loop(ctx: Context) -> None:
    leave(ctx)
    while True:
        try:
            time.sleep(0.001)
        except:
            pass


def swallowed_interrupt(ctx: Context) -> str:
    """Go on as if nothing had been: the answer is not believed."""
    leave(ctx)
    try:
        while True:
            pass
    except BaseException:
        return "done"


def sum_range(ctx: Context) -> int:
    leave(ctx)
    return sum(range(10**11))


def endless_c_call(ctx: Context) -> None:
    """Hold the GIL: no signal handler of Python runs."""
    leave(ctx)
    deque(itertools.repeat(None), maxlen=0)


def disarmed_timer(ctx: Context) -> None:
    leave(ctx)
    signal.setitimer(signal.ITIMER_REAL, 0)
    while True:
        pass


def deaf_to_the_timer(ctx: Context) -> None:
    leave(ctx)
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    while True:
        pass


def pg_sleep(ctx: Context) -> None:
    leave(ctx)
    ctx.db.execute("SELECT pg_sleep(30)")


def pg_sleep_swallowed(ctx: Context) -> str:
    leave(ctx)
    try:
        ctx.db.execute("SELECT pg_sleep(30)")
    except BaseException:
        pass
    return "done"


def lock_twice(ctx: Context) -> None:
    leave(ctx)
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def queue_get(ctx: Context) -> None:
    leave(ctx)
    queue.Queue().get()


def silent_socket(ctx: Context) -> None:
    leave(ctx)
    here, there = socket.socketpair()
    with here, there:
        here.recv(1)


def waiting_for_a_program(ctx: Context) -> None:
    leave(ctx)
    subprocess.run(["sleep", "3600"], check=True)

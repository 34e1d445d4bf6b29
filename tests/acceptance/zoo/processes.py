"""Scripts that leave processes and threads behind."""

import gc
import os
import subprocess
import threading
import time

import zmq
from _zoo.trace import leave

from falconas import Context


def fork_falls_through(ctx: Context) -> str:
    """Let both processes return: only one of them may answer."""
    leave(ctx)
    child = os.fork()
    if child:
        os.waitpid(child, 0)
    return "done"


def fork_uses_the_connection(ctx: Context) -> str:
    leave(ctx)
    child = os.fork()
    if not child:
        ctx.db.execute("SELECT 'of the child'")
        os._exit(0)
    for number in range(20):
        row = ctx.db.execute("SELECT %s::int", [number]).fetchone()
        assert row == (number,), row
    os.waitpid(child, 0)
    return "done"


def fork_closes_the_connection(ctx: Context) -> str:
    leave(ctx)
    child = os.fork()
    if not child:
        ctx.db._lease.session.close()
        os._exit(0)
    os.waitpid(child, 0)
    assert ctx.db.execute("SELECT 7").fetchone() == (7,)
    return "done"


def fork_uses_the_sockets(ctx: Context) -> str:
    leave(ctx)
    child = os.fork()
    if not child:
        for thing in gc.get_objects():
            if isinstance(thing, zmq.Socket):
                thing.close(0)
            elif isinstance(thing, zmq.Context):
                thing.destroy(0)
        os._exit(0)
    os.waitpid(child, 0)
    return "done"


def fork_stays(ctx: Context) -> str:
    leave(ctx)
    if os.fork() == 0:
        time.sleep(3600)
    return "done"


def program_left(ctx: Context) -> str:
    leave(ctx)
    subprocess.Popen(["sleep", "3600"])
    return "done"


def thread_left(ctx: Context) -> str:
    leave(ctx)
    threading.Thread(target=time.sleep, args=[3600]).start()
    return "done"


def thread_uses_the_database(ctx: Context) -> str:
    """A thread that goes on when its request has ended gets nothing of the next."""
    leave(ctx)

    def work() -> None:
        while True:
            try:
                ctx.db.execute("SELECT pg_sleep(0.001)")
            except Exception:
                return

    threading.Thread(target=work).start()
    return "done"

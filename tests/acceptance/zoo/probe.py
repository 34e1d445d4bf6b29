"""The script that looks whether anything of another request is left."""

import decimal
import gc
import locale
import logging
import os
import random
import resource
import signal
import socket
import sys
import zlib
from pathlib import Path
from typing import Any

from _zoo import session_probe

from falconas import Context, script

SEEDED = random.Random(42).random()


@script(access="read", snapshot=False)
def probe(ctx: Context, nonce: str) -> dict[str, Any]:
    """Return what this process and its session look like."""
    row = ctx.db.execute("SELECT pg_backend_pid(), %s::text", [nonce]).fetchone()
    assert row is not None
    return {
        "pid": os.getpid(),
        "backend": row[0],
        "nonce": row[1],
        "process": process(),
        "session": session_probe.probe(ctx.db.execute),
    }


def process() -> dict[str, Any]:
    umask = os.umask(0)
    os.umask(umask)
    root = logging.getLogger()
    return {
        "cwd": os.getcwd(),
        "umask": umask,
        "environ": zlib.crc32(repr(sorted(os.environ.items())).encode()),
        "locale": locale.setlocale(locale.LC_ALL),
        "decimal": repr(decimal.getcontext()),
        "handlers": handlers(),
        "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
        "path": list(sys.path),
        "socket_timeout": socket.getdefaulttimeout(),
        "gc": [gc.isenabled(), list(gc.get_threshold())],
        "seeded": random.random() == SEEDED,
        "logging": [root.level, root.manager.disable, len(root.handlers)],
        "recursion": sys.getrecursionlimit(),
        "excepthook": sys.excepthook is sys.__excepthook__,
        "streams": [usable(sys.stdout), usable(sys.stderr)],
        "outputs": [os.readlink(f"/proc/self/fd/{fd}").split(" ")[0] for fd in (1, 2)],
        "limits": list(resource.getrlimit(resource.RLIMIT_AS)),
        "children": children(),
    }


def handlers() -> dict[str, str]:
    found = {}
    for number in signal.valid_signals():
        handler = signal.getsignal(number)
        name = getattr(handler, "__qualname__", None) or str(handler)
        found[signal.Signals(number).name if number < 32 else str(number)] = name
    return found


def children() -> list[str]:
    """Return the commands of the living processes of this worker's group."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(fields[2]) == os.getpgrp() and fields[0] != "Z":
                found.append((entry / "comm").read_text().strip())
        except OSError:
            continue
    return found


def usable(stream: Any) -> bool:
    return stream is not None and not stream.closed

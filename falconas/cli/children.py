"""Broker and worker supervisor as child processes of `falconas dev`."""

from __future__ import annotations

import ctypes
import logging
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping
from typing import Self

_PR_SET_PDEATHSIG = 1

log = logging.getLogger("falconas.dev")


class Children:
    """Our own commands, each in a process group of its own.

    Ctrl-C reaches only us: we stop them in order, the last one started first. They
    also stop when we are killed.

    Args:
        environ: The children's environment.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = dict(environ)
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._libc = ctypes.CDLL(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self, command: str) -> None:
        """Start `falconas COMMAND`."""
        # -P: a module in the user's folder must not hide one of the library's.
        self._running[command] = subprocess.Popen(
            [sys.executable, "-P", "-m", "falconas.cli", command],
            env=self._environ,
            stdin=subprocess.DEVNULL,
            process_group=0,
            preexec_fn=self._die_with_parent,  # noqa: PLW1509 - no threads here
        )

    def wait(self, timeout: float | None = None) -> str | None:
        """Return the first command that ends, None if none does within the time."""
        watched = {os.pidfd_open(c.pid): name for name, c in self._running.items()}
        try:
            poll = select.poll()
            for descriptor in watched:
                poll.register(descriptor, select.POLLIN)
            ended = poll.poll(None if timeout is None else timeout * 1000)
        finally:
            for descriptor in watched:
                os.close(descriptor)
        return watched[ended[0][0]] if ended else None

    def signal(self, command: str, signum: signal.Signals) -> None:
        """Send a signal to a command, if it still runs."""
        self._running[command].send_signal(signum)

    def stop(self, timeouts: Mapping[str, float]) -> None:
        """Ask them to end, the last started first, then kill what is left."""
        for name, child in reversed(self._running.items()):
            child.send_signal(signal.SIGTERM)
            try:
                child.wait(timeouts[name])
            except subprocess.TimeoutExpired:
                log.warning("%s does not end, it is killed", name)
        self.kill()

    def kill(self) -> None:
        """End at once what still runs."""
        for child in reversed(self._running.values()):
            if child.poll() is None:
                child.kill()
            child.wait()

    def code(self, command: str) -> int:
        """Return how a command ended that has ended."""
        return self._running[command].wait()

    def _die_with_parent(self) -> None:
        self._libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

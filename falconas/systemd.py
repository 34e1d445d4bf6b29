"""What a service tells its manager: sd_notify(3), spoken without libsystemd.

Nothing here raises or waits: a manager that does not listen must not stop a server,
and without one ($NOTIFY_SOCKET is not set) nothing happens at all.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from math import inf
from time import monotonic_ns

# As many bytes of STATUS= as are worth a line of `systemctl status`.
_STATUS_LENGTH = 200


class Notifier:
    """Tells the service manager how the service is.

    Args:
        environ: Names the manager's socket and the watchdog's interval.
    """

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        environ = os.environ if environ is None else environ
        self._address = _address(environ.get("NOTIFY_SOCKET", ""))
        self._interval = _watchdog(environ) / 2
        self._beat_at = inf if self._interval == inf else -inf
        self._status = ""

    def ready(self, status: str = "") -> None:
        """It has started, or has reloaded."""
        self._send("READY=1", *self._changed(status))

    def status(self, text: str) -> None:
        """Show this in `systemctl status`; said again only when it changes."""
        lines = self._changed(text)
        if lines:
            self._send(*lines)

    def reloading(self) -> None:
        """A reload begins, now; `ready` says that it has ended."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """The end begins."""
        self._send("STOPPING=1")

    def extend(self, seconds: float) -> None:
        """Starting or stopping may take so long from now; say it again before."""
        self._send(f"EXTEND_TIMEOUT_USEC={max(0, round(seconds * 1e6))}")

    def beat(self, now: float) -> None:
        """It is alive; sent when half of the watchdog's time has gone."""
        if now >= self._beat_at:
            self._beat_at = now + self._interval
            self._send("WATCHDOG=1")

    def wake_at(self) -> float:
        """Return when `beat` is to be called next; inf without a watchdog."""
        return self._beat_at

    def _changed(self, status: str) -> list[str]:
        """Return the line of a new status."""
        line = " ".join(status.split())[:_STATUS_LENGTH]
        if not line or line == self._status:
            return []
        self._status = line
        return [f"STATUS={line}"]

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        # One for each message: nothing to close, nothing that a fork could share.
        with (
            suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender,
        ):
            message = "\n".join(lines).encode("utf-8", "replace")
            sender.sendto(message, socket.MSG_DONTWAIT, self._address)


def _address(text: str) -> str:
    """Return the socket's address, empty for none and for kinds that we lack."""
    if text.startswith("@"):  # abstract: a zero byte takes the place of the @
        return "\0" + text[1:]
    return text if text.startswith("/") else ""


def _watchdog(environ: Mapping[str, str]) -> float:
    """Return the seconds between two signs of life at most; inf: none is awaited."""
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return inf
    try:
        interval = int(environ.get("WATCHDOG_USEC", "0")) / 1e6
    except ValueError:
        return inf
    return interval if interval > 0 else inf

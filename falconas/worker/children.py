"""A supervisor's children: zygotes, and whoever has ended."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

from falconas.codec import decode_value
from falconas.worker import zygote
from falconas.worker.zygote import Channel, Failed, Manifest

if TYPE_CHECKING:
    from typing import Any

    from falconas.worker.zygote import Boot, Message


class ZygoteChild:
    """A zygote, from its start to its end.

    Args:
        number: Which one it is.
        boot: What to be.
        slots: The file of the slots.
    """

    def __init__(self, number: int, boot: Boot, slots: int) -> None:
        self.number = number
        self.hash = ""
        self.body = b""
        self.failure = ""
        self._channel, theirs = Channel.pair()
        fds = (theirs.fileno(), slots)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", zygote.__name__, *map(str, fds)],
                stdin=subprocess.DEVNULL,
                pass_fds=(*fds, *boot.outputs),
                process_group=0,
            )
        self.pid = self._process.pid
        self._channel.send(boot)

    def fileno(self) -> int:
        """Return the file descriptor to poll, -1 when it will say nothing more."""
        return self._channel.fileno()

    @property
    def manifest(self) -> dict[str, Any]:
        """What scripts there are, once they are loaded."""
        found: dict[str, Any] = decode_value(self.body)
        return found

    def hear(self) -> tuple[list[Message], bool]:
        """Return what it says, and whether it may say more."""
        messages: list[Message] = []
        while True:
            try:
                message = self._channel.receive()
            except BlockingIOError:
                return messages, True
            if message is None:  # it is about to be reaped
                return messages, False
            messages.extend(self._take(message))

    def spawn(self, place: int, worker: bytes) -> None:
        """Have it fork a worker.

        Raises:
            OSError: It does not listen.
        """
        self._channel.send(zygote.Spawn(place, worker))

    def kill(self, reason: str) -> None:
        """End it; its workers live on."""
        self.failure = self.failure or reason
        self._process.kill()

    def reaped(self, code: int) -> list[Message]:
        """Return the last that it said, now that it is dead."""
        self._process.returncode = code
        return [one for last in self._channel.finish() for one in self._take(last)]

    def close(self) -> None:
        """Leave nothing behind."""
        self._process.kill()
        self._process.wait()
        self._channel.close()

    def _take(self, message: Message) -> list[Message]:
        """Keep what it says of itself; return what concerns others."""
        if isinstance(message, Failed):
            self.failure = message.reason
            return []
        if isinstance(message, Manifest):
            self.body += message.part
            if message.more:
                return []
            self.hash = message.hash
        return [message]


def find_dead() -> int:
    """Return a child that has ended and is not reaped yet, 0 if there is none."""
    try:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return 0
    return found.si_pid if found else 0

"""A supervisor's children: zygotes, the probe, and whoever has ended."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from falconas.codec import decode_value
from falconas.worker import probing, zygote
from falconas.worker.channel import Channel, Garbled
from falconas.worker.zygote import Failed, Manifest

if TYPE_CHECKING:
    from falconas.worker.dealer import Dealer
    from falconas.worker.probing import Ask, ProbeBoot
    from falconas.worker.zygote import Boot, Spawn

Message = TypeVar("Message")

TURN = 1000  # messages; more than a socket holds

log = logging.getLogger(__name__)


class Child(Generic[Message]):
    """A fresh interpreter that runs a module of ours, from its start to its end.

    Args:
        module: Its arguments are file descriptors: its channel, and `fds`.
        kinds: The messages on its channel, as a union.
        boot: What it is told first.
        fds: Files that it gets by its arguments.
        others: Files that it hears of by `boot`.

    Raises:
        OSError: There is no process to be had, or no more files.
    """

    def __init__(
        self,
        module: str,
        kinds: Any,
        boot: Message,
        fds: tuple[int, ...] = (),
        others: tuple[int, ...] = (),
    ) -> None:
        self.failure = ""
        self._channel, theirs = Channel[Message].pair(kinds)
        fds = (theirs.fileno(), *fds)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", module, *map(str, fds)],
                stdin=subprocess.DEVNULL,
                pass_fds=(*fds, *others),
                process_group=0,
            )
        except OSError:
            self._channel.close()
            raise
        finally:
            theirs.close()
        self.pid = self._process.pid
        with suppress(OSError):  # it is dead already, and will be reaped
            self._channel.send(boot)

    def fileno(self) -> int:
        """Return the file descriptor to poll, -1 when it will say nothing more."""
        return self._channel.fileno()

    def hear(self) -> tuple[list[Message], bool]:
        """Return what it says, and whether it may say more.

        Who says what is no message is killed.
        """
        messages: list[Message] = []
        for _ in range(TURN):
            try:
                message = self._channel.receive()
            except BlockingIOError:
                break
            except Garbled as error:
                self.kill(str(error))
                break
            if message is None:  # it is about to be reaped
                return messages, False
            messages.extend(self._take(message))
        return messages, True

    def kill(self, reason: str) -> None:
        """End it, which may be dead already."""
        self.failure = self.failure or reason
        # Its id is its own until it is reaped, which Popen.kill would do behind us.
        if self._process.returncode is None:
            os.kill(self.pid, signal.SIGKILL)

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
        return [message]


class ProbeChild(Child[probing.Message]):
    """A probe process."""

    def __init__(self, boot: ProbeBoot) -> None:
        # Its module imports psycopg, which the supervisor does without.
        super().__init__("falconas.worker.probe", probing.Message, boot)

    def ask(self, ask: Ask) -> None:
        """Have it answer for nodes.

        Raises:
            OSError: It does not listen.
        """
        self._channel.send(ask)


class ZygoteChild(Child[zygote.Message]):
    """A zygote; when it ends its workers live on.

    Args:
        number: Which one it is.
        boot: What to be.
        slots: The file of the slots.
    """

    def __init__(self, number: int, boot: Boot, slots: int) -> None:
        self.number = number
        self.hash = ""
        self.body = b""
        others = tuple(boot.outputs)
        super().__init__(zygote.__name__, zygote.Message, boot, (slots,), others)

    @property
    def manifest(self) -> dict[str, Any]:
        """What scripts there are, once they are loaded."""
        found: dict[str, Any] = decode_value(self.body)
        return found

    def spawn(self, spawn: Spawn) -> None:
        """Have it fork a worker.

        Raises:
            OSError: It does not listen.
        """
        self._channel.send(spawn)

    def _take(self, message: zygote.Message) -> list[zygote.Message]:
        """Keep what it says of itself; return what concerns others."""
        if isinstance(message, Failed):
            self.failure = message.reason
            return []
        if isinstance(message, Manifest):
            self.hash, self.body = message.hash, message.body
        return [message]


class Zygotes:
    """The zygotes that there are, by their numbers.

    Args:
        boot: What each of them is told to be.
        slots: The file of the slots.
        dealer: Wakes the supervisor when one has something to say.
    """

    def __init__(self, boot: Boot, slots: int, dealer: Dealer) -> None:
        self._boot = boot
        self._slots = slots
        self._dealer = dealer
        self._all: dict[int, ZygoteChild] = {}

    def __getitem__(self, number: int) -> ZygoteChild:
        return self._all[number]

    def of(self, pid: int) -> ZygoteChild | None:
        """Return the zygote that is this process."""
        return next((z for z in self._all.values() if z.pid == pid), None)

    def start(self, number: int) -> str:
        """Start another one; return why that failed, if it did."""
        try:
            child = self._all[number] = ZygoteChild(number, self._boot, self._slots)
        except OSError as error:
            log.warning("the zygote does not start: %s", error)
            return f"no zygote starts: {error}"
        self._dealer.watch(child.fileno())
        return ""

    def kill(self, number: int, reason: str) -> None:
        """End one that may be dead already."""
        if number in self._all:
            self._all[number].kill(reason)

    def hear(self) -> list[tuple[ZygoteChild, zygote.Message]]:
        """Return what they say."""
        heard = []
        for child in self._all.values():
            messages, more = child.hear()
            if not more:
                self._dealer.unwatch(child.fileno())
            heard += [(child, message) for message in messages]
        return heard

    def bury(self, child: ZygoteChild, code: int) -> list[zygote.Message]:
        """Forget a dead one; return the last that it said."""
        self._dealer.unwatch(child.fileno())
        del self._all[child.number]
        return child.reaped(code)

    def close(self) -> None:
        """Leave nobody behind."""
        for child in self._all.values():
            child.close()


def find_dead() -> int:
    """Return a child that has ended and is not reaped yet, 0 if there is none."""
    try:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return 0
    return found.si_pid if found else 0

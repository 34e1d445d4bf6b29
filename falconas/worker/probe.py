"""The process that asks the nodes what they are, for its supervisor.

It has the database's libraries and an event loop, so that neither a connection that
hangs nor a name that does not resolve holds up anybody else. What it is asked, and
what follows from the answers, is decided in `probing`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from math import inf
from typing import TYPE_CHECKING

from falconas import logs
from falconas.database.inventory import sources_of
from falconas.database.prober import Prober
from falconas.database.topology import NoAnswer
from falconas.stderr import Stderr
from falconas.worker.channel import Channel, bind_life_to
from falconas.worker.probing import (
    Answered,
    Ask,
    Doubted,
    Message,
    Nodes,
    ProbeBoot,
)

if TYPE_CHECKING:
    from falconas.database.topology import Node, Probe


class ProbeProcess:
    """Between the supervisor's questions and the prober that asks the nodes.

    Args:
        channel: To the supervisor.
        sources: The nodes, or where to look for them.

    Raises:
        ValueError: A DSN or URL is malformed.
    """

    def __init__(self, channel: Channel[Message], sources: list[Node]) -> None:
        self._channel = channel
        self._asked: list[str] = []
        self._prober = Prober(
            sources, self._found, self._due, self._answered, self._doubted
        )

    async def run(self) -> None:
        """Answer until the supervisor is gone."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._channel.fileno(), self._hear)
        if not self._prober.nodes:  # else it says so itself
            self._found([])
        await self._prober.run()

    def _hear(self) -> None:
        message = self._channel.receive()
        if isinstance(message, Ask):
            self._asked += message.names
            self._prober.nudge()
        elif message is None:
            asyncio.get_running_loop().remove_reader(self._channel.fileno())
            self._prober.stop()

    def _found(self, nodes: list[Node]) -> None:
        self._tell(Nodes(nodes))

    def _due(self) -> tuple[list[str], float]:
        asked, self._asked = self._asked, []
        return asked, inf

    def _answered(self, name: str, answer: Probe | NoAnswer) -> None:
        if isinstance(answer, NoAnswer):
            self._tell(Answered(name, None, answer.why, answer.silent, answer.refused))
        else:
            self._tell(Answered(name, answer))

    def _doubted(self, name: str, why: str) -> None:
        self._tell(Doubted(name, why))

    def _tell(self, message: Message) -> None:
        try:
            self._channel.send(message)
        except OSError:  # the supervisor is gone
            self._prober.stop()


def main(fd: int) -> int:
    """Answer for nodes until the supervisor is gone."""
    os.set_inheritable(fd, False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the supervisor decides when to end
    channel = Channel[Message](socket.socket(fileno=fd), Message)
    boot = channel.receive()
    if not isinstance(boot, ProbeBoot) or not bind_life_to(boot.pid):
        return 1
    logs.setup(boot.settings.log.level, boot.settings.log.format, Stderr())
    try:
        process = ProbeProcess(channel, sources_of(boot.settings))
    except ValueError:
        return 1  # a zygote says why, and ends the supervisor
    asyncio.run(process.run())
    return 0


if __name__ == "__main__":
    # Messages must be of the classes that others import from here, not of __main__'s.
    from falconas.worker.probe import main as imported_main

    sys.exit(imported_main(int(sys.argv[1])))

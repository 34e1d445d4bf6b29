"""What ties a fresh interpreter to the supervisor that started it."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
from typing import Any, Generic, TypeVar

import msgspec

PR_SET_PDEATHSIG = 1
MESSAGE_BYTES = 1 << 17

Message = TypeVar("Message")


class Channel(Generic[Message]):
    """Whole messages over one end of a socket pair.

    Args:
        end: The socket.
        kinds: The tagged structs that may come, as a union.
    """

    def __init__(self, end: socket.socket, kinds: Any) -> None:
        self._end = end
        self._kinds = kinds
        self._decoder = msgspec.msgpack.Decoder(kinds)

    @classmethod
    def pair(cls, kinds: Any) -> tuple[Channel[Message], socket.socket]:
        """Make the supervisor's end, which never blocks, and the child's socket."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        return cls(ours, kinds), theirs

    def fileno(self) -> int:
        """Return the file descriptor to poll."""
        return self._end.fileno()

    def send(self, message: Message) -> None:
        """Send a message.

        Raises:
            OSError: The other side is gone, or (supervisor) does not read.
        """
        self._end.send(msgspec.msgpack.encode(message))

    def receive(self) -> Message | None:
        """Return the next message, None if the other side is gone.

        Raises:
            BlockingIOError: (supervisor) there is none at present.
        """
        while True:
            try:
                data = self._end.recv(MESSAGE_BYTES)
            except ConnectionResetError:
                continue  # said once, and before what had come
            message: Message | None = self._decoder.decode(data) if data else None
            return message

    def finish(self) -> list[Message]:
        """Accept nothing more, return what had come, and close.

        Whoever tries to send from now on fails: so no worker comes alive unknown.
        """
        self._end.shutdown(socket.SHUT_RD)
        rest = []
        while (message := self.receive()) is not None:
            rest.append(message)
        self.close()
        return rest

    def close(self) -> None:
        """Close this end."""
        self._end.close()


def bind_life_to(parent: int) -> bool:
    """Die when the parent does; False if it is not the parent (any more)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    return os.getppid() == parent

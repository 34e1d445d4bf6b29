"""What ties a fresh interpreter to the supervisor that started it.

A message is a packet. One that is too long for that is written to a file in memory,
which is passed on: so it arrives whole, whoever else sends, and no sender has to wait
for the reader in the midst of it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
from typing import Any, Generic, TypeVar

import msgspec

PR_SET_PDEATHSIG = 1
PACKET_BYTES = 1 << 16
MESSAGE_BYTES = 1 << 24
LONG = b"\0"  # in the place of a message: it is in the file that comes along

Message = TypeVar("Message")


class Garbled(ValueError):
    """What came is not one of the messages that may come."""


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
        data = msgspec.msgpack.encode(message)
        if len(data) <= PACKET_BYTES:
            self._end.send(data)
            return
        with os.fdopen(os.memfd_create("message"), "wb", buffering=0) as file:
            file.write(data)
            socket.send_fds(self._end, [LONG], [file.fileno()])

    def receive(self) -> Message | None:
        """Return the next message, None if the other side is gone.

        Raises:
            BlockingIOError: (supervisor) there is none at present.
            Garbled: What came is none; the next may be one.
        """
        data = self._packet()
        if not data:
            return None
        try:
            message: Message = self._decoder.decode(data)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise Garbled(f"it said what is no message: {str(error)[:200]}") from None
        return message

    def finish(self) -> list[Message]:
        """Accept nothing more, return what had come, and close.

        Whoever tries to send from now on fails: so no worker comes alive unknown.
        """
        self._end.shutdown(socket.SHUT_RD)
        rest: list[Message] = []
        while True:
            try:
                message = self.receive()
            except Garbled:
                continue
            if message is None:
                self.close()
                return rest
            rest.append(message)

    def close(self) -> None:
        """Close this end."""
        self._end.close()

    def _packet(self) -> bytes:
        """Return the next message's bytes, none if the other side is gone."""
        while True:
            try:
                data, fds, flags, _ = socket.recv_fds(
                    self._end, PACKET_BYTES, 1, socket.MSG_CMSG_CLOEXEC
                )
                break
            except ConnectionResetError:
                continue  # said once, and before what had come
        try:
            if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                raise Garbled("it said more than can be heard at a time")
            return _contents(fds[0]) if fds else data
        finally:
            for fd in fds:
                os.close(fd)


def _contents(fd: int) -> bytes:
    """Return a message that is in a file; never waits, whatever file that is."""
    size = os.fstat(fd).st_size
    if not 0 < size <= MESSAGE_BYTES:
        raise Garbled(f"it said {size} bytes; {MESSAGE_BYTES} can be heard at most")
    try:
        return os.pread(fd, size, 0)
    except OSError as error:
        raise Garbled(f"what it said cannot be read: {error.strerror}") from None


def bind_life_to(parent: int) -> bool:
    """Die when the parent does; False if it is not the parent (any more)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    return os.getppid() == parent

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from falconas.worker.channel import MESSAGE_BYTES, PACKET_BYTES, Channel, Garbled

if TYPE_CHECKING:
    from collections.abc import Iterator


class Said(msgspec.Struct, tag=True, frozen=True):
    text: str


class Counted(msgspec.Struct, tag=True, frozen=True):
    number: int


Kinds = Said | Counted
SIZES = (PACKET_BYTES - 100, PACKET_BYTES, 10 * PACKET_BYTES, MESSAGE_BYTES - 100)
Ends = tuple[Channel[Kinds], Channel[Kinds]]


@pytest.fixture
def ends() -> Iterator[Ends]:
    ours, end = Channel[Kinds].pair(Kinds)
    theirs = Channel[Kinds](end, Kinds)
    yield ours, theirs
    ours.close()
    theirs.close()


def test_messages_arrive_whole_and_in_order(ends: Ends) -> None:
    sent: list[Kinds] = [Counted(1), *(Said("x" * size) for size in SIZES), Counted(2)]
    for sender, receiver in (ends, reversed(ends)):
        for message in sent:
            sender.send(message)
        assert [receiver.receive() for _ in sent] == sent


@pytest.mark.parametrize(
    "data",
    [
        b"x",
        b"\xc1",
        b"\x91" * 5000,
        b"\x82\xa4type\xa4Said\xa4text\xa1\xff",
        b"\x82\xa4type\xa4Said\xa4text\x01",
        b"\x81\xa4type\xa5Other",
        b"x" * (PACKET_BYTES + 1),
    ],
)
def test_what_is_no_message_is_said_to_be_none(ends: Ends, data: bytes) -> None:
    ours, theirs = ends
    theirs._end.send(data)
    theirs.send(Counted(1))
    with pytest.raises(Garbled, match="it said "):
        ours.receive()
    assert ours.receive() == Counted(1)


def test_what_was_cut_off_does_not_pass_for_a_message(ends: Ends) -> None:
    ours, theirs = ends
    size = PACKET_BYTES - len(msgspec.msgpack.encode(Said("x" * 1000))) + 1000
    data = msgspec.msgpack.encode(Said("x" * size))
    assert len(data) == PACKET_BYTES
    theirs._end.send(data)
    theirs._end.send(data + b"x")
    assert ours.receive() == Said("x" * size)
    with pytest.raises(Garbled, match="more than can be heard at a time"):
        ours.receive()


def test_a_message_has_a_limit(ends: Ends) -> None:
    ours, theirs = ends
    theirs.send(Said("x" * MESSAGE_BYTES))
    theirs.send(Counted(1))
    with pytest.raises(Garbled, match=f"{MESSAGE_BYTES} can be heard at most"):
        ours.receive()
    assert ours.receive() == Counted(1)


def test_no_file_that_comes_along_is_waited_for_or_kept(ends: Ends) -> None:
    ours, theirs = ends
    pipe = os.pipe()
    null = os.open(os.devnull, os.O_RDONLY)
    folder = os.open("/", os.O_RDONLY)
    before = files()
    for passed in ([pipe[0]], [null], [folder], [null, null, null]):
        socket.send_fds(theirs._end, [b"\0"], passed)
        with pytest.raises(Garbled):
            ours.receive()
    ours.send(Said("x" * PACKET_BYTES))
    assert theirs.receive() is not None
    assert files() == before
    for fd in (*pipe, null, folder):
        os.close(fd)


def test_the_supervisor_never_waits(ends: Ends) -> None:
    ours, _ = ends
    with pytest.raises(BlockingIOError):
        ours.receive()
    with pytest.raises(BlockingIOError):
        flood(ours)


def files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def flood(channel: Channel[Kinds]) -> None:
    while True:
        channel.send(Said("x" * 10_000))


def test_what_was_said_before_the_end_is_heard(ends: Ends) -> None:
    ours, theirs = ends
    ours.send(Counted(0))
    theirs.send(Counted(1))
    theirs.close()  # with a message unread: that is an error on the other side
    assert ours.receive() == Counted(1)
    assert ours.receive() is None


def test_a_finished_channel_refuses_what_comes_later(ends: Ends) -> None:
    ours, theirs = ends
    theirs.send(Counted(1))
    theirs._end.send(b"nonsense")
    theirs.send(Said("x" * PACKET_BYTES))
    assert ours.finish() == [Counted(1), Said("x" * PACKET_BYTES)]
    with pytest.raises(OSError, match="Broken pipe"):
        theirs.send(Counted(2))


def test_only_a_child_of_the_parent_is_bound_to_it() -> None:
    code = "import sys; from falconas.worker.channel import bind_life_to as bind"
    for parent, bound in ((os.getpid(), True), (1, False)):
        run = [sys.executable, "-c", f"{code}; sys.exit(bind({parent}))"]
        assert subprocess.run(run, check=False).returncode == bound

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import msgspec
import pytest

from falconas.worker.channel import MESSAGE_BYTES, Channel

if TYPE_CHECKING:
    from collections.abc import Iterator


class Said(msgspec.Struct, tag=True, frozen=True):
    text: str


class Counted(msgspec.Struct, tag=True, frozen=True):
    number: int


Kinds = Said | Counted
Ends = tuple[Channel[Kinds], Channel[Kinds]]


@pytest.fixture
def ends() -> Iterator[Ends]:
    ours, end = Channel[Kinds].pair(Kinds)
    theirs = Channel[Kinds](end, Kinds)
    yield ours, theirs
    ours.close()
    theirs.close()


def test_messages_arrive_whole_and_in_order(ends: Ends) -> None:
    ours, theirs = ends
    long = Said("x" * (MESSAGE_BYTES - 100))
    ours.send(Counted(1))
    ours.send(long)
    assert theirs.receive() == Counted(1)
    assert theirs.receive() == long


def test_the_supervisor_never_waits(ends: Ends) -> None:
    ours, _ = ends
    with pytest.raises(BlockingIOError):
        ours.receive()
    with pytest.raises(BlockingIOError):
        flood(ours)


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
    assert ours.finish() == [Counted(1)]
    with pytest.raises(OSError, match="Broken pipe"):
        theirs.send(Counted(2))


def test_only_a_child_of_the_parent_is_bound_to_it() -> None:
    code = "import sys; from falconas.worker.channel import bind_life_to as bind"
    for parent, bound in ((os.getpid(), True), (1, False)):
        run = [sys.executable, "-c", f"{code}; sys.exit(bind({parent}))"]
        assert subprocess.run(run, check=False).returncode == bound

"""Hostile messages on every socket, beside honest clients."""

from __future__ import annotations

import random
import threading
from pathlib import Path
from typing import Any

import pytest
import zmq

from falconas.errors import Code
from falconas.messages import Kind, Reply
from falconas.protocol import COMMANDS, decode
from tests.acceptance.malformed import kinds
from tests.acceptance.stack import Stack

SCRIPTS = Path(__file__).parents[2] / "workers"
MESSAGES = 300
EVERYTHING = frozenset(COMMANDS)


@pytest.fixture
def stack(tmp_path: Path, database: str) -> Any:
    with Stack(tmp_path, database, SCRIPTS) as running:
        running.start_broker()
        running.start_workers(2)
        running.await_workers(2)
        yield running


@pytest.mark.parametrize("socket", ["frontend", "backend", "control"])
def test_malformed_messages_are_answered_or_counted_and_hurt_nobody(
    stack: Stack, socket: str
) -> None:
    makers = list(kinds(socket).items())
    assert len(makers) >= 30
    dice = random.Random(socket)
    before = stack.inspect()
    honest = Honest(stack)
    answers = uncounted = 0
    with honest, zmq.Context() as context:
        for number in range(MESSAGES):
            name, make = makers[number % len(makers)]
            with context.socket(zmq.DEALER) as dealer:
                dealer.linger = 1000
                dealer.connect(stack.endpoints[socket])
                frames, id_ = make(dice)
                dealer.send_multipart(frames)
                if id_ is None:
                    # What comes next on this connection is still understood.
                    uncounted += 1
                    frames, id_ = kinds(socket)["version 2"](dice)
                    dealer.send_multipart(frames)
                assert dealer.poll(20_000), f"no answer to {name}"
                reply = decode(dealer.recv_multipart()[-2], EVERYTHING)
                assert isinstance(reply, Reply), f"{name}: {reply}"
                assert (reply.id, reply.kind) == (id_, Kind.ERROR), name
                assert reply.code != Code.INTERNAL, name
                answers += 1
    after = stack.inspect()
    assert answers == MESSAGES
    assert honest.served > 0
    assert after["epoch"] == before["epoch"], "the broker was restarted"
    assert [w["pid"] for w in after["workers"]] == [w["pid"] for w in before["workers"]]
    malformed = after["counters"]["malformed"] - before["counters"].get("malformed", 0)
    assert malformed >= uncounted
    assert "internal_errors" not in after["counters"]


class Honest:
    """A client that calls all the while, and must never see an error."""

    def __init__(self, stack: Stack) -> None:
        self.served = 0
        self._stack = stack
        self._stopping = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            with self._stack.client() as client:
                while not self._stopping.is_set():
                    value = {"number": self.served}
                    assert client.call("echo", {"value": value}) == value
                    self.served += 1
        except BaseException as failure:
            self._failure = failure

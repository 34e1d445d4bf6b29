"""Questions and commands to the broker itself."""

from __future__ import annotations

import os
from collections.abc import Callable
from time import monotonic, sleep
from typing import Any

import zmq

from falconas import codec
from falconas.client.following import Reloaded, Reloads, supervisors
from falconas.client.link import connect
from falconas.client.verdict import Verdict
from falconas.errors import DeadlineExceeded, Started, Unavailable, error_for
from falconas.protocol import (
    Drain,
    Inspect,
    Kind,
    Malformed,
    Reload,
    Reply,
    decode,
    encode,
)

CONTROL = "tcp://127.0.0.1:5572"
LOOK_INTERVAL = 0.1
LOOK_TIMEOUT = 1.0
WAIT = 600.0

__all__ = ["CONTROL", "Operator", "Reloaded"]


class Operator:
    """Questions and commands to a broker, at its control endpoint.

    Args:
        control: The broker's endpoint for operators.
        timeout: Seconds to wait for its answer.
    """

    def __init__(self, control: str = CONTROL, *, timeout: float = 5.0) -> None:
        self._control = control
        self._timeout = timeout

    def inspect(self) -> dict[str, Any]:
        """Return the broker's report on itself, its workers and its queue."""
        return self._inspect(self._timeout)

    def reload(self, host: str | None = None, *, wait: float = WAIT) -> list[Reloaded]:
        """Let supervisors load their scripts anew; return how it ended for each.

        Args:
            host: Only those of this host; None: all.
            wait: Seconds to wait for the end of it.

        Raises:
            FalconError: The broker refused, or there is no such host.
        """
        before = self.inspect()
        id_ = os.urandom(16)
        answer = self._ask(Reload(id_, _only(host)), self._timeout)
        reloads = Reloads(id_, answer["hosts"], before)
        self._until(lambda report: reloads.look(report, monotonic()), wait)
        return reloads.results()

    def drain(self, host: str | None = None, *, wait: float = 0.0) -> list[str]:
        """Let workers, or the broker, accept no more, finish and stop.

        Args:
            host: The workers of this host; None: the broker.
            wait: Seconds to wait for the end of it; 0: that it was heard is enough.

        Returns:
            The host of each supervisor that was told.

        Raises:
            DeadlineExceeded: It has not ended within `wait`.
            FalconError: The broker refused, or there is no such host.
        """
        before = self.inspect() if wait else {}
        told: list[str] = []
        try:
            answer = self._ask(Drain(os.urandom(16), _only(host)), self._timeout)
            told = [] if host is None else answer["hosts"]
        except Unavailable as error:
            # A broker with nothing to finish may be gone before its answer is here.
            if not wait or host is not None or error.started is Started.NO:
                raise
        if wait and not self._until(lambda report: _left(before, report, host), wait):
            text = f"it still drains after {wait:.0f} s"
            raise DeadlineExceeded(text, started=Started.YES, retry_safe=True)
        return told

    def _until(self, done: Callable[[dict[str, Any]], bool], wait: float) -> bool:
        """Look at reports, an empty one when there is no broker, until it is done."""
        deadline = monotonic() + wait
        while True:
            try:
                if done(self._inspect(min(self._timeout, LOOK_TIMEOUT))):
                    return True
            except Unavailable as error:
                if error.started is Started.NO and done({}):
                    return True
            if monotonic() >= deadline:
                return False
            sleep(LOOK_INTERVAL)

    def _inspect(self, timeout: float) -> dict[str, Any]:
        report: dict[str, Any] = self._ask(Inspect(os.urandom(16), {}), timeout)
        return report

    def _ask(self, message: Inspect | Reload | Drain, timeout: float) -> Any:
        with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
            dealer.set(zmq.IMMEDIATE, 1)
            dealer.set(zmq.LINGER, 0)
            connect(dealer, self._control)
            deadline = monotonic() + timeout
            if not dealer.poll(_milliseconds(deadline), zmq.POLLOUT):
                raise Unavailable(
                    f"no broker at {self._control} after {timeout:.1f} s",
                    retry_safe=True,
                )
            dealer.send_multipart((encode(message), b""))
            while dealer.poll(_milliseconds(deadline)):
                reply = _reply(dealer.recv_multipart(), message.id)
                if reply is not None:
                    return reply.value()
        raise Unavailable(
            f"no answer from {self._control} after {timeout:.1f} s",
            started=Started.UNKNOWN,
            retry_safe=True,
        )


def _only(host: str | None) -> dict[str, Any]:
    return {} if host is None else {"host": host}


def _left(before: dict[str, Any], report: dict[str, Any], host: str | None) -> bool:
    """Tell whether the broker, or the supervisors that a host had, are gone."""
    if host is None:
        return bool(report.get("epoch") != before["epoch"])
    left = {key for key, _ in supervisors(before)} & dict(supervisors(report)).keys()
    return bool(report) and not any(key[0] == host for key in left)


def _milliseconds(deadline: float) -> int:
    return max(0, round((deadline - monotonic()) * 1000))


def _reply(frames: list[bytes], id_: bytes | str) -> Verdict | None:
    """Return what the frames say if they are the reply to `id_`."""
    try:
        header, body = frames
        reply = decode(header, frozenset({Reply}))
        if reply.id != id_:
            return None
        if reply.kind == Kind.OK:
            return Verdict(body, None, reply.extras)
        return Verdict(b"", error_for(reply.code, codec.decode_value(body)), {})
    except (Malformed, ValueError):
        return None

"""Questions and commands to the broker itself."""

from __future__ import annotations

import os
from time import monotonic
from typing import Any

import zmq

from falconas import codec
from falconas.client.calls import Verdict
from falconas.client.link import connect
from falconas.errors import Started, Unavailable, error_for
from falconas.protocol import Drain, Inspect, Kind, Malformed, Reply, decode, encode

CONTROL = "tcp://127.0.0.1:5572"


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
        report: dict[str, Any] = self._ask(Inspect)
        return report

    def drain(self) -> None:
        """Tell the broker to accept no more, to finish and to stop."""
        self._ask(Drain)

    def _ask(self, command: type[Inspect | Drain]) -> Any:
        id_ = os.urandom(16)
        with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
            dealer.set(zmq.IMMEDIATE, 1)
            dealer.set(zmq.LINGER, 0)
            connect(dealer, self._control)
            deadline = monotonic() + self._timeout
            if not dealer.poll(_left(deadline), zmq.POLLOUT):
                raise Unavailable(
                    f"no broker at {self._control} after {self._timeout:.1f} s",
                    retry_safe=True,
                )
            dealer.send_multipart((encode(command(id_, {})), b""))
            while dealer.poll(_left(deadline)):
                reply = _reply(dealer.recv_multipart(), id_)
                if reply is not None:
                    return reply.value()
        raise Unavailable(
            f"no answer from {self._control} after {self._timeout:.1f} s",
            started=Started.UNKNOWN,
            retry_safe=True,
        )


def _left(deadline: float) -> int:
    return max(0, round((deadline - monotonic()) * 1000))


def _reply(frames: list[bytes], id_: bytes) -> Verdict | None:
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

"""Load from a bare DEALER: what two brokers of ZeroMQ are best compared by."""

from __future__ import annotations

import random
from collections.abc import Callable
from time import monotonic
from typing import Any

import zmq

from bench.job import Job, Tally, say
from bench.pieces import ROWS
from bench.works import ECHOES, Mismatch, check, payload

LARGE = 100_000  # from here on a frame is not copied
ID = slice(5, 21)  # in either header: a short array, two small integers, bin of 16


def load(
    job: Job,
    message: Callable[[int], tuple[bytes, bytes, bytes]],
    value: Callable[[bytes, bytes], Any],
) -> dict[str, Any]:
    """Keep so many requests on their way.

    Args:
        job: What to do.
        message: Given a key; returns id, header and body of a request.
        value: Given header and body of a reply; returns what is checked.
    """
    tally, keys = Tally(), random.Random(job.outstanding)
    sent: dict[bytes, tuple[int, float]] = {}
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.linger = 0
        dealer.rcvtimeo = 30_000
        dealer.connect(job.endpoint)

        def send() -> None:
            key = keys.randrange(ROWS)
            id_, header, body = message(key)
            sent[id_] = key, monotonic()
            dealer.send(header, zmq.SNDMORE)
            dealer.send(body, 0, copy=len(body) < LARGE)

        def receive() -> None:
            header, body = dealer.recv(), dealer.recv()
            key, begun = sent.pop(header[ID])
            tally.add(begun, monotonic())
            found = value(header, body)
            if job.work not in ECHOES:
                check(job.work, key, found)
            elif found != payload(job.work, key):
                raise Mismatch(f"echo gave {found[:50]!r}")

        for _ in range(job.outstanding):
            send()
        warm = monotonic() + job.warm
        while monotonic() < warm or len(tally.took) < job.outstanding:
            receive()
            send()
        begun, done = say("begin"), len(tally.took)
        end = begun + job.seconds
        while monotonic() < end or len(tally.took) < done + 2 * job.outstanding:
            receive()
            send()
        ended = say("end")
        while sent:
            receive()
    return tally.figures(begun, ended)

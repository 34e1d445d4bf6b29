"""`zmq.proxy`: libzmq's own loop in C, without any policy; two bare echo workers.

The limit of what a broker with ZeroMQ can do: it keeps no record of a request, knows no
deadline and deals to its workers in turn, busy or not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import zmq

from bench import raw
from bench.job import Job
from bench.peers.base import (
    HOST,
    WORKERS,
    Peer,
    Running,
    free_ports,
    python,
    ready,
    served,
)
from bench.works import ECHOES, payload


class Proxy(Peer):
    """Called by a bare DEALER, with headers of the length of ours."""

    title = "zmq.proxy"
    works = ECHOES

    @contextmanager
    def start(self, folder: Path, dsn: str) -> Iterator[Running]:  # noqa: ARG002
        front, back = (f"tcp://{HOST}:{port}" for port in free_ports(2))
        broker = python("proxy", "broker", front, back)
        worker = python("proxy", "worker", back)
        with served(folder, broker, *[worker] * WORKERS) as (pid, *workers):
            yield Running(front, {"broker": [pid], "workers": workers})

    def load(self, job: Job) -> dict[str, Any]:
        numbers = count()

        def message(key: int) -> tuple[bytes, bytes, bytes]:
            id_ = next(numbers).to_bytes(16, "big")
            header = b"\x96\x01\x03\xc4\x10" + id_ + b"\xa4echo\xcb@>\0\0\0\0\0\0\x80"
            return id_, header, payload(job.work, key)

        return raw.load(job, message, lambda _, body: body)


def main(role: str, *endpoints: str) -> None:
    context = zmq.Context()
    if role == "broker":
        front, back = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
        for each, endpoint in zip((front, back), endpoints, strict=True):
            each.bind(endpoint)
        ready()
        zmq.proxy(front, back)
    worker = context.socket(zmq.DEALER)
    monitor = worker.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
    worker.connect(*endpoints)
    monitor.recv_multipart()
    ready()
    while True:
        while True:
            frame = worker.recv(copy=False)
            more = zmq.SNDMORE if frame.more else 0
            if len(frame) < raw.LARGE:
                worker.send(frame.bytes, more)
            else:
                worker.send(frame, more, copy=False)
            if not more:
                break

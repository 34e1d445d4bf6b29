"""What the broker adds: echo through FalconAS beside `zmq.proxy`, in one run.

Both sides get the same load from the same raw DEALER (100 bytes, so many
outstanding), both have two worker processes. FalconAS runs with every check on: real
workers with a PostgreSQL connection each, deadlines, records, the client's header
decoded and a new one packed. `zmq.proxy` is libzmq's own loop in C without any policy.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import Any, NamedTuple

import zmq

from bench.stack import falconas, processes
from falconas.codec import encode_params
from falconas.protocol import Request, encode

WORKERS = 2
ROUNDS = 3
SECONDS = 2.0
OUTSTANDING = (1, 64)
BODY = encode_params({"value": "x" * 86})
TICKS = os.sysconf("SC_CLK_TCK")

PROXY = """
import sys, zmq
context = zmq.Context()
front, back = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
front.bind(sys.argv[1]); back.bind(sys.argv[2])
zmq.proxy(front, back)
"""
ECHO = """
import sys, zmq
context = zmq.Context()
socket = context.socket(zmq.DEALER)
socket.connect(sys.argv[1])
while True:
    socket.send_multipart(socket.recv_multipart())
"""


class Figure(NamedTuple):
    """One round of one peer."""

    peer: str
    outstanding: int
    per_second: float
    broker_us: float
    p50_us: float
    p99_us: float


class Peer(NamedTuple):
    """Something that echoes: where, and which process is in the middle."""

    name: str
    endpoint: str
    pid: int


def run(rounds: int = ROUNDS) -> list[Figure]:
    """Run all rounds, the peers in turn, and return their figures."""
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="falconas-") as name:
        folder = Path(name)
        with _proxy(folder) as proxy, falconas(folder, WORKERS) as stack:
            ours = Peer("FalconAS", stack.endpoints["frontend"], stack.broker)
            for number in range(rounds):
                for outstanding in OUTSTANDING:
                    figures += [_measure(peer, outstanding) for peer in (proxy, ours)]
                print(f"round {number + 1} of {rounds} done", file=sys.stderr)
    return figures


def table(figures: list[Figure]) -> list[dict[str, Any]]:
    """Return the medians, and FalconAS as a ratio of `zmq.proxy`."""
    rows = []
    for outstanding in OUTSTANDING:
        medians: dict[str, Figure] = {}
        for peer in ("zmq.proxy", "FalconAS"):
            mine = [
                f for f in figures if (f.peer, f.outstanding) == (peer, outstanding)
            ]
            columns = list(zip(*(f[2:] for f in mine), strict=True))
            medians[peer] = Figure(peer, outstanding, *map(statistics.median, columns))
            rows.append({k: _short(v) for k, v in medians[peer]._asdict().items()})
        ours, theirs = medians["FalconAS"], medians["zmq.proxy"]
        ratios = (round(a / b, 2) for a, b in zip(ours[2:], theirs[2:], strict=True))
        rows.append(Figure("ratio", outstanding, *ratios)._asdict())
    return rows


def _short(value: Any) -> Any:
    return round(value, 1) if isinstance(value, float) else value


def _measure(peer: Peer, outstanding: int) -> Figure:
    """Keep so many requests outstanding for some seconds."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.linger = 0
        dealer.connect(peer.endpoint)
        sent: dict[bytes, float] = {}
        took: list[float] = []
        number = 0

        def send() -> None:
            nonlocal number
            number += 1
            id_ = number.to_bytes(16, "big")
            header = encode(Request(id_, "echo", 30.0, {}))
            sent[id_] = monotonic()
            dealer.send(header, zmq.SNDMORE)
            dealer.send(BODY)

        for _ in range(outstanding):
            send()
        cpu, began = _cpu(peer.pid), monotonic()
        now = began
        while now < began + SECONDS:
            header = dealer.recv()
            dealer.recv()
            now = monotonic()
            # The id is the third element of either header: fixarray, two small ints.
            took.append(now - sent.pop(header[5:21]))
            send()
        elapsed, used = monotonic() - began, _cpu(peer.pid) - cpu
        while sent:
            header = dealer.recv()
            dealer.recv()
            del sent[header[5:21]]
    took.sort()
    return Figure(
        peer.name,
        outstanding,
        len(took) / elapsed,
        used / len(took) * 1e6,
        took[len(took) // 2] * 1e6,
        took[len(took) * 99 // 100] * 1e6,
    )


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


@contextmanager
def _proxy(folder: Path) -> Iterator[Peer]:
    front, back = f"ipc://{folder}/proxy-front", f"ipc://{folder}/proxy-back"
    python = [sys.executable, "-c"]
    with processes() as started:
        started.append(subprocess.Popen([*python, PROXY, front, back]))
        started.extend(subprocess.Popen([*python, ECHO, back]) for _ in range(WORKERS))
        sleep(1.0)  # the proxy would give everything to the worker that is first
        yield Peer("zmq.proxy", front, started[0].pid)


def save(figures: list[Figure], path: Path) -> None:
    """Keep the single figures of a run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([f._asdict() for f in figures], indent=1) + "\n")

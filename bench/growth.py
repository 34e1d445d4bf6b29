"""What a request costs the broker while one thing grows and all else stays.

The broker is its real process among peers of `bench.crowd`; its CPU is taken from the
kernel, of the thread of Python and of libzmq's I/O thread. Beside it its core is alone
with the codec, in this process (`bench.rehearsal`), and, where connections grow, its
sockets and its loop are alone among the same peers (`bench.bare`).

A request's CPU is what is beyond that of a broker whose peers are silent. That goes by
the clock (heartbeats), not by requests, and has a column of its own, as what the core
does each second has.

Equal at each size of a row: how many requests are under way, how they are handed on
(each answer brings the next request, by the client whose turn it is), and who else runs
on the machine: all sizes are there at once, and measured in turns.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from time import sleep, thread_time_ns
from typing import Any, NamedTuple
from unittest.mock import patch

import zmq

from bench.crowd import cpu
from bench.rehearsal import BUDGET, DIMENSIONS, MANY, Rehearsal, Scale
from bench.stack import ROOT, processes
from falconas import codec
from falconas.protocol import Inspect, encode

ROUNDS = 9
SECONDS = 1.2
IDLE = 1.0
SETTLE = 0.3
CHUNK = 2000
ATTEMPTS = 5  # a machine that others use may have no time for us
STEPS = 500
CORE_ROUNDS = 9
OURS, BARE = ("falconas.cli", "broker"), ("bench.bare",)
CONNECTIONS = {"workers", "clients"}


Threads = tuple[float, float]  # of Python, of libzmq


class Broken(Exception):
    """The broker lost its peers, or they lost it."""


class Window(NamedTuple):
    """What was measured at once: of the broker's CPU, microseconds by thread."""

    seconds: float
    answered: int
    spent: Threads
    idle: Threads  # in a second in which it stands still

    def thread(self, number: int) -> float:
        """Return the microseconds of a request, beyond what goes by the clock."""
        return (self.spent[number] - self.idle[number] * self.seconds) / self.answered

    def both(self) -> float:
        return self.thread(0) + self.thread(1)


@dataclass
class Figures:
    """What was measured at one size, in each round."""

    dimension: str
    size: int
    windows: list[Window] = field(default_factory=list)
    bare: list[Window] = field(default_factory=list)  # without the broker's decisions
    core: list[float] = field(default_factory=list)  # microseconds for a request
    second: list[float] = field(default_factory=list)  # milliseconds


class Site:
    """A broker, its workers and its clients: a process each."""

    def __init__(
        self, scale: Scale, program: tuple[str, ...], stack: ExitStack
    ) -> None:
        folder = stack.enter_context(_folder())
        names = ("frontend", "backend", "control")
        endpoints = {name: f"ipc://{folder}/{name}" for name in names}
        broker = _broker(program, endpoints)
        self.broker = broker.pid
        stack.callback(broker.wait)
        stack.callback(broker.kill)  # it would wait for what is outstanding
        started = stack.enter_context(processes())
        context = stack.enter_context(zmq.Context())
        self._control = stack.enter_context(context.socket(zmq.DEALER))
        self._control.linger = 0
        self._control.connect(endpoints["control"])
        self.report()
        config = {"endpoints": endpoints, "scale": asdict(scale), "broker": self.broker}
        self._peers: dict[str, subprocess.Popen[bytes]] = {}
        for role in ("workers", "clients"):
            self._peers[role] = _crowd(role, config)
            started.append(self._peers[role])
            self._hear(role)
        self._asked = 0
        # The first one is in the worker's hands, the others wait.
        self._fill("hold", scale.held + 1 if scale.held else 0)
        self._fill("ask", scale.outstanding + scale.waiting)

    def measure(self, seconds: float) -> Window:
        """Let all stand still for some time, and then work.

        Raises:
            Broken: Again and again nothing was answered, or somebody is gone.
        """
        for _ in range(ATTEMPTS):
            window = self._measure(seconds)
            if window.answered:
                return window
        raise Broken

    def _measure(self, seconds: float) -> Window:
        before = cpu(self.broker)
        sleep(IDLE)
        now = cpu(self.broker)
        idle = (now[0] - before[0]) / IDLE / 1e3, (now[1] - before[1]) / IDLE / 1e3
        self._tell("workers", "go")
        self._tell("clients", f"measure {seconds}")
        got = self._hear("clients")
        self._tell("workers", "pause")
        sleep(SETTLE)
        spent = got["loop"] / 1e3, got["io"] / 1e3
        return Window(got["seconds"], got["answered"], spent, idle)

    def report(self) -> dict[str, Any]:
        """Return what the broker says of itself."""
        self._control.send_multipart((encode(Inspect(os.urandom(16), {})), b""))
        _, body = self._control.recv_multipart()
        report: dict[str, Any] = codec.decode_value(body)
        return report

    def _fill(self, word: str, count: int) -> None:
        """Add requests, not more at once than the broker's sockets take."""
        while count:
            some = min(count, CHUNK)
            self._tell("clients", f"{word} {some}")
            count -= some
            self._asked += some
            while self.report()["counters"].get("requests", 0) < self._asked:
                sleep(0.01)

    def _tell(self, role: str, word: str) -> None:
        pipe = self._peers[role].stdin
        assert pipe is not None
        try:
            pipe.write(f"{word}\n".encode())
            pipe.flush()
        except BrokenPipeError:
            raise Broken from None

    def _hear(self, role: str) -> dict[str, Any]:
        pipe = self._peers[role].stdout
        assert pipe is not None
        line = pipe.readline()
        if not line:
            raise Broken
        figures: dict[str, Any] = json.loads(line)
        return figures


def run(
    names: list[str] | None = None, rounds: int = ROUNDS, seconds: float = SECONDS
) -> list[Figures]:
    """Measure each dimension, its sizes in turns."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    found = []
    for name in names or DIMENSIONS:
        figures = [Figures(name, getattr(s, name)) for s in DIMENSIONS[name]]
        _broker_rounds(name, figures, rounds, seconds)
        _core_rounds(name, figures)
        print(f"{name} done", file=sys.stderr)
        found += figures
    return found


def table(figures: list[Figures]) -> list[dict[str, Any]]:
    """Return the medians, and the CPU as a ratio of the smallest size's."""
    return [
        {"what": each.dimension, "size": each.size, **_cells(each, small)}
        for each in figures
        for small in [next(f for f in figures if f.dimension == each.dimension)]
    ]


def _cells(mine: Figures, small: Figures) -> dict[str, Any]:
    core, second = min(mine.core), min(mine.second)
    cells = {
        **_bare_cells(mine.bare, small.bare),
        "core_us": round(core, 1),
        "core_ratio": round(core / min(small.core), 2),
        "second_ms": round(second, 2),
    }
    windows = mine.windows
    if len(windows) < len(small.windows) or not windows:
        return {"requests/s": "broken", **cells}
    return {
        "requests/s": round(median(w.answered / w.seconds for w in windows)),
        "broker_us": round(median(w.both() for w in windows), 1),
        "ratio": _ratio(windows, small.windows),
        "python_us": round(median(w.thread(0) for w in windows), 1),
        "io_us": round(median(w.thread(1) for w in windows), 1),
        "idle_ms": round(median(sum(w.idle) for w in windows) / 1e3, 1),
        **cells,
    }


def _bare_cells(mine: list[Window], small: list[Window]) -> dict[str, Any]:
    if len(mine) < len(small) or not mine:
        return {"bare_us": "", "bare_ratio": ""}
    return {
        "bare_us": round(median(w.both() for w in mine), 1),
        "bare_ratio": _ratio(mine, small),
    }


def _ratio(mine: list[Window], small: list[Window]) -> float:
    """Return the median of the rounds' ratios."""
    pairs = zip(mine, small, strict=True)
    return round(median(a.both() / b.both() for a, b in pairs), 2)


def save(figures: list[Figures], path: Path) -> None:
    """Keep the single figures of a run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(f) for f in figures], indent=1) + "\n")


def _broker_rounds(
    name: str, figures: list[Figures], rounds: int, seconds: float
) -> None:
    with ExitStack() as stack:
        sites: list[tuple[Site, list[Window]]] = []
        for scale, mine in zip(DIMENSIONS[name], figures, strict=True):
            with suppress(Broken):
                sites.append((Site(scale, OURS, stack), mine.windows))
            if name in CONNECTIONS:
                with suppress(Broken):
                    sites.append((Site(scale, BARE, stack), mine.bare))
        for _ in range(rounds):
            for site, windows in sites:
                with suppress(Broken):
                    windows.append(site.measure(seconds))


def _core_rounds(name: str, figures: list[Figures]) -> None:
    rehearsals = [Rehearsal(scale) for scale in DIMENSIONS[name]]
    for _ in range(CORE_ROUNDS):
        for rehearsal, mine in zip(rehearsals, figures, strict=True):
            mine.core.append(_core_us(rehearsal))
            began = thread_time_ns()
            rehearsal.second()
            mine.second.append((thread_time_ns() - began) / 1e6)


def _core_us(rehearsal: Rehearsal) -> float:
    """Return the microseconds of what the broker does for a request."""
    spent = 0
    feed = rehearsal.feed

    def timed(*message: Any) -> Any:
        nonlocal spent
        began = thread_time_ns()
        out = feed(*message)
        spent += thread_time_ns() - began
        return out

    with patch.object(rehearsal, "feed", timed):
        for _ in range(STEPS):
            rehearsal.step()
    return spent / STEPS / 1e3


def _broker(
    program: tuple[str, ...], endpoints: dict[str, str]
) -> subprocess.Popen[bytes]:
    options = {
        **endpoints,
        "queue_requests": str(MANY),
        "queue_bytes": str(1000 * MANY),
        "client_requests": str(MANY),
        "budget": str(BUDGET),
    }
    environ = {
        **os.environ,
        **{f"FALCONAS_BROKER__{key.upper()}": value for key, value in options.items()},
        "FALCONAS_LOG__LEVEL": "warning",
        "PYTHONPATH": str(ROOT),
    }
    return subprocess.Popen([sys.executable, "-m", *program], env=environ)


def _crowd(role: str, config: dict[str, Any]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "bench.crowd", role, json.dumps(config)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
    )


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="falconas-") as name:
        yield Path(name)

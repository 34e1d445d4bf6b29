"""What processes spent: CPU and context switches, from /proc.

A process is counted with all its descendants. The scheduler's own clock counts
nanoseconds, but forgets a thread or a process that has ended; where one did, ticks are
taken instead, which a parent inherits.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

TICK = 1 / os.sysconf("SC_CLK_TCK")
SWITCHES = re.compile(r"ctxt_switches:\s+(\d+)")


class Reading(NamedTuple):
    """What processes and their descendants had spent at one moment.

    Attributes:
        ticks: CPU seconds of all, those of children that are gone included.
        inherited: CPU seconds of children that are gone.
        threads: CPU seconds and context switches by thread.
    """

    ticks: float
    inherited: float
    threads: dict[str, tuple[float, int]]


def read(roots: Iterable[int]) -> Reading:
    """Look at processes and their descendants.

    Raises:
        ProcessLookupError: None of them is there.
    """
    found = tree(roots)
    if not found:
        raise ProcessLookupError("a process that is measured has ended")
    threads: dict[str, tuple[float, int]] = {}
    for pid in found:
        threads |= _threads(pid)
    own, inherited = (sum(each) for each in zip(*found.values(), strict=True))
    return Reading(own + inherited, inherited, threads)


def tree(roots: Iterable[int]) -> dict[int, tuple[float, float]]:
    """Return processes and their descendants: CPU seconds, own and inherited ones."""
    stats = _stats()
    children: dict[int, list[int]] = {}
    for pid, (parent, _, _) in stats.items():
        children.setdefault(parent, []).append(pid)
    found: dict[int, tuple[float, float]] = {}
    left = list(roots)
    while left:
        pid = left.pop()
        if pid in stats:
            found[pid] = stats[pid][1:]
        left += children.get(pid, ())
    return found


def machine() -> Reading:
    """Look at all that runs on this machine."""
    fields = Path("/proc/stat").read_text().split(maxsplit=9)[1:9]
    user, nice, system, _, _, irq, softirq, steal = map(int, fields)
    ticks = (user + nice + system + irq + softirq + steal) * TICK
    return Reading(ticks, 0.0, {"cpu": (ticks, 0)})


def between(before: Reading, after: Reading) -> tuple[float, int]:
    """Return the CPU seconds and the context switches between two readings."""
    ran = switched = 0.0
    for thread, (seconds, switches) in after.threads.items():
        earlier = before.threads.get(thread, (0.0, 0))
        ran += seconds - earlier[0]
        switched += switches - earlier[1]
    ended = not before.threads.keys() <= after.threads.keys()
    if ended or after.inherited > before.inherited:
        ran = after.ticks - before.ticks
    return ran, int(switched)


def _stats() -> dict[int, tuple[int, float, float]]:
    """Return the parent of each process, what it spent and what it inherited."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        pid = int(path.parent.name)
        user, system, children_user, children_system = map(int, fields[11:15])
        inherited = (children_user + children_system) * TICK
        found[pid] = int(fields[1]), (user + system) * TICK, inherited
    return found


def _threads(pid: int) -> dict[str, tuple[float, int]]:
    found = {}
    for path in Path(f"/proc/{pid}/task").glob("[0-9]*"):
        try:
            ran = int((path / "schedstat").read_text().split()[0])
            switches = map(int, SWITCHES.findall((path / "status").read_text()))
        except OSError:
            continue
        found[str(path)] = ran / 1e9, sum(switches)
    return found

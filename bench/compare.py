"""Ours and the peers side by side.

All are started once and are idle while another is measured; each kind of request goes
round all of them before the next one does, and all rounds are interleaved, so that what
the machine does meanwhile hits all alike. The load generator is a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Timer
from typing import Any, NamedTuple

from psycopg import sql

from bench import priority, spent
from bench.peers import PEERS
from bench.peers.base import Running
from bench.pieces import make_table
from bench.stack import ROOT, postgres
from bench.works import DATABASE, WORKS

PATIENCE = 60.0  # of a load generator, beyond its time
DATABASE_ROLE, MACHINE = "database", "machine"


class Cell(NamedTuple):
    """What is measured once a round."""

    peer: str
    work: str
    outstanding: int


class Times(NamedTuple):
    """How long, in seconds, and how often."""

    warm: float = 0.3
    seconds: float = 1.0
    rounds: int = 3


class Sample(NamedTuple):
    """What one round showed.

    Attributes:
        requests: How many ended in so many `seconds`.
        cpu: Seconds, by role; so are the context switches.
        others: CPU seconds of all that is not ours.
    """

    peer: str
    work: str
    outstanding: int
    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    cpu: dict[str, float]
    switches: dict[str, int]
    others: float


class Outcome(NamedTuple):
    """A whole run.

    Attributes:
        samples: Of all rounds.
        skipped: Why a peer was not measured.
        failed: What went wrong, by peer, work and outstanding.
    """

    samples: list[Sample]
    skipped: dict[str, str]
    failed: dict[str, str]


def grid(
    peers: Iterable[str] = PEERS,
    works: Iterable[str] = WORKS,
    outstanding: Iterable[int] = (),
) -> list[Cell]:
    """Return all cells of some peers, works and numbers of outstanding requests."""
    counts = set(outstanding)
    return [
        Cell(peer, work, count)
        for work in works
        for level in WORKS[work].outstanding
        for peer in peers
        if work in PEERS[peer].works and (not counts or level in counts)
        for count in _counts(peer, work, level, counts)
    ]


def _counts(peer: str, work: str, level: int, counts: set[int]) -> tuple[int, ...]:
    """Return the level, or once for each work the number that the peer always has."""
    mine = [each for each in WORKS[work].outstanding if not counts or each in counts]
    fixed = PEERS[peer].outstanding
    return (fixed if level == mine[-1] else ()) if fixed else (level,)


def run(cells: list[Cell], times: Times, nice: int = 0) -> Outcome:
    """Measure, and say how far it is; `nice` is for all that is started."""
    outcome = Outcome([], {}, {})
    table = any(cell.work in DATABASE for cell in cells)
    with (
        tempfile.TemporaryDirectory(prefix="falconas-") as name,
        ExitStack() as stack,
    ):
        if nice:
            stack.callback(priority.take, 0, [os.getpid()])
            priority.take(nice, [os.getpid()])
        dsn, pid = stack.enter_context(database(Path(name), table=table))
        running: dict[str, Running] = {}
        for peer in dict.fromkeys(cell.peer for cell in cells):
            owner = PEERS[peer].servers or peer
            try:
                if owner not in running:
                    say(f"starting {owner}")
                    running[owner] = start(owner, Path(name), dsn, stack)
                running[peer] = running[owner]
            except Exception as error:
                outcome.skipped[peer] = str(error) or repr(error)
        if nice:  # PostgreSQL's is a session of its own, not below us in the tree
            priority.take(nice, [os.getpid(), pid])
        cells = [cell for cell in cells if cell.peer in running]
        total = len(cells) * times.rounds
        for number in range(total):
            cell = cells[number % len(cells)]
            turn = number // len(cells) + 1
            label = f"{cell.peer} {cell.work} @{cell.outstanding}"
            if label in outcome.failed:
                continue
            say(f"{number + 1} of {total}: round {turn} of {times.rounds}, {label}")
            try:
                found = measure(cell, running[cell.peer], pid, times)
            except Exception as error:
                say(f"failed: {error}")
                outcome.failed[label] = str(error) or repr(error)
            else:
                outcome.samples.append(found)
    return outcome


def start(peer: str, folder: Path, dsn: str, stack: ExitStack) -> Running:
    """Start a peer in a folder of its own.

    Raises:
        RuntimeError: It cannot run here.
    """
    if missing := PEERS[peer].missing():
        raise RuntimeError(missing)
    own = folder / peer
    own.mkdir()
    return stack.enter_context(PEERS[peer].start(own, dsn))


@contextmanager
def database(folder: Path, *, table: bool) -> Iterator[tuple[str, int]]:
    """Start PostgreSQL, with the table if asked; yields conninfo and postmaster."""
    say("starting PostgreSQL")
    with postgres(folder / "postgres", max_connections="600") as server:
        dsn = server.create_database("bench")
        if table:
            make_table(dsn)
        ((data,),) = server.execute(sql.SQL("SHOW data_directory"))
        yield dsn, int((Path(data) / "postmaster.pid").read_text().split()[0])


def measure(cell: Cell, running: Running, database: int, times: Times) -> Sample:
    """Have the load generator run once.

    Raises:
        RuntimeError: It failed: with its message.
    """
    numbers = (str(cell.outstanding), str(times.warm), str(times.seconds))
    command = [sys.executable, "-m", "bench.load", cell.peer, running.endpoint]
    with (
        tempfile.TemporaryFile("w+") as complaints,
        subprocess.Popen(
            [*command, cell.work, *numbers],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=complaints,
            text=True,
        ) as process,
    ):
        late = Timer(times.warm + times.seconds + PATIENCE, process.kill)
        late.start()
        try:
            roles = _roles(cell.peer, running, database, process.pid)
            readings, answer = _listen(process, roles)
        finally:
            late.cancel()
            process.kill()
        complaints.seek(0)
        *_, complaint = ["no answer", *complaints.read().splitlines()]
    found = json.loads(answer or "{}")
    if "requests" not in found:
        raise RuntimeError(f"{found.get('error', 'the load ended')}; {complaint}")
    before, after = readings
    used = {role: spent.between(before[role], after[role]) for role in before}
    whole, _ = used.pop(MACHINE)
    cpu = {role: seconds for role, (seconds, _) in used.items()}
    return Sample(
        *cell,
        **found,
        cpu=cpu,
        switches={role: count for role, (_, count) in used.items()},
        others=max(0.0, whole - sum(cpu.values())),
    )


def _listen(
    process: subprocess.Popen[str], roles: Mapping[str, list[int]]
) -> tuple[list[dict[str, spent.Reading]], str]:
    """Look at what is spent when the load generator says so; return its answer too."""
    assert process.stdout is not None
    readings = []
    while (line := process.stdout.readline()) in {"begin\n", "end\n"}:
        reading = {role: spent.read(pids) for role, pids in roles.items()}
        readings.append({**reading, MACHINE: spent.machine()})
    process.wait()
    return readings, line


def _roles(
    peer: str, running: Running, database: int, client: int
) -> Mapping[str, list[int]]:
    pids = {role: list(each) for role, each in running.pids.items()}
    pids.setdefault(PEERS[peer].client, []).append(client)
    return {**pids, DATABASE_ROLE: [database]}


def say(line: str) -> None:
    """Show how far it is."""
    print(line, file=sys.stderr, flush=True)


def save(outcome: Outcome, path: Path) -> None:
    """Keep the single figures of a run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kept: dict[str, Any] = outcome._asdict()
    kept["samples"] = [sample._asdict() for sample in outcome.samples]
    path.write_text(json.dumps(kept, indent=1) + "\n")


def load(path: Path) -> Outcome:
    """Return what was kept."""
    kept = json.loads(path.read_text())
    kept["samples"] = [Sample(**each) for each in kept["samples"]]
    return Outcome(**kept)

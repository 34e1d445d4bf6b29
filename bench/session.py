"""What a request costs a worker and its PostgreSQL backend, without any broker.

    python -m bench.session                      # this tree beside bare psycopg
    python -m bench.session --against ../other   # and beside another tree of FalconAS
    python -m bench.session --steps one_row      # what each step of a request costs
    python -m bench.session --profile one_row    # the same by function, with cProfile

One process for each peer, all on the same PostgreSQL, which take turns: rounds are
interleaved. CPU is the kernel's own count. The peer `psycopg`, to which the ratios are,
does the same in the same transaction, puts the session back in the same way, and does
nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from itertools import count
from math import nan
from pathlib import Path
from typing import Any, NamedTuple

import psycopg

from bench import pieces
from falconas import Context, script
from falconas.codec import encode_params
from falconas.database.session import Session
from falconas.protocol import Request
from falconas.worker import attempt, runner
from falconas.worker.declaration import Script, declared
from falconas.worker.interrupt import Interrupts
from falconas.worker.runner import Runner
from falconas.worker.scripts import Library
from falconas.worker.slot import NoSlot

ROOT = Path(__file__).parents[1]
REQUESTS = 160
ROUNDS = 12
STEP_REQUESTS = 20
WRITTEN = "UPDATE mark SET number = %s WHERE id = 1"
BEGIN = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
SWEEP = (
    b"SET SESSION AUTHORIZATION DEFAULT; RESET ROLE; RESET ALL; CLOSE ALL; UNLISTEN *;"
    b" DISCARD TEMP; DISCARD SEQUENCES;"
    b" SELECT pg_catalog.pg_advisory_unlock_all(), pg_catalog.setseed(0.5)"
)


def nothing(_db: Any, key: int) -> int:
    """Touch no database."""
    return key


def write(db: Any, key: int) -> int:
    """Change one row."""
    return int(db.execute(WRITTEN, [key]).rowcount)


class Steps:
    """What `--steps` can get hold of."""

    @staticmethod
    def script(name: str, ctx: Context, key: int) -> Any:
        """Do a piece."""
        return PIECES[name](ctx.db, key)


PIECES: dict[str, Callable[[Any, int], Any]] = {
    "nothing": nothing,
    "one_row": pieces.one_row,
    "gathered": pieces.gathered,
    "pipelined": pieces.pipelined,
    "write": write,
}


class Sample(NamedTuple):
    """One round of one peer; microseconds for each request."""

    peer: str
    piece: str
    worker: float
    backend: float
    wall: float


def bare(dsn: str) -> Iterator[Callable[[str, int], object]]:
    """Do the pieces with psycopg alone: what could be saved at most."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection  # type: ignore[misc]  # the first item: whom to watch

        def serve(piece: str, key: int) -> object:
            if piece == "nothing":
                return nothing(connection, key)
            connection.execute("BEGIN READ WRITE" if piece == "write" else BEGIN)
            result = PIECES[piece](connection, key)
            connection.pgconn.exec_(b"COMMIT; " + SWEEP)
            return result

        yield serve


def ours(dsn: str) -> Iterator[Callable[[str, int], object]]:
    """Do the pieces as scripts."""
    with closing(Session.connect(dsn)) as session:
        yield session._connection  # type: ignore[misc]  # noqa: SLF001
        library = Library({name: _script(name) for name in PIECES})
        interrupts = Interrupts()
        interrupts.install()
        serving = Runner(library, session, NoSlot(), interrupts=interrupts)
        late = hasattr(serving, "begin_reset")  # other trees may have none

        def serve(piece: str, key: int) -> object:
            request = Request(key.to_bytes(16, "big"), piece, 30.0, {"accept": ["ext"]})
            body = encode_params({"key": key})
            outcome = serving.run(request, body, time.monotonic() + 30.0)
            if outcome.code:
                raise RuntimeError(outcome.body)
            if late:
                serving.begin_reset()
            else:
                serving.reset()
            return outcome

        yield serve
        interrupts.uninstall()


def _script(name: str) -> Script:
    @script(access="write" if name == "write" else "read")
    def run(ctx: Context, key: int) -> Any:
        return Steps.script(name, ctx, key)

    return declared(run, name=name)


PEERS = {"psycopg": bare, "falconas": ours}


def child(peer: str, dsn: str) -> None:
    """Do a round for each line `PIECE REQUESTS` and answer with its figures."""
    items: Iterator[Any] = PEERS[peer](dsn)
    connection = next(items)
    backend = Path(f"/proc/{connection.info.backend_pid}/schedstat")
    serve = next(items)
    keys = count(1)
    print("ready", flush=True)
    for line in sys.stdin:
        piece, number = line.split()
        try:
            serve(piece, next(keys))
        except (AttributeError, RuntimeError) as error:  # it has no such thing
            print(json.dumps(str(error)), flush=True)
            continue
        for _ in range(20):
            serve(piece, next(keys))
        before = _look(backend)
        for _ in range(int(number)):
            serve(piece, next(keys))
        after = _look(backend)
        figures = [
            (b - a) / int(number) / 1000 for a, b in zip(before, after, strict=True)
        ]
        print(json.dumps(figures), flush=True)


def _look(backend: Path) -> tuple[int, int, int]:
    used = int(backend.read_text().split()[0])
    return time.process_time_ns(), used, time.perf_counter_ns()


@contextmanager
def peer(kind: str, dsn: str, tree: Path) -> Iterator[Callable[[str, int], Any]]:
    """Start a peer's process with the code of a tree."""
    process = subprocess.Popen(
        [sys.executable, "-P", __file__, "--child", kind, "--dsn", dsn],
        env={**os.environ, "PYTHONPATH": str(tree)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        lines, answers = process.stdin, process.stdout
        assert answers.readline() == "ready\n"

        def ask(piece: str, number: int) -> Any:
            print(piece, number, file=lines, flush=True)
            return json.loads(answers.readline())

        yield ask


def run(
    dsn: str, names: list[str], trees: dict[str, Path], rounds: int, requests: int
) -> list[Sample]:
    """Run all rounds, the peers in turn."""
    samples = []
    with ExitStack() as stack:
        peers = {"psycopg": stack.enter_context(peer("psycopg", dsn, ROOT))}
        for name, tree in trees.items():
            peers[name] = stack.enter_context(peer("falconas", dsn, tree))
        for _ in range(rounds):
            for piece in names:
                each = requests // 8 if piece in {"gathered", "pipelined"} else requests
                for name, ask in peers.items():
                    figures = ask(piece, each)
                    if not isinstance(figures, str):
                        samples.append(Sample(name, piece, *figures))
    return samples


def table(samples: list[Sample]) -> str:
    """Return the figures of each piece and peer, and their ratios to psycopg's."""
    lines = [
        "| piece | peer | worker µs | backend µs | wall µs | worker | backend | wall |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    found: dict[str, dict[str, list[Sample]]] = {}
    for sample in samples:
        columns = found.setdefault(sample.piece, {}).setdefault(sample.peer, [])
        columns.append(sample)
    for piece, peers in found.items():
        cells = {name: _typical(each) for name, each in peers.items()}
        for name, figures in cells.items():
            ratios = [
                a / b if b >= 1 else nan
                for a, b in zip(figures, cells["psycopg"], strict=True)
            ]
            shown = [f"{f:.0f}" for f in figures] + [f"{r:.2f}" for r in ratios]
            lines.append(f"| {piece} | {name} | {' | '.join(shown)} |")
    return "\n".join(lines)


def _typical(samples: list[Sample]) -> list[float]:
    """Return lower quartiles: what others do on the machine only ever adds."""
    columns = zip(*(sample[2:] for sample in samples), strict=True)
    return [sorted(column)[len(column) // 4] for column in columns]


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--against", action="append", default=[], type=Path)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--requests", type=int, default=REQUESTS)
    parser.add_argument("--pieces", nargs="*", default=list(PIECES))
    parser.add_argument("--profile", choices=PIECES)
    parser.add_argument("--steps", choices=PIECES)
    parser.add_argument("--dsn", default="")
    parser.add_argument("--child", choices=PEERS)
    given = parser.parse_args()
    if given.child:
        child(given.child, given.dsn)
        return
    with database(given.dsn) as dsn:
        if given.steps:
            print(steps(dsn, given.steps, 4 * given.rounds))
            return
        if given.profile:
            profile(dsn, given.profile, given.requests)
            return
        trees = {"falconas": ROOT} | {
            tree.resolve().name: tree for tree in given.against
        }
        print(table(run(dsn, given.pieces, trees, given.rounds, given.requests)))


STEPS: list[tuple[str, Any, str]] = [
    ("all of `Runner.run`", Runner, "run"),
    ("unpack the parameters", attempt, "decode_params"),
    ("check and convert them", Script, "bind"),
    ("BEGIN of a write, and its answer", Session, "begin_write"),
    ("the script", Steps, "script"),
    ("its statements, and their answers", Session, "execute"),
    ("pack the result", runner, "encode_result"),
    ("look at the transaction", Session, "verify"),
    ("COMMIT of a write, and its answer", Session, "commit"),
    ("send the reset", Runner, "begin_reset"),
    ("read its answer", Runner, "finish_reset"),
]


def steps(dsn: str, piece: str, rounds: int) -> str:
    """Return a table of the CPU that each step takes; steps are measured in turn."""
    items: Iterator[Any] = ours(dsn)
    next(items)
    serve = next(items)
    keys = count(1)
    took: dict[str, list[int]] = {name: [] for name, *_ in STEPS}
    for _ in range(rounds):
        for name, owner, attribute in STEPS:
            plain = getattr(owner, attribute)
            setattr(owner, attribute, _timed(plain, took[name]))
            for _ in range(STEP_REQUESTS):
                serve(piece, next(keys))
            setattr(owner, attribute, plain)
    lines = ["| step | CPU µs | times |", "|---|---:|---:|"]
    for name, found in took.items():
        if found:
            each = sorted(found)[len(found) // 4] / 1000
            times = len(found) / (rounds * STEP_REQUESTS)
            lines.append(f"| {name} | {each:.0f} | {times:.0f} |")
    return "\n".join(lines)


def _timed(step: Callable[..., Any], took: list[int]) -> Callable[..., Any]:
    def timed(*args: Any, **named: Any) -> Any:
        began = time.process_time_ns()
        try:
            return step(*args, **named)
        finally:
            took.append(time.process_time_ns() - began)

    return timed


def profile(dsn: str, piece: str, requests: int) -> None:
    """Print the functions that a request spends its time in."""
    import cProfile
    import pstats

    items: Iterator[Any] = ours(dsn)
    next(items)
    serve = next(items)
    for key in range(50):
        serve(piece, key)
    found = cProfile.Profile()
    found.enable()
    for key in range(requests):
        serve(piece, key)
    found.disable()
    pstats.Stats(found).sort_stats("tottime").print_stats(45)


@contextmanager
def database(dsn: str) -> Iterator[str]:
    """Use a database that is there, or start one of which nothing stays."""
    if dsn:
        yield dsn
        return
    from bench.stack import postgres

    with (
        tempfile.TemporaryDirectory(prefix="falconas-") as name,
        postgres(Path(name)) as server,
    ):
        prepare(server.dsn())
        yield server.dsn()


def prepare(dsn: str) -> None:
    """Make the tables."""
    pieces.make_table(dsn)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE mark (id int PRIMARY KEY, number int)")
        connection.execute("INSERT INTO mark VALUES (1, 0)")


if __name__ == "__main__":
    main()

"""Two loops with a connection each and no broker: the limit of what a worker can do.

*Bare*: the statements and nothing else. *With reset*: in the transaction that a read of
FalconAS has, begun in the round trip of the first statement, and with the messages that
put its session back afterwards, as `falconas.database.reset` makes them.
"""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import psycopg

from bench.job import Job, Tally, say
from bench.peers.base import WORKERS, Peer, Running, python
from bench.pieces import PIECES, ROWS
from bench.stack import ROOT, processes
from bench.works import DATABASE, check
from falconas.database.reset import SOFT, Sweep
from falconas.database.transaction import BEGIN_READ

Piece = Callable[[Any, int], Any]


class Direct(Peer):
    """The load generator starts the loops: they are the workers."""

    works = DATABASE
    outstanding = (WORKERS,)
    client = "workers"

    def __init__(self, form: str) -> None:
        self.form = form
        self.title = f"direct psycopg, {form}"

    @contextmanager
    def start(self, folder: Path, dsn: str) -> Iterator[Running]:  # noqa: ARG002
        yield Running(dsn, {})

    def load(self, job: Job) -> dict[str, Any]:
        command = python("direct", self.form, job.endpoint, job.work)
        with processes() as started:
            for number in range(WORKERS):
                arguments = [str(number), str(job.warm), str(job.seconds)]
                started.append(
                    subprocess.Popen(
                        [*command, *arguments], cwd=ROOT, stdout=subprocess.PIPE
                    )
                )
            answers = []
            for word in (b"begin\n", b"end\n"):
                for each in started:
                    assert each.stdout is not None
                    if each.stdout.readline() != word:
                        raise RuntimeError(f"a loop ended before its {word!r}")
                answers.append(say(word.decode().strip()))
            begun, ended = answers
            tally = Tally()
            for each in started:
                assert each.stdout is not None
                for at, took in json.loads(each.stdout.read()):
                    tally.add(at - took, at)
        return tally.figures(begun, ended)


class Joined:
    """A connection whose first statement travels with the BEGIN before it."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        self._cursor: psycopg.Cursor[Any] | None = None
        self._begun = False

    def cursor(self, **options: Any) -> Joined:
        self._cursor = self._connection.cursor(**options)
        return self

    def execute(self, query: str, values: list[Any]) -> psycopg.Cursor[Any]:
        cursor = self._cursor or self._connection.cursor()
        if self._begun:
            return cursor.execute(query, values)
        self._begun = True
        with self._connection.pipeline():
            self._connection.execute(BEGIN_READ)
            cursor.execute(query, values)
        return cursor

    @contextmanager
    def pipeline(self) -> Iterator[None]:
        with self._connection.pipeline():
            self._connection.execute(BEGIN_READ)
            self._begun = True
            yield


def with_reset(piece: Piece) -> Piece:
    """Run a piece of work as FalconAS does."""

    def run(connection: psycopg.Connection[Any], key: int) -> Any:
        value = piece(Joined(connection), key)
        for message in Sweep(SOFT, touched=True).messages(b"COMMIT"):
            connection.pgconn.exec_(message)
        return value

    return run


FORMS: dict[str, Callable[[Piece], Piece]] = {
    "bare": lambda piece: piece,
    "with reset": with_reset,
}


def main(form: str, dsn: str, work: str, number: str, warm: str, seconds: str) -> None:
    """One loop; it runs on until both had the whole time."""
    keys, tally = random.Random(int(number)), Tally()
    run = FORMS[form](PIECES[work])
    with psycopg.connect(dsn, autocommit=True) as connection:

        def until(end: float) -> None:
            while True:
                key = keys.randrange(ROWS)
                begun = monotonic()
                value = run(connection, key)
                ended = monotonic()
                tally.add(begun, ended)
                check(work, key, value)
                if ended >= end:
                    return

        until(monotonic() + float(warm))
        say("begin")
        until(monotonic() + float(seconds))
        say("end")
        until(monotonic() + 0.1)
    print(json.dumps(list(zip(tally.ended, tally.took, strict=True))))

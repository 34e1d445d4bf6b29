"""Interrupts at random moments: the connection is sound or replaced, no row wrong."""

from __future__ import annotations

import json
import logging
import random
import time
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from falconas.codec import decode_value
from falconas.errors import Code
from falconas.protocol import Kind
from tests.integration.worker.interruptible import Stage, make_library, value

if TYPE_CHECKING:
    from pathlib import Path

    from falconas.worker.interrupt import Cause
    from falconas.worker.runner import Outcome

WRITES = {
    "insert": """
        def run(ctx, nonce: int):
            ctx.db.execute("INSERT INTO item VALUES (%s)", (nonce,))
            return ctx.db.execute("SELECT id FROM item WHERE id = %s", (nonce,)
                                  ).fetchone()
    """,
    "many": """
        def run(ctx, nonce: int):
            ctx.db.executemany("INSERT INTO part VALUES (%s, %s)",
                               [(nonce, i) for i in range(50)])
            ctx.db.execute("INSERT INTO item VALUES (%s)", (nonce,))
            return [ctx.db.execute("SELECT min(nonce) FROM part WHERE nonce = %s"
                                   " HAVING count(*) = 50", (nonce,)).fetchone()[0]]
    """,
    "returning": """
        def run(ctx, nonce: int):
            cursor = ctx.db.cursor()
            cursor.executemany("INSERT INTO part VALUES (%s, %s) RETURNING nonce + n",
                               [(nonce, i) for i in range(20)], returning=True)
            found = [c.fetchone()[0] for c in cursor.results()]
            assert found == [nonce + i for i in range(20)], found
            ctx.db.execute("INSERT INTO item VALUES (%s)", (nonce,))
            return [nonce]
    """,
    "savepoint": """
        import psycopg
        def run(ctx, nonce: int):
            with ctx.db.transaction():
                ctx.db.execute("INSERT INTO item VALUES (%s)", (nonce,))
                with ctx.db.transaction() as inner:
                    ctx.db.execute("INSERT INTO item VALUES (%s)", (-nonce,))
                    raise psycopg.Rollback(inner)
                with ctx.db.transaction():
                    ctx.db.execute("INSERT INTO part VALUES (%s, 0)", (nonce,))
            return ctx.db.execute("SELECT max(nonce) FROM part WHERE nonce = %s",
                                  (nonce,)).fetchone()
    """,
    "copy_in": """
        def run(ctx, nonce: int):
            with ctx.db.copy("COPY part FROM STDIN") as copy:
                for i in range(300): copy.write_row((nonce, i))
            ctx.db.execute("INSERT INTO item VALUES (%s)", (nonce,))
            return ctx.db.execute("SELECT max(nonce) FROM part WHERE nonce = %s",
                                  (nonce,)).fetchone()
    """,
    "own_end": """
        def run(ctx, nonce: int):
            ctx.db.execute("INSERT INTO item VALUES (%s)", (nonce,))
            ctx.db.execute("COMMIT AND CHAIN")
            return ctx.db.execute("SELECT %s::int", (nonce,)).fetchone()
    """,
    "leaves": """
        def run(ctx, nonce: int):
            ctx.db.execute("SET my.tenant = 'someone'; SET work_mem = '1MB'")
            ctx.db.execute("CREATE TEMP TABLE secret AS SELECT 1 AS x")
            ctx.db.execute("SELECT pg_advisory_lock(7)")
            ctx.db.execute("LISTEN news")
            ctx.db.execute("INSERT INTO item VALUES (%s)", (nonce,))
            return ctx.db.execute("SELECT %s::int", (nonce,)).fetchone()
    """,
    "swallow": """
        def run(ctx, nonce: int):
            try:
                ctx.db.execute("INSERT INTO item VALUES (%s)", (nonce,))
                for _ in range(5): ctx.db.execute("SELECT %s::int", (nonce,))
            except: pass
            try:
                ctx.db.execute("INSERT INTO part VALUES (%s, 1)", (nonce,))
            except: pass
            return [nonce]
    """,
}
READS = {
    "select": """
        @script(access="read")
        def run(ctx, nonce: int):
            return ctx.db.execute("SELECT %s::int", (nonce,)).fetchone()
    """,
    "prepared": """
        @script(access="read")
        def run(ctx, nonce: int):
            for i in range(8):
                (got,) = ctx.db.execute("SELECT %s::int + 1", (nonce + i,),
                                        prepare=True).fetchone()
                assert got == nonce + i + 1, (got, nonce + i + 1)
            # New ones as well: some are in the middle of being prepared.
            (got,) = ctx.db.execute(f"SELECT %s::int - {nonce % 50}", (nonce,),
                                    prepare=True).fetchone()
            assert got == nonce - nonce % 50
            return [nonce]
    """,
    "autocommit": """
        @script(access="read", snapshot=False)
        def run(ctx, nonce: int):
            for i in range(5):
                (got,) = ctx.db.execute("SELECT %s::int + 2", (nonce + i,)).fetchone()
                assert got == nonce + i + 2
            return [nonce]
    """,
    "several": """
        @script(access="read")
        def run(ctx, nonce: int):
            cursor = ctx.db.execute(f"SELECT {nonce}; SELECT {nonce} + 1")
            first = cursor.fetchone()
            cursor.nextset()
            assert cursor.fetchone() == (nonce + 1,)
            return first
    """,
    "copy_out": """
        @script(access="read")
        def run(ctx, nonce: int):
            with ctx.db.copy(f"COPY (SELECT {nonce} FROM generate_series(1, 300))"
                             " TO STDOUT") as copy:
                rows = [int(bytes(row)) for row in copy]
            assert rows == [nonce] * 300
            return [nonce]
    """,
    "stream": """
        @script(access="read")
        def run(ctx, nonce: int):
            rows = ctx.db.stream("SELECT %s::int + n FROM generate_series(0, 199) n",
                                 (nonce,))
            assert [row[0] for row in rows] == [nonce + n for n in range(200)]
            return [nonce]
    """,
    "pg_sleep": """
        @script(access="read")
        def run(ctx, nonce: int):
            ctx.db.execute("SELECT pg_sleep(0.003)")
            return ctx.db.execute("SELECT %s::int", (nonce,)).fetchone()
    """,
    "python": """
        @script(access="read")
        def run(ctx, nonce: int):
            total = 0
            for i in range(20_000): total += i
            return ctx.db.execute("SELECT %s::int", (nonce,)).fetchone()
    """,
    "c_code": """
        import json, random
        numbers = [random.random() for _ in range(3000)]
        @script(access="read")
        def run(ctx, nonce: int):
            for _ in range(3):
                assert json.loads(json.dumps(sorted(numbers))) == sorted(numbers)
            return ctx.db.execute("SELECT %s::int", (nonce,)).fetchone()
    """,
    "dying": """
        class Dying:
            def __init__(self, db, nonce): self.db, self.nonce = db, nonce
            def __del__(self):
                for _ in range(5): self.db.execute("SELECT %s::int", (self.nonce,))
        @script(access="read")
        def run(ctx, nonce: int):
            Dying(ctx.db, nonce)
            return ctx.db.execute("SELECT %s::int", (nonce,)).fetchone()
    """,
}
PROBES = {
    # What is left of the request before: nothing. Also with what it had prepared.
    "probe_read": """
        @script(access="read")
        def run(ctx, nonce: int):
            (got,) = ctx.db.execute("SELECT %s::int + 1", (nonce,)).fetchone()
            row = ctx.db.execute('''
                SELECT coalesce(current_setting('my.tenant', true), ''),
                       current_setting('work_mem'), current_setting('role'),
                       current_setting('transaction_read_only'),
                       current_setting('transaction_isolation'),
                       (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'
                        AND pid = pg_backend_pid()),
                       (SELECT count(*) FROM pg_class
                        WHERE relnamespace = pg_my_temp_schema()),
                       (SELECT count(*) FROM pg_listening_channels())
                ''').fetchone()
            return [got - 1, list(row)]
    """,
    "probe_write": """
        def run(ctx, nonce: int):
            with ctx.db.transaction():
                ctx.db.execute("INSERT INTO item VALUES (%s)", (nonce,))
            for i in range(2):
                (got,) = ctx.db.execute("SELECT %s::int + 1", (nonce,),
                                        prepare=True).fetchone()
            return [got - 1]
    """,
}
DOUBTFUL = {"own_end", "leaves"}  # send what may end a transaction
CASES = sorted(WRITES | READS)
CLEAN = ["", "4MB", "none", "on", "repeatable read", 0, 0, 0]


@pytest.fixture
def admin(database: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE TABLE item (id int PRIMARY KEY)")
        connection.execute("CREATE TABLE part (nonce int, n int)")
        yield connection


class Storm:
    """Calls scripts, interrupts some, and checks all that must hold."""

    def __init__(
        self, stage: Stage, admin: psycopg.Connection[Any], dice: random.Random
    ) -> None:
        self.stage = stage
        self.admin = admin
        self.dice = dice
        self.nonce = 0
        self.hits: Counter[str] = Counter()
        self.causes: Counter[Cause] = Counter()
        self.replaced: Counter[str] = Counter()
        self.takes = {name: self._calibrate(name) for name in CASES}

    def _calibrate(self, name: str) -> float:
        """Return how long a script takes that is not interrupted."""
        took = []
        for _ in range(5):
            began = time.monotonic()
            self._call(name)
            took.append(time.monotonic() - began)
            self.stage.reset()
        return sorted(took)[3]

    def _call(self, name: str, **when: float) -> tuple[int, Outcome]:
        self.nonce += 1000
        return self.nonce, self.stage.call(name, nonce=self.nonce, **when)

    def strike(self) -> bool:
        """Interrupt one request; tell whether it was hit."""
        name = self.dice.choice(CASES)
        delay = self.dice.uniform(1e-5, 1.1 * self.takes[name])
        kind = self.dice.choice(["budget", "cancel_after"])
        nonce, outcome = self._call(name, **{kind: delay})
        fired = self.stage.interrupts.fired
        self._check_verdict(name, nonce, outcome)
        if not self.stage.reset():
            self.replaced[name] += 1
        self._probe(name)
        if fired is None:
            return False
        self.hits[name] += 1
        self.causes[fired] += 1
        return True

    def _check_verdict(self, name: str, nonce: int, outcome: Outcome) -> None:
        said = decode_value(outcome.body)
        there = self.admin.execute(
            "SELECT count(*) FROM item WHERE id = %s", (nonce,)
        ).fetchone() == (1,)
        where = (name, nonce, outcome, said, there)
        if outcome.kind is Kind.OK:
            assert self.stage.interrupts.fired is None, where
            assert said == [nonce], where
            assert there == (name in WRITES), where
        elif name == "own_end" and outcome.code is Code.UNKNOWN:
            assert self.stage.interrupts.fired is None, where
        else:
            assert outcome.code in {Code.DEADLINE_EXCEEDED, Code.CANCELLED}, where
            if said["started"] == "unknown":
                assert name in DOUBTFUL, where
                return
            assert not there, where
            assert ("rolled back" in said["message"]) == (said["started"] == "yes")
            parts = "SELECT count(*) FROM part WHERE nonce = %s"
            assert self.admin.execute(parts, (nonce,)).fetchone() == (0,), where

    def _probe(self, name: str) -> None:
        probe = self.dice.choice(sorted(PROBES))
        nonce, outcome = self._call(probe)
        said = value(outcome)
        assert said[0] == nonce, (name, said)
        assert said[1:] in ([], [CLEAN]), (name, said)
        assert self.stage.reset(), (name, probe)


@pytest.mark.parametrize(
    "hits",
    [
        pytest.param(1_000, id="quick"),
        pytest.param(20_000, id="full", marks=pytest.mark.campaign),
    ],
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_no_interrupt_leaves_anything_wrong(
    tmp_path: Path,
    database: str,
    admin: psycopg.Connection[Any],
    hits: int,
) -> None:
    seed = 20261 + hits
    print(f"\nseed {seed}")
    stage = Stage(database, make_library(tmp_path, WRITES | READS | PROBES))
    logging.disable(logging.CRITICAL)
    try:
        storm = Storm(stage, admin, random.Random(seed))
        tries = 0
        while storm.hits.total() < hits:
            storm.strike()
            tries += 1
    finally:
        logging.disable(logging.NOTSET)
        stage.close()
    causes = {cause.value: count for cause, count in storm.causes.items()}
    print(f"{tries} requests, interrupted {storm.hits.total()}: {json.dumps(causes)}")
    print(f"in {dict(storm.hits)}")
    print(f"connections replaced {storm.replaced.total()}: {dict(storm.replaced)}")
    assert min(storm.causes.values()) > hits // 10
    assert len(storm.hits) == len(CASES)

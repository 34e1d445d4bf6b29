"""What a statement of a script costs its worker, in bytecode instructions.

Beside PostgreSQL, in a transaction that has begun, when the statement is prepared.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from psycopg.rows import dict_row

from bench.pieces import ONE, make_table
from bench.stack import postgres
from falconas.database.blocks import Lease
from falconas.database.facade import Database
from falconas.database.session import Session
from tests.guard.opcodes import Opcodes

WARM, STEPS = 20, 50


def measure() -> dict[str, float]:
    """Return the instructions of a read, by a cursor that is there or a new one."""
    with (
        tempfile.TemporaryDirectory(prefix="falconas-") as name,
        postgres(Path(name)) as server,
    ):
        make_table(server.dsn())
        with closing(Session.connect(server.dsn())) as session:
            session.begin_read()
            db = Database(Lease(session))
            cursor = db.cursor(row_factory=dict_row)
            ways = {
                "statement": lambda key: cursor.execute(ONE, [key]).fetchone(),
                "statement_of_its_own": lambda key: db.execute(
                    ONE, [key], row_factory=dict_row
                ).fetchone(),
            }
            return {f"{way}.instructions": _count(run) for way, run in ways.items()}


def _count(run: Callable[[int], object]) -> float:
    opcodes = Opcodes()
    for key in range(WARM + STEPS):
        if key == WARM:
            opcodes.begin()
        run(key)
    opcodes.end()
    return opcodes.count / STEPS

"""For the tests of script authors: a real database, rolled back at the end.

    from falconas.testing import context, run

    def test_overview_counts_orders():
        result = run("workers/customer_overview.py", {"customer_id": 7})
        assert result["orders"] == 3

    def test_helper():
        with context() as ctx:
            ctx.db.execute("INSERT INTO customer (id) VALUES (99)")
            assert overview(ctx, customer_id=99)["orders"] == 0

An empty `dsn` means what it means to a worker: FALCONAS_DATABASE__DSN, and without
that libpq's own sources, the PG… variables or a service file. A PostgreSQL for the
tests alone comes from `falconas.database.embedded`; docs/scripts.md has the fixture.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from falconas.codec import decode_params, decode_value, encode_params, encode_result
from falconas.database.blocks import Lease
from falconas.database.facade import Database
from falconas.database.session import Session
from falconas.worker.context import Context
from falconas.worker.declaration import Access, declared
from falconas.worker.scripts import ScriptLoadError, load_file

__all__ = ["ScriptLoadError", "context", "run"]

BUDGET = 30.0
DSN_VARIABLE = "FALCONAS_DATABASE__DSN"
RESULT_BYTES = 16 * 1024 * 1024


@contextmanager
def context(
    dsn: str = "",
    *,
    access: Access = "write",
    snapshot: bool = True,
    budget: float = BUDGET,
    script: str = "test",
) -> Iterator[Context]:
    """Yield a context as a worker would make it; all is rolled back at the end.

    Args:
        dsn: The database.
        access: "read" gives the read-only transaction of a read script.
        snapshot: As of `@script`.
        budget: What `ctx.remaining()` counts down from.
        script: `ctx.script`.
    """
    with _session(dsn) as session, _lend(session, access, snapshot) as lease:
        yield _context(lease, script, budget)


def run(
    script: str | Path | Callable[..., Any],
    params: Mapping[str, Any] | None = None,
    *,
    dsn: str = "",
    budget: float = BUDGET,
) -> Any:
    """Run a script as a worker would, and return what the caller would get.

    Parameters and result travel through their packed form; deferred constraints are
    checked as by COMMIT; then all is rolled back. What the script raises comes out as
    it is.

    Args:
        script: The script's file, or its function `run`.
        params: Its parameters.
        dsn: The database.
        budget: Seconds that `ctx.remaining()` counts down from.

    Raises:
        FalconError: Parameters or result are not as they should be, or the script
            left its transaction in a state that cannot be committed.
        ScriptLoadError: The file does not load.
    """
    found = declared(script) if callable(script) else load_file(Path(script))
    arguments = found.bind(decode_params(encode_params(params or {})))
    with (
        _session(dsn) as session,
        _lend(session, found.access, found.snapshot) as lease,
    ):
        ctx = _context(lease, found.name, budget)
        result = found.run(ctx, **arguments)
        body = encode_result(result, ext=True, limit=RESULT_BYTES)
        session.verify()
        if found.access == "write":
            ctx.db.execute("SET CONSTRAINTS ALL IMMEDIATE")
        return decode_value(body)


@contextmanager
def _session(dsn: str) -> Iterator[Session]:
    dsn = dsn or os.environ.get(DSN_VARIABLE, "")
    session = Session.connect(dsn, application_name="falconas/testing")
    try:
        yield session
    finally:
        session.close()


@contextmanager
def _lend(session: Session, access: Access, snapshot: bool) -> Iterator[Lease]:
    if access == "write":
        session.begin_write()
    else:
        session.begin_read(snapshot=snapshot)
    lease = Lease(session)
    try:
        yield lease
    finally:
        lease.end()


def _context(lease: Lease, script: str, budget: float) -> Context:
    return Context(
        db=Database(lease),
        request_id="test",
        caller=None,
        node="test",
        script=script,
        deadline=time.monotonic() + budget,
    )

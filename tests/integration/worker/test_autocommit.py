"""Scripts of a group with autocommit: each statement commits for itself."""

from __future__ import annotations

import threading
import time
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from falconas.codec import decode_value, encode_params
from falconas.database.blocks import Lease
from falconas.database.facade import Database
from falconas.database.session import Session
from falconas.errors import Code
from falconas.protocol import Kind, Request
from falconas.worker.interrupt import Interrupts
from falconas.worker.runner import Outcome, Runner
from falconas.worker.scripts import load
from falconas.worker.slot import NoSlot
from tests.session_probe import probe

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from falconas.database.embedded import EmbeddedPostgres

SCRIPTS = {
    "run_all": """
def run(ctx, statements: list[str], error: str = ""):
    for statement in statements:
        ctx.db.execute(statement)
    if error:
        raise ValueError(error)
    return "done"
""",
    "read": """
@script(access="read")
def run(ctx, statements: list[str]):
    return [ctx.db.execute(statement).fetchone()[0] for statement in statements]
""",
    "swallow": """
import psycopg
def run(ctx):
    ctx.db.execute("INSERT INTO item VALUES (1)")
    try:
        ctx.db.execute("INSERT INTO item VALUES (1)")
    except psycopg.Error:
        ctx.db.execute("INSERT INTO item VALUES (2)")
""",
    "leave_open": """
def run(ctx):
    ctx.db.execute("INSERT INTO item VALUES (1)")
    globals()["kept"] = ctx.db.transaction()
    kept.__enter__()
    ctx.db.execute("INSERT INTO item VALUES (2)")
""",
}
ADD = "INSERT INTO item VALUES (1)"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scripts")
    for name, text in SCRIPTS.items():
        path = folder / f"{name}.py"
        path.write_text(f"from falconas import script\n{text}")
        path.chmod(0o644)
    return folder


@pytest.fixture(scope="module")
def database(postgres: EmbeddedPostgres) -> Iterator[str]:
    yield postgres.create_database("autocommit")
    postgres.drop_database("autocommit")


class Stage:
    """A runner, and a connection to look from outside."""

    def __init__(self, dsn: str, folder: Path) -> None:
        self.admin = psycopg.connect(dsn, autocommit=True)
        self.admin.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        self.admin.execute("CREATE TABLE item (id int PRIMARY KEY)")
        self.interrupts = Interrupts()
        self.session = Session.connect(dsn)
        self.runner = Runner(
            load(folder),
            self.session,
            NoSlot(),
            interrupts=self.interrupts,
            database="shop",
            autocommit=True,
        )

    def call(self, name: str, *statements: str, left: float = 60.0, **more: Any) -> Any:
        params = {"statements": list(statements), **more} if statements else more
        request = Request(b"d" * 16, name, None, {})
        return self.runner.run(request, encode_params(params), time.monotonic() + left)

    def items(self) -> list[int]:
        rows = self.admin.execute("SELECT id FROM item ORDER BY id").fetchall()
        return [row[0] for row in rows]

    def close(self) -> None:
        self.session.close()
        self.admin.close()


@pytest.fixture
def stage(database: str, folder: Path) -> Iterator[Stage]:
    with closing(Stage(database, folder)) as stage:
        yield stage


def assert_unknown(outcome: Outcome, code: Code) -> str:
    """Check that it says neither "nothing was done" nor "rolled back"."""
    assert (outcome.kind, outcome.code) == (Kind.ERROR, code)
    body = decode_value(outcome.body)
    assert (body["started"], body["retry_safe"]) == ("unknown", False)
    assert "rolled back" not in body["message"]
    return str(body["message"])


def test_statements_that_refuse_a_transaction_work(stage: Stage) -> None:
    outcome = stage.call(
        "run_all", ADD, "VACUUM item", "CREATE INDEX CONCURRENTLY late ON item (id)"
    )
    assert outcome.code is Code.OK, decode_value(outcome.body)
    assert stage.items() == [1]
    (now,) = stage.admin.execute(
        "SELECT pg_current_wal_insert_lsn() - '0/0'"
    ).fetchone() or (0,)
    assert 0 < outcome.extras["lsn"]["shop"] <= now
    assert stage.runner.reset()


@pytest.mark.parametrize(
    ("then", "error", "code"),
    [
        ("SELECT 1/0", "", Code.UNKNOWN),
        ("SELECT 1", "why", Code.UNKNOWN),
        ("SELECT pg_terminate_backend(pg_backend_pid())", "", Code.UNAVAILABLE),
        ("BEGIN", "", Code.UNKNOWN),
        ("DO $$ BEGIN RAISE SQLSTATE '40001'; END $$", "", Code.ABORTED),
    ],
)
def test_after_a_failure_nobody_says_what_was_done(
    stage: Stage, then: str, error: str, code: Code
) -> None:
    outcome = stage.call("run_all", ADD, then, error=error)
    assert_unknown(outcome, code)
    assert "conflict" not in outcome.extras  # only a standby has any
    assert stage.items() == [1]


def test_a_begin_of_ones_own_is_told_what_to_do(stage: Stage) -> None:
    message = assert_unknown(stage.call("run_all", "BEGIN", ADD), Code.UNKNOWN)
    assert "ctx.db.transaction() makes transactions" in message
    assert stage.items() == []
    assert stage.runner.reset()


def test_a_transaction_left_open_is_no_success(stage: Stage) -> None:
    message = assert_unknown(stage.call("leave_open"), Code.UNKNOWN)
    assert "left a transaction open" in message
    stage.runner.reset()
    assert stage.items() == [1]


def test_a_failed_statement_costs_only_itself(stage: Stage) -> None:
    assert stage.call("swallow").code is Code.OK
    assert stage.items() == [1, 2]


def test_a_deadline_leaves_what_was_done(stage: Stage) -> None:
    stage.interrupts.install()
    try:
        outcome = stage.call("run_all", ADD, "SELECT pg_sleep(60)", left=0.3)
    finally:
        stage.interrupts.uninstall()
    message = assert_unknown(outcome, Code.DEADLINE_EXCEEDED)
    assert "may be committed" in message
    assert stage.items() == [1]


def test_before_its_first_statement_nothing_was_done(stage: Stage) -> None:
    outcome = stage.call("run_all", statements=[], error="why")
    assert decode_value(outcome.body)["started"] == "yes"
    pid = stage.session._connection.info.backend_pid
    stage.admin.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))
    lost = stage.call("run_all", ADD)
    assert lost.unserved is not None
    assert decode_value(lost.body)["started"] == "no"


def test_a_read_has_no_snapshot_and_writes_nothing(stage: Stage) -> None:
    isolation = "SELECT current_setting('transaction_isolation')"
    outcome = stage.call("read", isolation, "SELECT count(*) FROM item")
    assert decode_value(outcome.body) == ["read committed", 0]
    assert "lsn" not in outcome.extras
    refused = stage.call("read", "INSERT INTO item VALUES (1) RETURNING id")
    body = decode_value(refused.body)
    assert (body["sqlstate"], body["started"]) == ("25006", "yes")


def test_nothing_of_a_request_is_left_for_the_next(stage: Stage) -> None:
    def look() -> dict[str, Any]:
        stage.session.begin_read(snapshot=False)
        with stage.session.statement() as connection:
            found = probe(connection.execute)
        assert stage.runner.reset()
        return found

    before = look()
    outcome = stage.call(
        "run_all",
        "SET work_mem = '9MB'",
        "SELECT pg_advisory_lock(7)",
        "LISTEN news",
        "CREATE TEMP TABLE secret AS SELECT 1",
        "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
        "SET my.tenant = 'a'",
        "SET ROLE pg_monitor",
    )
    assert outcome.code is Code.OK
    assert stage.runner.reset()
    assert look() == before


def test_a_wait_for_replication_that_was_cancelled_is_in_doubt(stage: Stage) -> None:
    stage.admin.execute("SET synchronous_commit = local")
    stage.admin.execute("ALTER SYSTEM SET synchronous_standby_names = 'ghost'")
    stage.admin.execute("SELECT pg_reload_conf()")
    pid = stage.session._connection.info.backend_pid
    waiting = "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND wait_event = 'SyncRep'"
    outcomes: list[Outcome] = []
    numbers = iter(range(1, 1000))

    def write() -> None:
        add = f"INSERT INTO item VALUES ({next(numbers)})"
        outcomes.append(stage.call("run_all", add, "SELECT 1"))
        stage.runner.reset()

    try:
        cancelled = False
        while not cancelled:  # until the server has noticed its new setting
            thread = threading.Thread(target=write)
            thread.start()
            while thread.is_alive():
                if stage.admin.execute(waiting, (pid,)).fetchone():
                    stage.admin.execute("SELECT pg_cancel_backend(%s)", (pid,))
                    cancelled = True
    finally:
        stage.admin.execute("ALTER SYSTEM RESET synchronous_standby_names")
        stage.admin.execute("SELECT pg_reload_conf()")
    message = assert_unknown(outcomes[-1], Code.UNAVAILABLE)
    assert "synchronous replication" in message


def test_statements_of_a_pipeline_commit_together(stage: Stage) -> None:
    session = stage.session
    session.begin_write(autocommit=True)
    db = Database(Lease(session))
    with suppress(psycopg.errors.UniqueViolation), db.pipeline():
        db.execute("INSERT INTO item VALUES (1)")
        db.execute("INSERT INTO item VALUES (1)")
    assert stage.items() == []
    with db.pipeline():
        db.execute("INSERT INTO item VALUES (1)")
        db.execute("INSERT INTO item VALUES (2)")
    assert stage.items() == [1, 2]
    session.verify()
    assert session.reset()

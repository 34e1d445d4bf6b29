from __future__ import annotations

import logging
import signal
import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg.rows import dict_row

from falconas.codec import decode_value, encode_params
from falconas.database.session import InvalidDsn, Session
from falconas.errors import Code
from falconas.protocol import Kind, Request
from falconas.worker.runner import Outcome, Runner, run_script
from falconas.worker.scripts import FolderError, load
from falconas.worker.slot import NoSlot, Spoiled, State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from falconas.database.embedded import EmbeddedPostgres

ID = b"d" * 16

SCRIPTS = {
    "echo": """
        @script(access="read")
        def run(ctx, value: object = None):
            return value
    """,
    "add": """
        def run(ctx, number: int, then: str = ""):
            ctx.db.execute("INSERT INTO item VALUES (%s)", (number,))
            if then:
                ctx.db.execute(then)
            return number
    """,
    "query": """
        @script(access="read")
        def run(ctx, sql: str):
            return ctx.db.execute(sql).fetchone()
    """,
    "autocommit": """
        @script(access="read", snapshot=False)
        def run(ctx, sql: str):
            return ctx.db.execute(sql).fetchone()
    """,
    "swallow": """
        def run(ctx, number: int):
            ctx.db.execute("INSERT INTO item VALUES (%s)", (number,))
            try:
                ctx.db.execute("SELECT 1/0")
            except Exception:
                return "fine"
    """,
    "result": """
        def run(ctx, kind: str):
            ctx.db.execute("INSERT INTO item VALUES (1)")
            class Bad(dict):
                def items(self): raise SystemExit(4)
                def __iter__(self): raise SystemExit(4)
            class Sly:
                __dataclass_fields__ = property(lambda self: 1/0)
            return {"object": object(), "large": b"x" * 5000, "bad": [Bad(a=1)],
                    "sly": Sly(), "surrogate": chr(0xd800), "huge": 2**70}[kind]
    """,
    "raises": """
        import builtins
        class Mute(Exception):
            def __str__(self): raise SystemExit("mute")
        def run(ctx, kind: str):
            ctx.db.execute("INSERT INTO item VALUES (1)")
            raise (Mute if kind == "Mute" else getattr(builtins, kind))("why")
    """,
    "refuses": """
        import falconas
        class OutOfStock(falconas.InvalidArgument): pass
        class Strange(falconas.FalconError): code = 99
        def run(ctx, how: str):
            ctx.db.execute("INSERT INTO item VALUES (1)")
            if how == "strange": raise Strange("odd")
            raise OutOfStock("none left",
                             details={"item": object() if how == "object" else 7})
    """,
    "stream": """
        @script(access="read")
        def run(ctx, how: str):
            rows = ctx.db.stream("SELECT generate_series(1, 100000)")
            next(rows)
            if how == "raise": raise ValueError("in the middle")
            globals()["kept"] = rows
            return 1
    """,
    "keep": """
        @script(access="read")
        def run(ctx, again: bool = False):
            if again: return kept.execute("SELECT 1").fetchone()
            globals()["kept"] = ctx.db
    """,
    "clings": """
        from psycopg.rows import dict_row, tuple_row
        def factory(cursor):
            globals()["kept"] = cursor.connection
            return tuple_row(cursor)
        @script(access="read")
        def run(ctx, how: str):
            if how == "keep": ctx.db.execute("SELECT 1", row_factory=factory)
            if how == "rows": kept.row_factory = dict_row
            if how == "begin": kept.pgconn.exec_(b"BEGIN")
            if how == "close": kept.close()
    """,
    "hidden": """
        def run(ctx, how: str, sql: str):
            ctx.db.execute("INSERT INTO item VALUES (1)")
            if how == "stream": list(ctx.db.stream(sql))
            if how == "execute": ctx.db.execute(sql)
            if how == "many": ctx.db.executemany(sql, [(1,)])
            raise ValueError("after it")
    """,
    "typed": """
        import dataclasses
        seen = []
        @dataclasses.dataclass
        class Item:
            number: int
            def __post_init__(self): seen[0]()
        @script(access="read")
        def run(ctx, item: Item):
            return item.number
    """,
    "verbose": """
        import falconas
        def run(ctx):
            raise falconas.ScriptError("no", details={"rows": "x" * 40_000_000},
                                       sqlstate="y" * 40_000_000)
    """,
    "cursor": """
        @script(access="read")
        def run(ctx, sql: str):
            ctx.db.execute(sql)
    """,
    "piped": """
        def run(ctx, numbers: list[int]):
            query = "INSERT INTO item VALUES (%s) RETURNING id"
            with ctx.pipeline():
                found = [ctx.db.execute(query, [each]) for each in numbers]
            return [each.fetchone()[0] for each in found]
    """,
    "left_open": """
        def run(ctx):
            globals()["kept"] = ctx.pipeline()
            kept.__enter__()
            ctx.db.execute("SELECT 1")
    """,
    "late": """
        import time
        def run(ctx, access: str = "write"):
            ctx.db.execute("INSERT INTO item VALUES (1)")
            while ctx.remaining(): pass
    """,
    "facts": """
        @script(access="read")
        def run(ctx):
            ctx.log.warning("hello")
            return [ctx.request_id, ctx.caller, ctx.node, ctx.script]
    """,
    "broken": "(",
}


@pytest.fixture(scope="module")
def database(postgres: EmbeddedPostgres) -> Iterator[str]:
    yield postgres.create_database("runner")
    postgres.drop_database("runner")


@pytest.fixture
def admin(database: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        connection.execute("CREATE TABLE item (id int PRIMARY KEY)")
        yield connection


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scripts")
    for name, text in SCRIPTS.items():
        lines = [line.removeprefix(" " * 8) for line in text.splitlines()]
        path = folder / f"{name}.py"
        path.write_text("\n".join(["from falconas import script", *lines, ""]))
        path.chmod(0o644)
    return folder


class Slot:
    def __init__(self) -> None:
        self.entered: list[State] = []
        self.on: dict[State, Callable[[], object]] = {}
        self.cancelled = False
        self.spoiled: list[Spoiled] = []

    def enter(self, state: State, id: bytes = b"", deadline: float = 0.0) -> None:  # noqa: A002
        assert (id == ID) == (state in (State.RUN, State.COMMIT))
        assert bool(deadline) == bool(id)
        self.entered.append(state)
        self.on.get(state, lambda: None)()

    def is_cancelled(self) -> bool:
        return self.cancelled

    def spoil(self, reason: Spoiled) -> None:
        self.spoiled.append(reason)


class Stage:
    """A runner and what a worker does around it."""

    def __init__(self, dsn: str, folder: Path) -> None:
        self.slot = Slot()
        self.dsn = dsn
        self.runner = Runner(
            load(folder),
            Session.connect(dsn),
            self.slot,
            node="node1",
            result_bytes=4000,
        )

    def call(self, name: str, *, budget: float = 60.0, **params: Any) -> Outcome:
        request = Request(ID, name, None, {"origin": b"\1\2", "_caller": "ann"})
        return self.runner.run(
            request, encode_params(params), time.monotonic() + budget
        )

    def error(
        self, name: str, *, budget: float = 60.0, **params: Any
    ) -> dict[str, Any]:
        outcome = self.call(name, budget=budget, **params)
        assert outcome.kind is Kind.ERROR
        body: dict[str, Any] = decode_value(outcome.body)
        assert body["started"] in {"yes", "no", "unknown"}
        return {"code": outcome.code, "returned": outcome.unserved is not None} | body

    @property
    def pid(self) -> int:
        return self.runner.session._connection.info.backend_pid


@pytest.fixture
def stage(
    database: str,
    folder: Path,
    admin: psycopg.Connection[Any],
) -> Iterator[Stage]:
    stage = Stage(database, folder)
    yield stage
    stage.runner.session.close()


def items(admin: psycopg.Connection[Any]) -> list[int]:
    return [row[0] for row in admin.execute("SELECT id FROM item ORDER BY id")]


def test_ok_means_committed_and_the_reply_says_who_served(
    stage: Stage, admin: psycopg.Connection[Any]
) -> None:
    outcome = stage.call("add", number=7)
    assert (outcome.kind, outcome.code) == (Kind.OK, Code.OK)
    assert decode_value(outcome.body) == 7
    assert items(admin) == [7]  # before the reset
    assert outcome.extras["node"] == "node1"
    assert outcome.extras["hash"] == stage.runner.loaded.scripts["add"].hash
    assert outcome.extras["run_us"] > 0
    assert stage.runner.reset()
    assert stage.slot.entered == [
        State.RUN,
        State.COMMIT,
        State.REPLY,
        State.RESET,
        State.IDLE,
    ]


def test_a_read_is_not_committed_before_its_reply(stage: Stage) -> None:
    assert stage.call("query", sql="SELECT 1").kind is Kind.OK
    assert stage.runner.reset()
    assert State.COMMIT not in stage.slot.entered


def test_a_swallowed_database_error_is_not_ok(
    stage: Stage, admin: psycopg.Connection[Any]
) -> None:
    error = stage.error("swallow", number=1)
    assert error["code"] is Code.ABORTED
    assert error["started"] == "yes"
    assert "division by zero" in error["message"]
    assert stage.runner.reset()
    assert items(admin) == []


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("object", "object has no encoding"),
        ("large", "the limit is 4000"),
        ("bad", "cannot be packed|SystemExit"),
        ("sly", ""),
        ("surrogate", "surrogates"),
        ("huge", "64 bits"),
    ],
)
def test_what_cannot_be_packed_is_not_committed(
    stage: Stage, admin: psycopg.Connection[Any], kind: str, message: str
) -> None:
    error = stage.error("result", kind=kind)
    assert error["code"] is Code.UNKNOWN
    assert any(part in error["message"] for part in message.split("|"))
    assert State.COMMIT not in stage.slot.entered
    assert stage.runner.reset()
    assert items(admin) == []


@pytest.mark.parametrize(
    "kind",
    ["ValueError", "SystemExit", "KeyboardInterrupt", "GeneratorExit", "MemoryError"],
)
def test_whatever_a_script_raises_is_an_outcome_and_rolled_back(
    stage: Stage,
    admin: psycopg.Connection[Any],
    caplog: pytest.LogCaptureFixture,
    kind: str,
) -> None:
    error = stage.error("raises", kind=kind)
    assert error["code"] is Code.UNKNOWN
    assert error["started"] == "yes"
    assert error["message"] == f"{kind}: why"
    assert "Traceback" in caplog.text  # in the log, not at the caller's
    assert stage.runner.reset()
    assert items(admin) == []


def test_an_exception_without_a_readable_text_is_an_outcome(stage: Stage) -> None:
    assert "cannot be read" in stage.error("raises", kind="Mute")["message"]


def test_a_script_may_refuse_with_our_errors(
    stage: Stage, admin: psycopg.Connection[Any]
) -> None:
    error = stage.error("refuses", how="plain")
    assert error["code"] is Code.INVALID_ARGUMENT
    assert (error["message"], error["details"]) == ("none left", {"item": 7})
    assert error["started"] == "yes"
    assert stage.runner.reset()
    assert "cannot be packed" in stage.error("refuses", how="object")["message"]
    assert stage.runner.reset()
    error = stage.error("refuses", how="strange")
    assert (error["code"], error["message"]) == (Code.UNKNOWN, "Strange: odd")
    assert stage.runner.reset()
    assert items(admin) == []


@pytest.mark.parametrize("then", ["COMMIT", "ROLLBACK", "BEGIN"])
def test_a_script_that_sends_transaction_statements_is_not_ok(
    stage: Stage, then: str
) -> None:
    error = stage.error("add", number=1, then=then)
    assert error["code"] is Code.UNKNOWN
    assert then in error["message"]
    assert error["started"] == ("unknown" if then == "COMMIT" else "yes")
    assert State.COMMIT not in stage.slot.entered
    assert stage.runner.reset()
    assert stage.call("query", sql="SELECT 1").kind is Kind.OK


@pytest.mark.parametrize(
    ("how", "sql", "started"),
    [
        ("stream", "COMMIT AND CHAIN", "unknown"),
        ("execute", "COMMIT; BEGIN; SELECT 1/0", "unknown"),
        ("execute", "SELECT 1; SELECT 2", "yes"),
        ("execute", "SELECT 1/0", "yes"),
        ("stream", "SELECT 1", "yes"),
        ("many", "SELECT 1/(%s - 1)", "yes"),
    ],
)
def test_a_failed_script_that_may_have_committed_is_an_unknown_outcome(
    stage: Stage, admin: psycopg.Connection[Any], how: str, sql: str, started: str
) -> None:
    error = stage.error("hidden", how=how, sql=sql)
    assert (error["started"], error["retry_safe"]) == (started, False)
    assert stage.runner.reset()
    assert items(admin) == ([1] if started == "unknown" else [])


def test_a_transaction_left_open_is_not_ok(stage: Stage) -> None:
    error = stage.error("autocommit", sql="BEGIN; SELECT 1")
    assert "BEGIN" in error["message"]
    assert stage.runner.reset()


def test_the_database_refuses_with_its_sqlstate_and_without_values(
    stage: Stage,
) -> None:
    stage.call("add", number=4711)
    stage.runner.reset()
    error = stage.error("add", number=4711)
    assert (error["code"], error["sqlstate"]) == (Code.UNKNOWN, "23505")
    assert error["details"]["constraint"] == "item_pkey"
    assert "4711" not in str(error)


def test_a_write_in_a_read_is_the_scripts_fault_and_costs_nothing(stage: Stage) -> None:
    for name in ("query", "autocommit"):
        error = stage.error(name, sql="DELETE FROM item RETURNING 1")
        assert (error["code"], error["sqlstate"]) == (Code.UNKNOWN, "25006")
        assert stage.runner.reset()


def test_a_backend_that_is_terminated_in_the_script_is_unavailable(
    stage: Stage,
) -> None:
    error = stage.error(
        "add", number=1, then="SELECT pg_terminate_backend(pg_backend_pid())"
    )
    assert error["code"] is Code.UNAVAILABLE
    assert (error["started"], error["retry_safe"]) == ("yes", True)
    assert not error["returned"]
    assert not stage.runner.reset()
    stage.runner.session = Session.connect(stage.dsn)
    assert stage.call("add", number=1).kind is Kind.OK


def test_a_write_that_could_not_begin_can_be_returned(
    stage: Stage, admin: psycopg.Connection[Any]
) -> None:
    admin.execute("SELECT pg_terminate_backend(%s, 5000)", (stage.pid,))
    error = stage.error("add", number=1)
    assert error["returned"]
    assert error["code"] is Code.UNAVAILABLE
    assert (error["started"], error["retry_safe"]) == ("no", True)
    assert not stage.runner.reset()
    assert stage.error("query", sql="SELECT 1")["returned"]  # nor can a read


def test_a_statement_cancelled_by_hand_is_cancelled(
    stage: Stage, admin: psycopg.Connection[Any]
) -> None:
    pid, done = stage.pid, threading.Event()

    def cancel() -> None:
        with psycopg.connect(stage.dsn, autocommit=True) as other:
            while not done.is_set():
                other.execute(
                    "SELECT pg_cancel_backend(pid) FROM pg_stat_activity"
                    " WHERE pid = %s AND wait_event = 'PgSleep'",
                    (pid,),
                )

    thread = threading.Thread(target=cancel)
    thread.start()
    try:
        error = stage.error("query", sql="SELECT pg_sleep(60)")
    finally:
        done.set()
        thread.join()
    assert (error["code"], error["sqlstate"]) == (Code.CANCELLED, "57014")
    assert stage.runner.reset()
    assert items(admin) == []


def test_statement_timeout_is_a_deadline(stage: Stage) -> None:
    sql = "SET LOCAL statement_timeout = 1; SELECT pg_sleep(60)"
    assert stage.error("query", sql=sql)["code"] is Code.DEADLINE_EXCEEDED
    assert stage.runner.reset()


def test_late_requests_are_not_started(stage: Stage) -> None:
    error = stage.error("add", budget=-1.0, number=1)
    assert error["code"] is Code.DEADLINE_EXCEEDED
    assert (error["started"], error["retry_safe"]) == ("no", True)
    assert stage.slot.entered == [State.REPLY]


def test_late_work_is_rolled_back(stage: Stage, admin: psycopg.Connection[Any]) -> None:
    error = stage.error("late", budget=0.05)
    assert error["code"] is Code.DEADLINE_EXCEEDED
    assert (error["started"], error["retry_safe"]) == ("yes", False)
    assert stage.runner.reset()
    assert items(admin) == []


def test_parameters_are_checked_before_anything_starts(stage: Stage) -> None:
    error = stage.error("add", number="x")
    assert error["code"] is Code.INVALID_ARGUMENT
    assert error["details"] == {"parameter": "number"}
    request = Request(ID, "add", None, {})
    outcome = stage.runner.run(request, b"\xc1", time.monotonic() + 60)
    assert outcome.code is Code.INVALID_ARGUMENT
    assert error["started"] == decode_value(outcome.body)["started"] == "no"


def test_the_slot_names_the_request_before_its_parameters_are_built(
    stage: Stage,
) -> None:
    before: list[list[State]] = []
    script = stage.runner.loaded.scripts["typed"]
    seen = script.run.__globals__["seen"]
    seen[:] = [lambda: before.append(list(stage.slot.entered))]
    assert decode_value(stage.call("typed", item={"number": 3}).body) == 3
    assert before == [[State.RUN]]


def test_an_error_reply_is_never_large(stage: Stage) -> None:
    outcome = stage.call("verbose")
    assert outcome.code is Code.UNKNOWN
    assert len(outcome.body) < 1000
    assert decode_value(outcome.body)["message"] == "no"


def test_unknown_and_broken_scripts_are_not_found(stage: Stage) -> None:
    assert stage.error("nowhere")["code"] is Code.NOT_FOUND
    error = stage.error("broken")
    assert error["code"] is Code.NOT_FOUND
    assert "broken.py:2: SyntaxError" in error["message"]


def test_an_open_stream_is_closed_or_costs_the_connection(stage: Stage) -> None:
    assert "in the middle" in stage.error("stream", how="raise")["message"]
    assert stage.runner.reset()
    assert "stream or COPY open" in stage.error("stream", how="keep")["message"]
    assert not stage.runner.reset()
    module = stage.runner.loaded.scripts["stream"].run.__globals__
    module["kept"].close()


def test_a_kept_database_is_dead_after_its_request(stage: Stage) -> None:
    assert stage.call("keep").kind is Kind.OK
    stage.runner.reset()
    error = stage.error("keep", again=True)
    assert "the request has ended" in error["message"]


def test_the_context_knows_the_request(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        outcome = stage.call("facts")
    assert decode_value(outcome.body) == ["0102", "ann", "node1", "facts"]
    (record,) = [r for r in caplog.records if r.message == "hello"]
    assert vars(record)["request"] == "0102"
    assert record.name == "falconas.scripts.facts"


def test_signals_wait_until_commit_is_over(
    stage: Stage, admin: psycopg.Connection[Any]
) -> None:
    class Interrupted(KeyboardInterrupt):
        pass

    def interrupt(*_: object) -> None:
        raise Interrupted

    commit = stage.runner.session.commit

    def interrupted_commit() -> None:
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
        commit()
        assert signal.sigpending() == {signal.SIGUSR1}
        committed.extend(items(admin))

    committed: list[int] = []
    stage.runner.session.commit = interrupted_commit  # type: ignore[method-assign]
    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        outcome = stage.call("add", number=5)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert committed == [5]
    # It was too late to stop anything, and the committed is not called failed.
    assert outcome.kind is Kind.OK


def test_the_caller_chooses_how_values_travel(stage: Stage) -> None:
    request = Request(ID, "query", None, {"accept": ["ext"]})
    body = encode_params({"sql": "SELECT 1.50"})
    deadline = time.monotonic() + 60
    plain = stage.runner.run(request._replace(extras={}), body, deadline)
    stage.runner.reset()
    rich = stage.runner.run(request, body, deadline)
    assert decode_value(plain.body) == ["1.50"]
    assert str(decode_value(rich.body)) == "[Decimal('1.50')]"


def test_run_script_serves_once_and_commits(
    stage: Stage, folder: Path, admin: psycopg.Connection[Any]
) -> None:
    outcome = run_script(stage.dsn, folder, "add", {"number": 3})
    assert decode_value(outcome.body) == 3
    assert items(admin) == [3]
    assert run_script(stage.dsn, folder, "nowhere", {}).code is Code.NOT_FOUND
    outcome = run_script("host=/nowhere", folder, "add", {"number": 3})
    assert outcome.code is Code.UNAVAILABLE
    with pytest.raises(KeyboardInterrupt):  # Ctrl-C is the user's
        run_script(stage.dsn, folder, "raises", {"kind": "KeyboardInterrupt"})
    with pytest.raises(FolderError):
        run_script(stage.dsn, folder / "nowhere", "add", {})
    with pytest.raises(InvalidDsn):
        run_script("nonsense", folder, "add", {})
    assert items(admin) == [3]


def test_nobody_needs_to_watch(stage: Stage) -> None:
    stage.runner = Runner(stage.runner.loaded, stage.runner.session, NoSlot())
    with closing(stage.runner.session):
        assert stage.call("echo", value=1).kind is Kind.OK
        assert stage.runner.reset()


def test_a_reset_under_way_is_seen_from_outside_until_it_has_ended(
    stage: Stage,
) -> None:
    assert stage.call("query", sql="SELECT 1").kind is Kind.OK
    stage.slot.entered.clear()

    assert stage.runner.begin_reset()
    assert stage.slot.entered == [State.RESET]
    assert stage.runner.finish_reset()
    assert stage.slot.entered == [State.RESET, State.IDLE]
    assert stage.runner.finish_reset()  # there is nothing more to wait for


def test_only_a_session_that_was_used_is_swept(stage: Stage) -> None:
    stage.slot.entered.clear()
    assert stage.call("echo", value=1).kind is Kind.OK
    assert stage.runner.begin_reset()
    assert stage.slot.entered == [State.RUN, State.REPLY, State.IDLE]
    assert not stage.runner.session.resetting

    stage.call("query", sql="SET work_mem = '9MB'")
    assert stage.runner.begin_reset()
    assert stage.runner.session.resetting
    assert stage.call("echo", value=1).kind is Kind.OK  # waits for that
    assert stage.runner.begin_reset()
    assert decode_value(stage.call("query", sql="SHOW work_mem").body) == ["4MB"]

    stage.runner.begin_reset()
    stage.runner.session.close()
    stage.slot.entered.clear()
    assert stage.call("echo", value=1).code is Code.UNAVAILABLE
    assert not stage.runner.begin_reset()


@pytest.mark.parametrize(
    "sql",
    ["SELECT set_config('work_mem', '9MB', false)", "SET work_mem = '9MB'"],
    ids=["it succeeds", "it fails: no rows"],
)
def test_what_leaves_no_transaction_open_is_swept_too(stage: Stage, sql: str) -> None:
    stage.call("echo", value=1)  # needs nothing of the session
    assert stage.runner.reset()

    stage.call("autocommit", sql=sql)
    assert stage.runner.reset()

    assert decode_value(stage.call("query", sql="SHOW work_mem").body) == ["4MB"]


def test_an_unused_session_that_is_changed_after_the_request_is_replaced(
    stage: Stage,
) -> None:
    stage.call("echo", value=1)
    stage.runner.session.connection.row_factory = dict_row

    assert not stage.runner.reset()


@pytest.mark.parametrize(
    ("how", "code", "sound"),
    [
        ("nothing", Code.OK, True),
        ("rows", Code.OK, False),
        ("begin", Code.UNKNOWN, True),
        ("close", Code.UNAVAILABLE, False),
    ],
)
def test_what_a_script_keeps_of_psycopg_reaches_nobody_else(
    stage: Stage, how: str, code: Code, sound: bool
) -> None:
    stage.call("clings", how="keep")
    assert stage.runner.reset()

    assert stage.call("clings", how=how).code is code
    assert stage.runner.reset() is sound
    if sound:
        assert stage.runner.session.is_as_new()


def test_a_request_waits_for_the_reset_before_it(stage: Stage) -> None:
    stage.call("query", sql="SET work_mem = '9MB'")
    assert stage.runner.begin_reset()

    outcome = stage.call("query", sql="SHOW work_mem")

    assert decode_value(outcome.body) == ["4MB"]


@pytest.mark.parametrize("name", ["add", "query"])
def test_a_request_is_not_started_where_the_reset_failed(
    stage: Stage, admin: psycopg.Connection[Any], name: str
) -> None:
    fails = "SELECT 1 / n FROM generate_series(1, 0, -1) n"  # in COMMIT
    stage.call("cursor", sql=f"DECLARE c CURSOR WITH HOLD FOR {fails}")
    assert stage.runner.begin_reset()

    params = {"number": 1} if name == "add" else {"sql": "SELECT 1"}
    error = stage.error(name, **params)

    assert error["returned"]
    assert (error["code"], error["started"]) == (Code.UNAVAILABLE, "no")
    assert items(admin) == []
    assert not stage.runner.begin_reset()


def test_statements_of_a_pipeline_are_answered_at_its_end(
    stage: Stage, admin: psycopg.Connection[Any]
) -> None:
    assert decode_value(stage.call("piped", numbers=[1, 2]).body) == [1, 2]
    assert items(admin) == [1, 2]
    assert stage.runner.reset()
    error = stage.error("piped", numbers=[3, 3])
    assert (error["code"], error["sqlstate"]) == (Code.UNKNOWN, "23505")
    assert error["started"] == "yes"
    assert stage.runner.reset()
    assert items(admin) == [1, 2]


def test_an_open_pipeline_costs_the_connection(stage: Stage) -> None:
    error = stage.error("left_open")
    assert "left a statement" in error["message"]
    assert not stage.runner.reset()

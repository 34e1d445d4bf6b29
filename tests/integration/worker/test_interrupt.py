from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from falconas.errors import Code
from falconas.worker.interrupt import (
    REPEAT,
    Cause,
    Interrupted,
    Interrupts,
    has_room,
)
from falconas.worker.runner import run_script
from tests.integration.worker.interruptible import (
    Stage,
    error,
    make_library,
    value,
)

if TYPE_CHECKING:
    from falconas.database.embedded import EmbeddedPostgres

# Each would run for ever, or nearly so.
ENDLESS = {
    "loop": """
        def run(ctx):
            while True: pass
    """,
    "loop_except": """
        def run(ctx):
            while True:
                try:
                    while True: sum(range(100))
                except Exception: pass
    """,
    "sleep": """
        import time
        def run(ctx): time.sleep(3600)
    """,
    "pg_sleep": """
        def run(ctx): ctx.db.execute("SELECT pg_sleep(3600)")
    """,
    "pg_sleep_read": """
        @script(access="read")
        def run(ctx): ctx.db.execute("SELECT pg_sleep(3600)")
    """,
    "lock_wait": """
        def run(ctx): ctx.db.execute("LOCK TABLE taken")
    """,
    "lock_twice": """
        import threading
        def run(ctx):
            lock = threading.Lock()
            lock.acquire()
            lock.acquire()
    """,
    "queue": """
        import queue
        def run(ctx): queue.Queue().get()
    """,
    "socket": """
        import socket
        def run(ctx):
            near, far = socket.socketpair()
            with near, far: near.recv(1)
    """,
    "subprocess": """
        import subprocess
        def run(ctx): subprocess.run(["sleep", "3600"])
    """,
    "many": """
        def run(ctx):
            ctx.db.executemany("SELECT pg_sleep(3600 + %s)", [(i,) for i in range(9)])
    """,
    "copy_in": """
        import time
        def run(ctx):
            with ctx.db.copy("COPY item FROM STDIN") as copy:
                copy.write_row((1,))
                time.sleep(3600)
    """,
    "copy_out": """
        @script(access="read")
        def run(ctx):
            with ctx.db.copy("COPY (SELECT pg_sleep(3600)) TO STDOUT") as copy:
                list(copy)
    """,
    "savepoint": """
        def run(ctx):
            with ctx.db.transaction():
                ctx.db.execute("INSERT INTO item VALUES (1)")
                ctx.db.execute("SELECT pg_sleep(3600)")
    """,
    "stream": """
        @script(access="read")
        def run(ctx):
            for _ in ctx.db.stream("SELECT generate_series(1, 1000000000)"): pass
    """,
    "dying": """
        import time
        class Dying:
            def __del__(self): time.sleep(3600)
        def run(ctx):
            ctx.db.execute("INSERT INTO item VALUES (1)")
            Dying()
            return "unharmed"
    """,
    "swallow_return": """
        import time
        def run(ctx):
            ctx.db.execute("INSERT INTO item VALUES (1)")
            try: time.sleep(3600)
            except: return "unharmed"
    """,
    "swallow_raise": """
        import time
        def run(ctx):
            ctx.db.execute("INSERT INTO item VALUES (1)")
            try: time.sleep(3600)
            except BaseException: raise ValueError("something else") from None
    """,
    "swallow_write": """
        import time
        @script(access="read")
        def run(ctx):
            try: time.sleep(3600)
            except BaseException: ctx.db.execute("INSERT INTO item VALUES (1)")
    """,
    "parameters": """
        import dataclasses, time
        @dataclasses.dataclass
        class Item:
            number: int = 0
            def __post_init__(self): time.sleep(3600)
        def run(ctx, item: Item): pass
    """,
    "disarmed": """
        import signal, time
        def run(ctx):
            signal.setitimer(signal.ITIMER_REAL, 0)
            while True: pass
    """,
}
OTHERS = {
    "insert": """
        def run(ctx, number: int):
            ctx.db.execute("INSERT INTO item VALUES (%s)", (number,))
    """,
    "after": """
        @script(access="read")
        def run(ctx): return ctx.db.execute("SELECT count(*), 7 FROM item").fetchone()
    """,
    "timers": """
        import signal
        def run(ctx):
            signal.signal(signal.SIGALRM, signal.SIG_IGN)
            for timer in (0, 1, 2): signal.setitimer(timer, 1e-3)
    """,
    "raising_timer": """
        import signal, time
        def run(ctx):
            def raise_it(*_): raise TimeoutError("mine")
            signal.signal(signal.SIGALRM, raise_it)
            signal.setitimer(signal.ITIMER_REAL, 1e-3)
            time.sleep(3600)
    """,
    "streams": """
        import time
        def run(ctx):
            for _ in ctx.db.stream("SELECT generate_series(1, 1000000)"):
                time.sleep(3600)
    """,
    "packing": """
        class Slow(dict):
            def items(self): told(); return super().items()
        def run(ctx): return Slow(a=1)
    """,
    "own_sigint": """
        import os, signal, time
        def run(ctx):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(3600)
    """,
    "commits": """
        import time
        def run(ctx):
            ctx.db.execute("INSERT INTO item VALUES (1)")
            ctx.db.execute("SELECT 1; SELECT pg_sleep(3600)")
    """,
}
# The script is stopped by the timer; where that was taken away, by the supervisor.
TIMED = sorted(ENDLESS.keys() - {"disarmed"})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scripts")
    make_library(folder, ENDLESS | OTHERS)
    return folder


@pytest.fixture(scope="module")
def database(postgres: EmbeddedPostgres) -> Iterator[str]:
    yield postgres.create_database("interrupts")
    postgres.drop_database("interrupts")


@pytest.fixture
def admin(database: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        connection.execute("CREATE TABLE item (id int); CREATE TABLE taken ()")
        yield connection


@pytest.fixture
def stage(
    database: str, folder: Path, admin: psycopg.Connection[Any]
) -> Iterator[Stage]:
    stage = Stage(database, make_library(folder, ENDLESS | OTHERS))
    yield stage
    stage.close()


def arguments(name: str) -> dict[str, Any]:
    return {"item": {}} if name == "parameters" else {}


@pytest.mark.parametrize("how", ["deadline", "cancel"])
@pytest.mark.parametrize("name", TIMED)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_whatever_a_script_does_it_is_stopped_and_the_next_request_is_right(
    stage: Stage, admin: psycopg.Connection[Any], name: str, how: str
) -> None:
    when = {"budget" if how == "deadline" else "cancel_after": 0.03}
    with admin.transaction():
        admin.execute("LOCK TABLE taken")
        got = error(stage.call(name, **when, **arguments(name)))
    if how == "deadline":
        assert got["code"] is Code.DEADLINE_EXCEEDED
        assert got["message"].startswith("the budget ran out after ")
        assert stage.interrupts.fired is Cause.DEADLINE
    else:
        assert got["code"] is Code.CANCELLED
        assert got["message"].startswith("cancelled after ")
        assert stage.interrupts.fired is Cause.CANCEL
    assert got["message"].endswith("s; rolled back")
    assert got["started"] == "yes"
    assert got["retry_safe"] is (stage.runner.loaded.scripts[name].idempotent)
    stage.reset()
    assert value(stage.call("after")) == [0, 7]
    assert stage.reset()


@pytest.mark.parametrize("name", ["pg_sleep", "pg_sleep_read", "lock_wait", "loop"])
def test_the_connection_of_a_stopped_statement_serves_on(
    stage: Stage, admin: psycopg.Connection[Any], name: str
) -> None:
    with admin.transaction():
        admin.execute("LOCK TABLE taken")
        stage.call(name, budget=0.03)
    assert stage.reset()
    running = admin.execute(
        "SELECT query FROM pg_stat_activity WHERE application_name = 'stage'"
        " AND state <> 'idle'"
    ).fetchall()
    assert running == []


def test_a_deadline_that_a_script_disarmed_comes_from_outside(stage: Stage) -> None:
    def alarm() -> None:
        while not done.wait(0.01):
            os.kill(os.getpid(), signal.SIGALRM)

    done = threading.Event()
    thread = threading.Thread(target=alarm)
    thread.start()
    try:
        got = error(stage.call("disarmed", budget=0.03))
    finally:
        done.set()
        thread.join()
    assert got["code"] is Code.DEADLINE_EXCEEDED


def test_a_cancel_that_was_there_before_keeps_the_script_from_beginning(
    stage: Stage, admin: psycopg.Connection[Any]
) -> None:
    stage.slot.cancel(b"epochepo" + (stage.count + 1).to_bytes(8, "big"))
    got = error(stage.call("insert", number=1))
    assert (got["code"], got["started"]) == (Code.CANCELLED, "no")
    assert got["retry_safe"] is True
    assert stage.reset()
    assert value(stage.call("after")) == [0, 7]  # it was for that one alone


def test_a_cancel_that_comes_while_the_result_is_packed_is_seen_before_the_commit(
    stage: Stage,
) -> None:
    def told() -> None:
        stage.slot.cancel(b"epochepo" + stage.count.to_bytes(8, "big"))
        os.kill(os.getpid(), signal.SIGALRM)  # and does not interrupt the packing

    stage.runner.loaded.scripts["packing"].run.__globals__["told"] = told
    got = error(stage.call("packing"))
    assert (got["code"], got["started"]) == (Code.CANCELLED, "yes")
    assert stage.interrupts.fired is None


def test_what_may_have_been_committed_is_not_called_rolled_back(stage: Stage) -> None:
    got = error(stage.call("commits", budget=0.05))
    assert (got["code"], got["started"]) == (Code.DEADLINE_EXCEEDED, "unknown")
    assert got["retry_safe"] is False
    assert "may be committed" in got["message"]


def test_timers_and_handlers_of_a_script_end_with_it(stage: Stage) -> None:
    value(stage.call("timers"))
    for timer in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF):
        assert signal.getitimer(timer) == (0.0, 0.0)
    stage.reset()
    assert "mine" in error(stage.call("raising_timer"))["message"]
    stage.reset()
    assert error(stage.call("loop", budget=0.01))["code"] is Code.DEADLINE_EXCEEDED


def test_run_script_has_a_deadline_and_leaves_ctrl_c_alone(
    database: str, folder: Path, admin: psycopg.Connection[Any]
) -> None:
    before = signal.getsignal(signal.SIGALRM)
    outcome = run_script(database, folder, "sleep", {}, budget=0.03)
    assert error(outcome)["code"] is Code.DEADLINE_EXCEEDED
    with pytest.raises(KeyboardInterrupt) as caught:
        run_script(database, folder, "own_sigint", {}, budget=60.0)
    assert not isinstance(caught.value, Interrupted)
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


# The window itself


@contextmanager
def installed(is_cancelled: Callable[[], bool]) -> Iterator[Interrupts]:
    interrupts = Interrupts(is_cancelled)
    interrupts.install()
    try:
        yield interrupts
    finally:
        interrupts.uninstall()


def alarm() -> None:
    os.kill(os.getpid(), signal.SIGALRM)


def nothing() -> None:
    pass


def test_outside_of_the_window_a_signal_does_nothing() -> None:
    with installed(lambda: True) as interrupts:
        alarm()
        assert interrupts.run(lambda: 5, time.monotonic() + 60, nothing) == 5
        alarm()
        assert interrupts.fired is None


def test_a_signal_without_a_cause_does_nothing() -> None:
    with installed(lambda: False) as interrupts:
        interrupts.run(alarm, time.monotonic() + 60, nothing)
        assert interrupts.fired is None


def test_it_stops_the_request_before_it_raises_and_once_in_a_while() -> None:
    stopped: list[Cause | None] = []

    def body() -> str:
        try:
            alarm()
        except Interrupted as error:
            alarm()  # what cleans up is not hit at once
            return str(error)
        return "unharmed"

    with installed(lambda: True) as interrupts:
        left = time.monotonic() + 60
        why = interrupts.run(body, left, lambda: stopped.append(interrupts.fired))
    assert why == "cancel"
    assert stopped == [Cause.CANCEL]


def test_who_swallows_it_is_hit_again_and_the_first_cause_stays() -> None:
    hits: list[str] = []
    quiet: list[float] = []

    def body() -> None:
        while len(hits) < 3:
            try:
                if not hits:
                    alarm()
                while True:
                    pass
            except Interrupted as error:
                hits.append(str(error))

    with installed(lambda: not quiet) as interrupts:

        def stop() -> None:
            quiet.append(interrupts._quiet_until)
            interrupts._deadline = 0.0  # is over as well from now on

        interrupts.run(body, time.monotonic() + 60, stop)
    assert interrupts.fired is Cause.CANCEL
    assert hits == ["cancel"] * 3
    # Each began when the time of the one before was over, or later.
    assert all(later - REPEAT >= until - 1e-9 for until, later in pairwise(quiet))


def test_a_shielded_handler_of_another_signal_is_not_torn() -> None:
    done: list[str] = []
    kill = partial(os.kill, os.getpid())

    def handler(*_: object) -> None:
        kill(signal.SIGALRM)
        done.append("handler")

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with installed(lambda: True) as interrupts:
            interrupts.shield(handler)
            body = partial(kill, signal.SIGUSR1)
            interrupts.run(body, time.monotonic() + 60, nothing)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert done == ["handler"]


def test_an_import_is_not_left_half_done() -> None:
    """The machinery of imports is spared, the modules that it runs are not."""
    bootstrap = compile(
        "def machinery(call): call()", "<frozen importlib._bootstrap>", "exec"
    )
    space: dict[str, Any] = {}
    exec(bootstrap, space)
    kill = partial(os.kill, os.getpid(), signal.SIGALRM)
    with installed(lambda: True) as interrupts:
        far = time.monotonic() + 60
        interrupts.run(partial(space["machinery"], kill), far, nothing)
        assert interrupts.fired is None
        with pytest.raises(Interrupted):
            interrupts.run(lambda: space["machinery"](alarm), far, nothing)


def wait_until(done: list[Any]) -> str:
    while not done:
        time.sleep(0.001)
    return "unharmed"


def test_who_takes_long_has_to_relent_and_goes_on() -> None:
    done: list[str] = []
    with installed(lambda: False) as interrupts:
        far = time.monotonic() + 60
        interrupts.lend(time.monotonic() + 0.005, lambda: done.append("relented"))
        assert interrupts.run(partial(wait_until, done), far, nothing) == "unharmed"
        assert interrupts.run(alarm, far, nothing) is None
    assert done == ["relented"]


def test_the_deadline_comes_after_relenting_too() -> None:
    done: list[str] = []
    with installed(lambda: False) as interrupts:
        now = time.monotonic()
        interrupts.lend(now + 0.005, lambda: done.append("relented"))
        with pytest.raises(Interrupted):
            interrupts.run(partial(wait_until, []), now + 0.02, nothing)
    assert interrupts.fired is Cause.DEADLINE
    assert done == ["relented"]


def test_who_is_done_before_need_not_relent() -> None:
    done: list[str] = []
    with installed(lambda: False) as interrupts:
        far = time.monotonic() + 60
        interrupts.lend(far, lambda: done.append("relented"))
        interrupts.run(nothing, far, nothing)
        interrupts.run(alarm, far, nothing)
    assert not done


def test_relenting_is_not_disturbed() -> None:
    done: list[object] = []

    def relent() -> None:
        alarm()
        done.append("relented")

    with installed(lambda: bool(done)) as interrupts:
        interrupts.lend(time.monotonic() + 0.005, relent)
        with pytest.raises(Interrupted):  # the signal came after it
            interrupts.run(partial(wait_until, []), time.monotonic() + 60, nothing)
    assert done == ["relented"]


def test_what_fails_in_relenting_stays_there() -> None:
    done: list[str] = []

    def relent() -> None:
        done.append("relented")
        raise ValueError("this is nothing of the script's")

    with installed(lambda: False) as interrupts:
        interrupts.lend(time.monotonic() + 0.005, relent)
        far = time.monotonic() + 60
        assert interrupts.run(partial(wait_until, done), far, nothing) == "unharmed"


def test_a_full_stack_is_noticed() -> None:
    def deep(left: int) -> bool:
        return has_room(60) if not left else deep(left - 1)

    assert deep(10)
    seen = []
    for left in range(sys.getrecursionlimit()):
        try:
            seen.append(deep(left))
        except RecursionError:
            break
    assert seen[-1] is False


def test_not_installed_it_only_runs() -> None:
    assert Interrupts().run(lambda: 3, 0.0, nothing) == 3


@pytest.mark.parametrize(
    ("name", "waits"), [("pg_sleep", True), ("sleep", False), ("streams", False)]
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_whose_time_it_was_is_said(stage: Stage, name: str, waits: bool) -> None:
    message = error(stage.call(name, budget=0.3))["message"]
    assert (": node main had not answered for " in message) is waits

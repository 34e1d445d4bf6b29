"""A deadline, a cancel and a worker's death end the SQL on the server as well."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from falconas.client.sync import Call, Client
from falconas.errors import Cancelled, DeadlineExceeded, FalconError, Unavailable
from tests.acceptance.activity import Observer
from tests.acceptance.stack import Stack, kill

WORKERS = 3
BUDGET = 1.0
LATEST = 0.5  # nobody runs it any more so long after the deadline, cancel or kill
SCRIPTS = {
    "sleep": """
def run(ctx, mark: str):
    ctx.db.execute("INSERT INTO traces VALUES (%s)", [mark])
    ctx.db.execute("SELECT pg_sleep(60) /* " + mark + " */")
""",
    "sleep_reading": """
from falconas import script

@script(access="read")
def run(ctx, mark: str):
    ctx.db.execute("SELECT pg_sleep(60) /* " + mark + " */")
""",
    "wait_for_lock": """
def run(ctx, mark: str):
    ctx.db.execute("INSERT INTO traces VALUES (%s)", [mark])
    ctx.db.execute("UPDATE locked SET number = 2 /* " + mark + " */")
""",
    "neighbour": """
def run(ctx, mark: str, naps: int):
    for number in range(naps):
        ctx.db.execute("SELECT pg_sleep(0.05) /* " + mark + " */")
    ctx.db.execute("INSERT INTO traces VALUES (%s)", [mark])
    return mark
""",
    "backend": """
from falconas import script

@script(access="read")
def run(ctx):
    return ctx.db.execute("SELECT pg_backend_pid()").fetchone()[0]
""",
}


@pytest.fixture(scope="module")
def dsn(postgres: Any) -> Iterator[str]:
    dsn = postgres.create_database("sql_stops")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE traces (mark text)")
        connection.execute("CREATE TABLE locked (number int)")
        connection.execute("INSERT INTO locked VALUES (1)")
    yield dsn
    postgres.drop_database("sql_stops")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, dsn: str) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("sql_stops")
    scripts = folder / "scripts"
    scripts.mkdir()
    for name, text in SCRIPTS.items():
        (scripts / f"{name}.py").write_text(text)
    with Stack(folder, dsn, scripts) as stack:
        stack.start_broker()
        stack.start_workers(WORKERS)
        yield stack


@pytest.fixture
def client(stack: Stack) -> Iterator[Client]:
    stack.await_workers(WORKERS)
    with stack.client() as client:
        yield client


@pytest.fixture
def observer(dsn: str) -> Iterator[Observer]:
    with Observer(dsn) as observer:
        yield observer


@pytest.fixture
def locked(dsn: str) -> Iterator[None]:
    """Hold a lock that a script will wait for."""
    with psycopg.connect(dsn) as connection:
        connection.execute("UPDATE locked SET number = number")
        yield


KINDS = pytest.mark.parametrize("script", ["sleep", "sleep_reading", "wait_for_lock"])


def _verdict(call: Call) -> FalconError:
    with pytest.raises(FalconError) as caught:
        call.result()
    return caught.value


def _beside(mark: str, naps: int) -> dict[str, Any]:
    return {"mark": f"[beside {mark[1:]}", "naps": naps}


def _nothing_stays(observer: Observer, mark: str) -> None:
    assert observer.execute("SELECT * FROM traces WHERE mark = %s", mark) == []


@KINDS
def test_a_deadline_ends_the_statement(
    client: Client, observer: Observer, locked: None, script: str
) -> None:
    mark = f"[deadline {script}]"
    neighbour = client.submit("neighbour", _beside(mark, 28))
    observer.await_running(f"[beside {mark[1:]}")
    backends = observer.backends()
    began = observer.now()
    call = client.submit(script, {"mark": mark}, budget=BUDGET)
    backend = observer.await_running(mark)

    ended = observer.last_seen(mark, backend)

    print(f"\n{mark} ended {ended - began - BUDGET:+.3f} s after the deadline")
    assert isinstance(_verdict(call), DeadlineExceeded)
    assert began + BUDGET - 0.1 < ended < began + BUDGET + LATEST
    assert neighbour.result() == f"[beside {mark[1:]}"
    assert backends - observer.backends() <= {backend}, "others paid for it"
    _nothing_stays(observer, mark)


@KINDS
def test_a_cancel_ends_the_statement(
    client: Client, observer: Observer, locked: None, script: str
) -> None:
    mark = f"[cancel {script}]"
    neighbour = client.submit("neighbour", _beside(mark, 10))
    observer.await_running(f"[beside {mark[1:]}")
    backends = observer.backends()
    call = client.submit(script, {"mark": mark}, budget=60.0)
    backend = observer.await_running(mark)
    cancelled = observer.now()
    call.cancel()

    ended = observer.last_seen(mark, backend)

    print(f"\n{mark} ended {ended - cancelled:.3f} s after the cancel")
    error = _verdict(call)
    assert isinstance(error, Cancelled)
    assert error.started == "yes"
    assert ended < cancelled + LATEST
    assert neighbour.result() == f"[beside {mark[1:]}"
    assert backends - observer.backends() <= {backend}, "others paid for it"
    _nothing_stays(observer, mark)


@KINDS
def test_a_killed_workers_statement_ends(
    stack: Stack, client: Client, observer: Observer, locked: None, script: str
) -> None:
    mark = f"[kill {script}]"
    neighbour = client.submit("neighbour", _beside(mark, 10))
    observer.await_running(f"[beside {mark[1:]}")
    backends = observer.backends()
    call = client.submit(script, {"mark": mark}, budget=60.0)
    backend = observer.await_running(mark)
    (pid,) = [w["pid"] for w in stack.workers() if w["script"] == script]
    killed = observer.now()
    assert kill(pid)

    ended = observer.last_seen(mark, backend)

    print(f"\n{mark} ended {ended - killed:.3f} s after the kill")
    assert ended < killed + LATEST
    spent = {backend}
    if script == "sleep_reading":  # it is started once more elsewhere
        spent.add(observer.await_running(mark))  # what is interrupted may cost one
        call.cancel()
        assert isinstance(_verdict(call), Cancelled)
    else:
        assert isinstance(_verdict(call), Unavailable)
    assert neighbour.result() == f"[beside {mark[1:]}"
    assert backends - observer.backends() <= spent
    _nothing_stays(observer, mark)

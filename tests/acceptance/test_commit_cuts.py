"""Connections are cut around COMMIT: who hears OK has it, who is in doubt hears so."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from falconas.database.embedded import EmbeddedPostgres
from falconas.database.options import PoolOptions
from falconas.database.pool import NodePool
from falconas.database.pool_async import AsyncNodePool
from falconas.errors import FalconError, Started, Unavailable
from tests.acceptance.activity import Observer
from tests.acceptance.stack import Stack, wait_for
from tests.proxy import Moment, Proxy

SCRIPTS = {
    "insert": """
def run(ctx, mark: str):
    ctx.db.execute("INSERT INTO traces VALUES (%s)", [mark])
""",
    "nothing": """
from falconas import script

@script(access="read")
def run(ctx):
    pass
""",
}
INSERT = "INSERT INTO traces VALUES (%s)"
OTHERS = """
SELECT 1 FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
AND (state <> 'idle' OR backend_type <> 'client backend')
"""

Write = Callable[[str], None]


class Table:
    """The table that is written to, past the proxy, and what was said of its rows."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self.seen = Counter[str]()

    def backend(self, *, other: int = 0) -> int:
        """Wait until the one worker is connected anew; return the backend."""
        found: set[int] = wait_for(
            lambda: len(now := self._observer.backends() - {other}) == 1 and now,
            "the worker's backend",
        )
        return found.pop()

    def judge(self, mark: str, error: Exception | None) -> tuple[str, bool]:
        """Compare what the caller was told with what is there."""
        wait_for(lambda: not self._observer.execute(OTHERS), "the end of the writing")
        found = self._observer.execute("SELECT 1 FROM traces WHERE mark = %s", mark)
        assert len(found) <= 1, f"{mark} is there {len(found)} times"
        said = "OK" if error is None else _started(error)
        there = bool(found)
        assert there or said != "OK", f"{mark}: a false OK"
        assert not there or said in ("OK", "unknown"), f"{mark}: falsely {error!r}"
        if said == "unknown":
            assert not getattr(error, "retry_safe", None), f"{mark}: {error!r}"
        self.seen[f"{said}, {'there' if there else 'not there'}"] += 1
        return said, there


def _started(error: Exception) -> str:
    """Return what an error says; psycopg's own mean that all was rolled back."""
    if not isinstance(error, FalconError):
        assert isinstance(error, psycopg.Error), error
        return "yes"
    return Started(error.started).value


@pytest.fixture
def table(database: str) -> Iterator[Table]:
    with Observer(database) as observer:
        observer._connection.execute("CREATE TABLE traces (mark text)")
        yield Table(observer)


@pytest.fixture
def proxy(postgres: EmbeddedPostgres, database: str) -> Iterator[Proxy]:
    name = str(conninfo_to_dict(database)["dbname"])
    with Proxy(postgres.dsn(name, tcp=True) + " sslmode=disable") as proxy:
        yield proxy


@contextmanager
def worker(proxy: Proxy, folder: Path) -> Iterator[Write]:
    """One worker's connection goes through the proxy."""
    scripts = folder / "scripts"
    scripts.mkdir()
    for name, text in SCRIPTS.items():
        (scripts / f"{name}.py").write_text(text)
    with Stack(folder, proxy.dsn, scripts) as stack:
        stack.start_broker()
        stack.start_workers(1)
        stack.await_workers(1)
        with stack.client() as client:

            def write(mark: str) -> None:
                try:
                    client.call("insert", {"mark": mark})
                finally:
                    with suppress(Unavailable):  # the cut was in the reset
                        client.call("nothing")  # its turn comes after that

            yield write


@contextmanager
def threads(proxy: Proxy, folder: Path) -> Iterator[Write]:
    with NodePool(proxy.dsn, PoolOptions(max_size=1)) as pool:

        def write(mark: str) -> None:
            with pool.connection() as connection:
                connection.execute(INSERT, [mark])

        yield write


@contextmanager
def coroutines(proxy: Proxy, folder: Path) -> Iterator[Write]:
    async def write(mark: str) -> None:
        async with pool.connection() as connection:
            await connection.execute(INSERT, [mark])

    with asyncio.Runner() as runner:
        pool = AsyncNodePool(proxy.dsn, PoolOptions(max_size=1))
        yield lambda mark: runner.run(write(mark))
        runner.run(pool.close())


def cuts(quick: int, full: int) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        "count",
        [
            pytest.param(quick, id="quick"),
            pytest.param(full, id="full", marks=pytest.mark.campaign),
        ],
    )


def attempt(write: Write, mark: str) -> Exception | None:
    try:
        write(mark)
    except (FalconError, psycopg.Error) as error:
        return error
    return None


@pytest.mark.parametrize("writer", [worker, threads, coroutines])
@cuts(12, 300)
def test_nothing_false_is_said_of_a_commit_that_was_cut_off(
    proxy: Proxy, table: Table, tmp_path: Path, writer: Any, count: int
) -> None:
    moments = list(Moment)
    with writer(proxy, tmp_path) as write:
        for number in range(count):
            moment, mark = moments[number % len(moments)], f"mark {number}"
            cut = proxy.cut_at(b"COMMIT", moment)
            error = attempt(write, mark)
            assert cut.wait(5), "the connection was not cut"
            said, there = table.judge(mark, error)
            assert said == "unknown", f"cut {moment.value}: {error!r}"
            assert moment is Moment.SENT or there is (moment is Moment.ANSWERED)
    assert table.seen["unknown, there"] >= count // 3
    print(f"\n{count} cuts around COMMIT, {writer.__name__}: {dict(table.seen)}")


@pytest.mark.parametrize(
    "step",
    [
        pytest.param(97, id="quick"),
        pytest.param(1, id="full", marks=pytest.mark.campaign),
    ],
)
def test_nothing_false_is_said_at_whatever_byte_the_connection_was_cut(
    proxy: Proxy, table: Table, tmp_path: Path, step: int
) -> None:
    cuts, numbers = 0, itertools.count()
    proxy.spared = b"falconas/probe"  # whose bytes would be counted too
    with worker(proxy, tmp_path) as write:
        backend = table.backend()
        for way in proxy.requests, proxy.answers:
            for place in itertools.count(1, step):
                mark = f"mark {next(numbers)}"
                way.cut_after(place)
                table.judge(mark, attempt(write, mark))
                if way._left is not None:  # it was over before
                    break
                backend = table.backend(other=backend)
                cuts += 1
            proxy.heal()
    assert {"OK, there", "yes, not there"} < set(table.seen)
    print(f"\n{cuts} cuts at each {step}. byte of a write: {dict(table.seen)}")

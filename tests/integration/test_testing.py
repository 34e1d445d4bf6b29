from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from falconas import script, testing
from falconas.database.session import ConnectFailed
from falconas.errors import Aborted, FalconError, InvalidArgument, ScriptError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from falconas.database.embedded import EmbeddedPostgres


@pytest.fixture(scope="module")
def database(postgres: EmbeddedPostgres) -> Iterator[str]:
    dsn = postgres.create_database("testing")
    with psycopg.connect(dsn) as connection:
        connection.execute(
            "CREATE TABLE item (id int PRIMARY KEY,"
            " parent int REFERENCES item DEFERRABLE INITIALLY DEFERRED)"
        )
    yield dsn
    postgres.drop_database("testing")


DOCUMENT = Path(__file__).parents[2] / "docs" / "scripts.md"


def add(ctx: Any, number: int, parent: int | None = None) -> tuple[int, float]:
    ctx.db.execute("INSERT INTO item VALUES (%s, %s)", (number, parent))
    return number, ctx.remaining()


def test_a_function_runs_and_is_rolled_back(database: str) -> None:
    for _ in range(2):  # the second would meet the first one's row
        number, remaining = testing.run(add, {"number": 7}, dsn=database, budget=9)
        assert number == 7
        assert 0 < remaining <= 9


def test_a_file_runs(tmp_path: Path, database: str) -> None:
    path = tmp_path / "shown.py"
    path.write_text(
        "from falconas import script\n"
        "@script(access='read')\n"
        "def run(ctx): return ctx.db.execute('SHOW transaction_read_only').fetchone()\n"
    )
    path.chmod(0o644)
    assert testing.run(path, dsn=database) == ["on"]
    path.write_text(")")
    with pytest.raises(testing.ScriptLoadError, match=r"shown\.py:1: SyntaxError"):
        testing.run(str(path), dsn=database)


def test_what_a_worker_would_refuse_is_refused(database: str) -> None:
    def unpackable(ctx: Any) -> object:
        del ctx
        return object()

    def swallows(ctx: Any) -> None:
        with pytest.raises(psycopg.errors.DivisionByZero):
            ctx.db.execute("SELECT 1/0")

    def commits(ctx: Any) -> None:
        ctx.db.execute("COMMIT")

    @script(access="read")
    def writes(ctx: Any) -> None:
        ctx.db.execute("DELETE FROM item")

    with pytest.raises(InvalidArgument, match="number"):
        testing.run(add, {"number": "x"}, dsn=database)
    with pytest.raises(ScriptError, match="no encoding"):
        testing.run(unpackable, dsn=database)
    with pytest.raises(Aborted):
        testing.run(swallows, dsn=database)
    with pytest.raises(FalconError, match="COMMIT"):
        testing.run(commits, dsn=database)
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        testing.run(writes, dsn=database)


def test_without_a_dsn_it_is_the_one_of_the_workers(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FALCONAS_DATABASE__DSN", database)
    assert testing.run(add, {"number": 7})[0] == 7
    with testing.context() as ctx:
        assert ctx.db.execute("SELECT current_database()").fetchone() == ("testing",)
    with pytest.raises(ConnectFailed, match="nowhere"):
        testing.run(add, {"number": 7}, dsn="host=/nowhere")


def test_the_documented_fixture_gives_a_database(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    (fixture,) = [block for block in blocks if "EmbeddedPostgres" in block]
    (tmp_path / "conftest.py").write_text(fixture)
    (tmp_path / "test_it.py").write_text(
        "from falconas.testing import context\n"
        "def test_it(dsn):\n"
        "    with context(dsn) as ctx:\n"
        "        assert ctx.db.execute('SELECT 1').fetchone() == (1,)\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "--basetemp", str(tmp_path / "t")]
    done = subprocess.run(
        [*command, "-c", "/dev/null", "--rootdir", str(tmp_path), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "1 passed" in done.stdout, done.stdout + done.stderr
    assert not list((tmp_path / "t").glob("postgres*"))


def test_what_only_commit_would_find_is_found(database: str) -> None:
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        testing.run(add, {"number": 1, "parent": 99}, dsn=database)


def test_a_context_is_rolled_back_and_ends(database: str) -> None:
    with testing.context(database, script="mine") as ctx:
        assert add(ctx, 3)[0] == 3
        assert ctx.db.execute("SELECT count(*) FROM item").fetchone() == (1,)
        assert (ctx.script, ctx.node, ctx.caller) == ("mine", "test", None)
    with pytest.raises(psycopg.InterfaceError, match="has ended"):
        ctx.db.execute("SELECT 1")
    with testing.context(database, access="read") as ctx:
        assert ctx.db.execute("SELECT count(*) FROM item").fetchone() == (0,)

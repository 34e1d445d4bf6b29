from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from falconas import script, testing
from falconas.errors import Aborted, FalconError, InvalidArgument, ScriptError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

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

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from falconas.cli import main

READ = '''
from falconas import script

@script(access="read")
def run(ctx, n: int, text: str = "t"):
    """Tell what it got."""
    print("printed")
    row = ctx.db.execute("select %s::int + 1", (n,)).fetchone()
    return {"n": row[0], "text": text, "node": ctx.node}
'''
WRITE = """
def run(ctx, fail: bool = False):
    ctx.db.execute("create table if not exists kept (n int)")
    ctx.db.execute("insert into kept values (1)")
    if fail:
        raise ValueError("refused")
    return ctx.db.execute("select count(*) from kept").fetchone()[0]
"""

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(
    database: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    scripts = tmp_path / "workers"
    scripts.mkdir()
    (scripts / "read.py").write_text(READ)
    (scripts / "write.py").write_text(WRITE)
    (scripts / "bad.py").write_text("def run(:\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FALCONAS_DATABASE__DSN", database)

    def invoke(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            main(["run", "--log-level", "error", *arguments])
        captured = capsys.readouterr()
        assert isinstance(caught.value.code, int)
        return caught.value.code, captured.out, captured.err

    return invoke


def test_a_script_runs_here(run: Run) -> None:
    code, out, err = run("read", "n=4", "text=5", "--json", "--node", "here", "-v")
    assert (code, json.loads(out)) == (0, {"n": 5, "text": "5", "node": "here"})
    assert err.startswith("printed\nserved by this process on node here in ")


def test_what_it_writes_is_committed_unless_it_fails(run: Run) -> None:
    assert run("write")[:2] == (0, "1\n")
    code, out, err = run("write", "fail=yes")
    assert (code, out) == (1, "")
    assert "UNKNOWN: ValueError: refused (started)" in err
    assert run("write")[1] == "2\n"


def test_its_group_says_in_what_session(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FALCONAS_GROUPS__A__SCRIPTS", "write")
    monkeypatch.setenv("FALCONAS_GROUPS__A__AUTOCOMMIT", "true")
    assert run("write", "fail=yes")[0] == 1
    assert run("write")[1] == "2\n"  # what failed has stayed
    code, _, err = run("read", "n=1")
    assert code == 2
    assert "script read belongs to no group" in err
    monkeypatch.setenv("FALCONAS_GROUPS__A__ACCESS", "read")
    assert "read-only" in run("write")[2]


@pytest.mark.parametrize("words", [["n:=4"], ["n=4"]])
def test_a_folder_that_cannot_be_read_is_one_line(
    run: Run, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    def refuse(_: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("falconas.worker.scripts._files", refuse)
    code, _, err = run("read", *words)
    assert code == 2
    (line,) = err.splitlines()
    assert "cannot be read: Permission denied" in line


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["none"], 1, "NOT_FOUND: there is no script 'none'"),
        (["bad"], 1, "NOT_FOUND: script bad does not load: bad.py:1: SyntaxError"),
        (["read"], 1, "INVALID_ARGUMENT: parameter n (int) is missing"),
        (["read", "n=x"], 1, "INVALID_ARGUMENT: parameter n must be a whole number"),
        (["read", "m:=1"], 1, "INVALID_ARGUMENT: unknown parameter 'm'"),
        (["read", "--scripts", "none"], 2, "does not exist"),
        (["read", "n:=1", "--budget", "x"], 2, "--budget must be a duration"),
        (["read", "n:=1", "--dsn", "host=127.0.0.1 port=1"], 1, "UNAVAILABLE: "),
    ],
)
def test_bad_input_is_one_line(
    run: Run, arguments: list[str], code: int, words: str
) -> None:
    found, out, err = run(*arguments)
    assert (found, out) == (code, "")
    assert words in err
    assert len(err.splitlines()) == 1

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from psycopg import pq
from psycopg._preparing import Prepare
from psycopg.rows import dict_row, tuple_row

from falconas.database.prepared import Prepared

ROWS: Any = SimpleNamespace(status=pq.ExecStatus.TUPLES_OK, command_status=b"SELECT 1")


def query(text: str) -> Any:
    return SimpleNamespace(query=text.encode(), types=())


@pytest.fixture
def prepared() -> Prepared:
    return Prepared()


def run(prepared: Prepared, text: str, prepare: bool | None = None) -> Prepare:
    """Ask for a statement as a cursor does."""
    prep, name = prepared.get(query(text), prepare)
    if key := prepared.maybe_add_to_cache(query(text), prep, name):
        prepared.validate(key, prep, name, [ROWS])
    return prep


def test_what_is_prepared_can_be_left_aside(prepared: Prepared) -> None:
    assert run(prepared, "SELECT 1", True) is Prepare.SHOULD
    assert run(prepared, "SELECT 1") is Prepare.YES
    assert run(prepared, "SELECT 1", False) is Prepare.NO
    prepared.prepare_threshold = None
    assert run(prepared, "SELECT 1") is Prepare.NO


@pytest.mark.parametrize("text", ["COMMIT", " end", "Commit AND CHAIN"])
def test_what_commits_is_looked_at_each_time(prepared: Prepared, text: str) -> None:
    for _ in range(8):
        assert run(prepared, text) is Prepare.NO
    assert run(prepared, text, True) is Prepare.NO


def test_what_has_been_used_for_longest_is_kept_for_longest(prepared: Prepared) -> None:
    prepared.prepared_max = 2
    for text in ("SELECT 1", "SELECT 2", "SELECT 1", "SELECT 3"):
        run(prepared, text, True)
    assert [key[0] for key in prepared._names] == [b"SELECT 1", b"SELECT 3"]


def maker(prepared: Prepared, text: str, name: bytes, factory: Any = dict_row) -> Any:
    result = SimpleNamespace(
        status=pq.ExecStatus.TUPLES_OK, nfields=1, fname=lambda _: text[-1:].encode()
    )
    cursor: Any = SimpleNamespace(pgresult=result, _encoding="utf-8")
    return prepared.row_maker(text.encode(), name, cursor, factory)


def test_the_rows_of_a_prepared_query_are_made_alike(prepared: Prepared) -> None:
    made = maker(prepared, "SELECT 1 AS a", b"p")
    assert made((1,)) == {"a": 1}
    assert maker(prepared, "SELECT 1 AS a", b"p") is made
    assert maker(prepared, "SELECT 1 AS b", b"q")((1,)) == {"b": 1}
    assert maker(prepared, "SELECT 1 AS a", b"p", tuple_row) is tuple
    assert maker(prepared, "SELECT 1 AS a", b"") is not made


@pytest.mark.parametrize(
    ("text", "factory"),
    [("EXECUTE a", dict_row), ("SELECT 1 AS a", lambda _cursor: lambda row: [row])],
)
def test_what_may_depend_on_more_is_made_anew(
    prepared: Prepared, text: str, factory: Any
) -> None:
    made = maker(prepared, text, b"p", factory)
    assert maker(prepared, text, b"p", factory) is not made


def test_not_all_that_ever_made_rows_is_kept(prepared: Prepared) -> None:
    for number in range(3 * prepared.prepared_max):
        maker(prepared, "SELECT 1 AS a", b"%d" % number)
    assert len(prepared._makers) <= prepared.prepared_max


def test_a_name_is_that_of_what_is_prepared_and_counts_as_use(
    prepared: Prepared,
) -> None:
    prepared.prepared_max = 2
    assert prepared.name(b"SELECT 1", ()) is None
    run(prepared, "SELECT 1", True)
    run(prepared, "SELECT 2", True)
    assert prepared.name(b"SELECT 1", ()) == b"_pg3_0"
    assert prepared.name(b"SELECT 1", (23,)) is None
    run(prepared, "SELECT 3", True)
    assert [key[0] for key in prepared._names] == [b"SELECT 1", b"SELECT 3"]
    prepared.prepare_threshold = None
    assert prepared.name(b"SELECT 1", ()) is None

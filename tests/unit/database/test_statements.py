from __future__ import annotations

from typing import Any

import pytest
from psycopg import sql

from falconas.database.statements import (
    _alone,
    _with_names,
    _with_values,
    is_plain,
    is_single,
    layout,
    look,
)


@pytest.mark.parametrize(
    ("query", "params", "single"),
    [
        ("SELECT 1", None, True),
        (" select 1 ;\n", None, True),
        ("SELECT 1; SELECT 2", None, False),
        ("SELECT %s; -- more", (1,), True),  # the server takes no two with parameters
        ("COPY item TO STDOUT", None, False),
        (b"SELECT 1", None, False),
        (sql.SQL("SELECT 1"), None, False),
        # of a mapping nothing is sent if the text names nothing
        ("SELECT 1; SELECT 2", {"a": 1}, False),
        ("SELECT 1; SELECT %(a)s", {"a": 1}, True),
        ("SELECT 1; SELECT 'x%%(a)s'", {"a": 1}, False),
        ("SELECT 1; SELECT '%%%(a)s'", {"a": 1}, True),
        ("SELECT 1", {"a": 1}, True),
        (b"SELECT %(a)s", {"a": 1}, True),
        (b"SELECT 1; SELECT 2", {"a": 1}, False),
        (sql.SQL("SELECT {}").format(sql.Placeholder("a")), {"a": 1}, True),
        (sql.SQL("SELECT 1; SELECT 2"), {"a": 1}, False),
    ],
)
def test_a_single_statement_is_known(query: Any, params: Any, single: bool) -> None:
    assert is_single(query, params) is single


@pytest.mark.parametrize(
    ("query", "plain"),
    [
        ("SELECT 1", True),
        ("\n( select 1)", True),
        ("insert into item values (1) returning id;", True),
        ("INSERT INTO item VALUES (1); COMMIT", False),
        ("COMMIT AND CHAIN", False),
        ("comment on table item is ''", False),  # as far as four letters tell
        ("/* SELECT */ COMMIT", False),
        ("PREPARE TRANSACTION 'x'", False),
        ("END", False),
        ("", False),
        (b"SELECT 1", False),
        (sql.SQL("SELECT {}").format(sql.Literal(1)), True),
        (sql.SQL("ROLLBACK AND {}").format(sql.SQL("CHAIN")), False),
    ],
)
def test_what_may_end_a_transaction_is_not_plain(query: Any, plain: bool) -> None:
    assert is_plain(query) is plain


@pytest.mark.parametrize(
    "query", ["SELECT 1", "COMMIT", "SELECT 1; SELECT 2", b"SELECT 1"]
)
@pytest.mark.parametrize("params", [None, (1,), {"a": 1}])
def test_a_look_at_both_says_the_same_each_time(query: Any, params: Any) -> None:
    for _ in range(2):
        single = is_single(query, params)
        kind = look(query, params)
        assert (kind.joined, kind.plain) == (single, is_plain(query))
        assert kind.opaque is kind.several is not single


def test_long_texts_are_not_kept() -> None:
    ways: Any = ((None, _alone), ([1], _with_values), ({"a": 1}, _with_names))
    for params, kept in ways:
        kept.cache_clear()
        look("SELECT 1", params)
        look("SELECT " + "1 + " * 2000 + "1", params)
        assert kept.cache_info().currsize == 1


@pytest.mark.parametrize(
    ("query", "params", "values"),
    [
        ("SELECT %s, %s", [1, 2], [1, 2]),
        ("SELECT %s, %s", (1, 2), (1, 2)),
        ("SELECT %s, %s", [1], None),
        ("SELECT %s", {"a": 1}, None),
        ("SELECT %s", iter([1]), None),
        ("SELECT %(a)s, %(b)s, %(a)s", {"b": 1, "a": 2, "c": 3}, [2, 1]),
        ("SELECT %(a)s", {"b": 1}, None),
        ("SELECT %(a)s", [1], None),
        ("SELECT 1", [], []),
    ],
)
def test_values_are_in_the_order_of_their_places(
    query: str, params: Any, values: Any
) -> None:
    """Where they do not fit, psycopg has to say what is wrong."""
    found = layout(query, "utf-8")
    assert found is not None
    assert found.values(params) == values


def test_what_is_no_text_or_a_long_one_is_left_to_psycopg() -> None:
    assert layout(b"SELECT %s", "utf-8") is None
    assert layout("SELECT " + ",".join(["%s"] * 50), "utf-8") is not None
    assert layout("SELECT " + ",".join(["%s"] * 51), "utf-8") is None
    assert layout("SELECT %s" + " " * 4000, "utf-8") is None

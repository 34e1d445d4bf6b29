from __future__ import annotations

import sys
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from falconas.cli.table import UNLIMITED, cut, render, table, width_of


def lines(value: Any, width: int = UNLIMITED) -> list[str]:
    return render(value, width).split("\n")


def test_a_list_of_maps_is_a_table() -> None:
    rows = [{"name": "bolt", "qty": 3}, {"name": "nut", "qty": Decimal("12.50")}]
    assert lines(rows) == [
        "name    qty",
        "----  -----",
        "bolt      3",
        "nut   12.50",
    ]


def test_columns_are_those_of_all_rows_in_order_of_appearance() -> None:
    assert lines([{"a": 1}, {"b": "x", "a": None}]) == [
        "a  b",
        "-  -",
        "1",
        "-  x",
    ]


def test_chosen_columns() -> None:
    assert table([{"a": 1, "b": 2}], ["b"]) == ["b", "-", "2"]


def test_a_map_is_indented_fields() -> None:
    value = {"id": 7, "name": "Ann", "address": {"city": "Ulm"}, "tags": [], "x": None}
    assert lines(value) == [
        "id:   7",
        "name: Ann",
        "address:",
        "  city: Ulm",
        "tags: (empty)",
        "x:    -",
    ]


def test_a_map_with_rows_holds_a_table() -> None:
    assert lines({"orders": [{"k": 1}, {"k": 2}]}) == [
        "orders:",
        "  k",
        "  -",
        "  1",
        "  2",
    ]


def test_other_lists_are_items() -> None:
    assert lines([1, "b", {"x": 1, "y": 2}]) == ["- 1", "- b", "- x: 1", "  y: 2"]
    assert lines([{}, {"a": 1}]) == ["- (empty)", "- a: 1"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ([], "(empty)"),
        ({}, "(empty)"),
        (None, "-"),
        (True, "true"),
        (1.5, "1.5"),
        ("two\nlines", "two\nlines"),
        (b"\x01\xff", "2 bytes 01ff"),
        (b"a" * 20, "20 bytes " + "61" * 16 + "…"),
        (datetime(2024, 1, 2, 3, 4, tzinfo=UTC), "2024-01-02 03:04:00+00:00"),
    ],
)
def test_single_values(value: Any, text: str) -> None:
    assert render(value, 80) == text


def test_a_text_of_several_lines_stays_in_its_field() -> None:
    assert lines({"note": "a\nb", "x": ""}) == ["note: a", "      b", "x:"]


def test_nested_values_in_a_cell_are_json() -> None:
    row = {"v": [1, {"k": b"a", "d": Decimal("1.0"), "n": None}]}
    assert lines([row])[2] == '[1, {"k": "1 bytes 61", "d": "1.0", "n": null}]'


def test_no_line_is_wider_than_the_terminal() -> None:
    rows = [{"n": 1, "long": "x" * 300, "mid": "日本語" * 10, "s": "ok"}]
    found = lines(rows, 60)
    assert all(width_of(line) <= 60 for line in found)
    assert found[2].count("…") == 2
    assert found[2].startswith("1  xxx")
    assert found[2].endswith("  ok")


def test_no_column_is_cut_without_need() -> None:
    assert "…" not in render([{"a": "x" * 40, "b": "y" * 18}], 60)
    assert "…" in render([{"a": "x" * 40, "b": "y" * 18}], 59)


def test_too_many_columns_become_blocks() -> None:
    rows = [{f"column{i}": 10**9 + i for i in range(9)}] * 2
    found = lines(rows, 40)
    assert found[0] == "- 1 -"
    assert found[1] == "column0: 1000000000"
    assert found[10] == "- 2 -"


@pytest.mark.usefixtures("capsys")
def test_nothing_is_cut_in_a_pipe() -> None:
    assert not sys.stdout.isatty()
    assert "…" not in render([{"a": "x" * 5000}])


def test_the_terminal_gives_the_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "30")
    assert max(map(len, render([{"a": "x" * 5000}]).split("\n"))) == 30


def test_widths_of_characters() -> None:
    assert [width_of(t) for t in ("abc", "日本", "e\u0301", "")] == [3, 4, 1, 0]
    assert cut("abcdef", 4) == "abc…"
    assert cut("日本語", 4) == "日…"
    assert cut("日本", 4) == "日本"


@pytest.mark.parametrize(
    "value", ["\x1b[2J", ["\x1b[2J"], {"\x1b[2J": "\x1b[2J"}, [{"a": "\x1b[2J"}]]
)
def test_no_value_steers_the_terminal(value: Any) -> None:
    assert "\x1b" not in render(value, 80)
    assert r"\x1b[2J" in render(value, 80)

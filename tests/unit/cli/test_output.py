from __future__ import annotations

import json
from datetime import date, timedelta
from decimal import Decimal
from uuid import UUID

import pytest

from falconas.cli.output import print_value, served_by, short, to_json


def test_json_keeps_what_json_has_and_writes_the_rest_as_text() -> None:
    value = {
        "n": 1,
        "x": 1.5,
        "t": "ü",
        "none": None,
        "price": Decimal("12.50"),
        "day": date(2024, 1, 2),
        "id": UUID(int=1),
        "raw": b"\x00\xff",
        "took": timedelta(seconds=90),
        "rows": [(1, 2)],
        3: "key",
    }
    assert json.loads(to_json(value)) == {
        "n": 1,
        "x": 1.5,
        "t": "ü",
        "none": None,
        "price": "12.50",
        "day": "2024-01-02",
        "id": "00000000-0000-0000-0000-000000000001",
        "raw": "AP8=",
        "took": "PT90S",
        "rows": [[1, 2]],
        "3": "key",
    }
    assert "\n  " in to_json(value)


def test_people_get_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    print_value([{"a": 1}], as_json=False)
    assert capsys.readouterr().out == "a\n-\n1\n"
    print_value([{"a": 1}], as_json=True)
    assert json.loads(capsys.readouterr().out) == [{"a": 1}]


def test_a_hash_is_shortened() -> None:
    assert short("0123456789abcdef") == "01234567"
    assert short(None) == ""


def test_who_served() -> None:
    info = {"worker": "h/1", "node": "n", "run_us": 1500}
    assert served_by(info) == "served by h/1 on node n in 1.5 ms"
    info["hash"] = "0123456789abcdef"
    assert served_by(info) == "served by h/1 on node n in 1.5 ms, script 01234567"
    assert served_by({}) == "served by this process on node ?"

from __future__ import annotations

import datetime as dt
import uuid
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal

import msgspec
import pytest

from falconas.cli.shapes import fields, shape


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Line(msgspec.Struct):
    part: Annotated[int, msgspec.Meta(ge=1)]
    quantity: Annotated[int, msgspec.Meta(ge=1, le=50)] = 1
    parents: list[Line] = []


@pytest.mark.parametrize(
    ("hint", "text"),
    [
        (int, "int"),
        (float | None, "float | None"),
        (Any, "any"),
        (list, "list"),
        (list[Line], "list[Line]"),
        (Line, "Line"),
        (Colour, '"blue" | "red"'),
        (Literal["a", 1], '1 | "a"'),
        (tuple[int, str], "tuple[int, str]"),
        (dict[str, Decimal], "dict[str, decimal]"),
        (dt.date, "date"),
        (Annotated[dt.datetime, msgspec.Meta(tz=True)], "datetime"),
        (uuid.UUID, "uuid"),
        (bytes, "base64"),
        (Annotated[float, msgspec.Meta(gt=0, lt=1)], "float > 0 < 1"),
        (Annotated[int, msgspec.Meta(ge=0, le=9)], "int 0..9"),
        (
            Annotated[str, msgspec.Meta(max_length=3, pattern="^a")],
            "str 0..3 characters like ^a",
        ),
        (Annotated[list[int], msgspec.Meta(min_length=1)], "list[int] >= 1 items"),
    ],
)
def test_a_schema_reads_like_a_type(hint: Any, text: str) -> None:
    assert shape(msgspec.json.schema(hint)) == text


def test_structs_are_told_field_by_field() -> None:
    assert fields(msgspec.json.schema(dict[str, Line])) == {
        "Line": [
            {"field": "part", "type": "int >= 1", "default": "(required)"},
            {"field": "quantity", "type": "int 1..50", "default": "1"},
            {"field": "parents", "type": "list[Line]", "default": "[]"},
        ]
    }
    assert fields(msgspec.json.schema(Colour)) == {}

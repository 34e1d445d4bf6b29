from __future__ import annotations

import datetime as dt
import functools
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, Literal, Protocol, TypeVar

import msgspec
import pytest

from falconas.errors import InvalidArgument
from falconas.worker.context import Context
from falconas.worker.parameters import Parameters, SignatureError, type_text


class Line(msgspec.Struct):
    part: int
    quantity: Annotated[int, msgspec.Meta(gt=0)] = 1


class Visit(msgspec.Struct):
    due: list[dt.datetime]


def order(
    ctx: Nowhere,  # type: ignore[name-defined]  # noqa: F821
    customer_id: int,
    lines: list[Line],
    day: dt.date,
    key: uuid.UUID | None = None,
    discount: Decimal = Decimal("0.05"),
    priority: Literal["high", "low"] = "low",
    note: Any = None,
) -> None:
    del customer_id, lines, day, key, discount, priority, note


GOOD: dict[str, Any] = {"customer_id": 1, "lines": [], "day": "2024-02-29"}


def test_values_are_converted_to_the_annotated_types() -> None:
    text = "00000000-0000-0000-0000-000000000007"
    bound = Parameters(order).bind(
        GOOD | {"lines": [{"part": 3}], "key": text, "discount": "0.10", "note": {1: 2}}
    )
    assert bound == {
        "customer_id": 1,
        "lines": [Line(part=3)],
        "day": dt.date(2024, 2, 29),
        "key": uuid.UUID(text),
        "discount": Decimal("0.10"),
        "note": {1: 2},
    }


def test_what_is_not_given_is_left_to_the_default() -> None:
    assert "discount" not in Parameters(order).bind(GOOD)


@pytest.mark.parametrize(
    ("change", "parameter", "message"),
    [
        ({"customer_id": "1"}, "customer_id", "Expected int, got str"),
        ({"customer_id": True}, "customer_id", "Expected int, got bool"),
        ({"lines": [{"part": 1, "quantity": 0}]}, "lines[0].quantity", "int >= 1"),
        ({"lines": [{}]}, "lines[0]", "missing required field part"),
        ({"day": "2024-02-30"}, "day", '"2024-02-30" is not a date, such as 2026-'),
        ({"key": "k" * 99}, "key", f'"{"k" * 60}…" is not a UUID, such as '),
        ({"discount": "x"}, "discount", '"x" is not a decimal number, such as 0.05'),
        ({"priority": "now"}, "priority", "'now'"),
        ({"custmer_id": 1}, "custmer_id", "did you mean customer_id?"),
        ({"zzz": 1}, "zzz", "the script takes customer_id, lines, day"),
    ],
)
def test_a_wrong_value_is_refused_by_name(
    change: dict[str, Any], parameter: str, message: str
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        Parameters(order).bind(GOOD | change)
    assert caught.value.details == {"parameter": parameter}
    assert message in caught.value.message
    assert parameter in caught.value.message


@pytest.mark.parametrize(
    ("hint", "value", "message"),
    [
        (list[Visit], [{"due": ["x"]}], 'p[0].due[0]: "x" is not a datetime, such as'),
        (dict[str, dt.timedelta], {"a": "1h"}, "p[...]: not a duration, such as PT1H"),
        (dict[dt.time, int], {"x": 1}, "a key of p: not a time, such as 12:30"),
        (bytes, "*", 'p: "*" is not base64, such as aGVsbG8='),
    ],
)
def test_a_text_of_the_wrong_form_is_shown_with_a_right_one(
    hint: Any, value: Any, message: str
) -> None:
    def run(ctx: Any, p: Any) -> None:
        del ctx, p

    run.__annotations__["p"] = hint
    with pytest.raises(InvalidArgument) as caught:
        Parameters(run).bind({"p": value})
    assert caught.value.message.startswith("parameter ")
    assert message in caught.value.message


def test_a_missing_parameter_is_named_with_its_type() -> None:
    with pytest.raises(InvalidArgument, match=r"day \(date\) is missing"):
        Parameters(order).bind({"customer_id": 1, "lines": []})


def test_a_script_without_parameters_says_so() -> None:
    with pytest.raises(InvalidArgument, match="the script takes none"):
        Parameters(lambda ctx: ctx).bind({"x": 1})


def test_names_of_ours_do_not_clash() -> None:
    def run(_: Any, self: int, ctx: int, script: int, params: int, body: int) -> None:
        del self, ctx, script, params, body

    given = {"self": 1, "ctx": 2, "script": 3, "params": 4, "body": 5}
    assert Parameters(run).bind(given) == given


def test_the_catalogue_shows_types_defaults_and_schemas() -> None:
    entries = {entry["name"]: entry for entry in Parameters(order).describe()}
    assert list(entries) == [
        "customer_id",
        "lines",
        "day",
        "key",
        "discount",
        "priority",
        "note",
    ]
    assert entries["customer_id"] == {
        "name": "customer_id",
        "type": "int",
        "required": True,
        "schema": {"type": "integer"},
    }
    assert entries["lines"]["type"] == "list[Line]"
    assert entries["key"]["type"] == "UUID | None"
    assert entries["discount"]["default"] == "0.05"
    assert entries["priority"]["type"] == '"high" | "low"'
    assert entries["note"] == {
        "name": "note",
        "type": "any",
        "required": False,
        "default": None,
        "schema": {},
    }


def test_object_means_any_value() -> None:
    def run(ctx: Any, value: object, values: list[object]) -> None:
        del ctx, value, values

    given = {"value": {"a": 1}, "values": [1, "b"]}
    assert Parameters(run).bind(given) == given
    assert [entry["type"] for entry in Parameters(run).describe()] == [
        "any",
        "list[any]",
    ]


def test_a_default_without_a_plain_form_is_shown_as_text() -> None:
    def run(ctx: Any, what: Any = object) -> None:
        del ctx, what

    assert Parameters(run).describe()[0]["default"] == "<class 'object'>"


@pytest.mark.parametrize(
    ("hint", "text"),
    [
        (dict[str, object], "dict[str, any]"),
        (tuple[int, ...], "tuple[int, ...]"),
        (Annotated[int, msgspec.Meta(gt=0)], "int"),
        (None, "None"),
        (Literal[1, True], "1 | true"),
    ],
)
def test_types_are_written_as_people_write_them(hint: Any, text: str) -> None:
    assert type_text(hint) == text


def no_context() -> None: ...


def keyword_context(*, ctx: Any) -> None:
    del ctx


def rest(ctx: Any, *others: int) -> None:
    del ctx, others


def keywords(ctx: Any, **others: int) -> None:
    del ctx, others


def positional(ctx: Any, number: int, /) -> None:
    del ctx, number


def unsupported(ctx: Any, callback: Callable[[], int]) -> None:
    del ctx, callback


def unknown(ctx: Any, thing: Missing) -> None:  # type: ignore[name-defined]  # noqa: F821
    del ctx, thing


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (no_context, "must take the context first"),
        (keyword_context, "must take the context first"),
        (rest, r"takes \*others"),
        (keywords, r"takes \*\*others"),
        (positional, "positional-only"),
        (unsupported, r"parameter callback: type Callable.* cannot come"),
        (unknown, "'Missing' is not defined"),
    ],
)
def test_a_signature_that_requests_cannot_fill_is_refused(
    run: Callable[..., Any], message: str
) -> None:
    with pytest.raises(SignatureError, match=message):
        Parameters(run)


class Standin(Protocol):
    db: Any


@dataclass
class Double:
    db: Any


def annotated(hint: Any) -> Callable[..., None]:
    def run(n: Any) -> None:
        del n

    run.__annotations__ = {"n": hint}
    return run


@pytest.mark.parametrize(
    ("hint", "text"),
    [
        (int, "int"),
        ("Decimal", "Decimal"),
        (dt.date, "date"),
        (dict, "dict"),
        (list[Line], "list[Line]"),
        (str | None, "str | None"),
        (Literal["a"], '"a"'),
        (Annotated[int, msgspec.Meta(ge=1)], "int"),
    ],
)
def test_what_requests_give_is_no_context(hint: Any, text: str) -> None:
    with pytest.raises(SignatureError) as caught:
        Parameters(annotated(hint))
    right = f"run must take the context first: def run(ctx, n: {text})"
    assert str(caught.value) == right


def test_what_should_be_behind_the_context_is_named_with_the_rest() -> None:
    def run(n: int, m: int) -> None:
        del n, m

    with pytest.raises(SignatureError, match=r"def run\(ctx, n: int, …\)"):
        Parameters(run)


def test_a_context_of_a_wrong_type_is_told_so() -> None:
    def run(ctx: dict[str, Any], m: int) -> None:
        del ctx, m

    right = r"ctx is the context, which is no dict\[str, any\]: def run\(ctx, …\)"
    with pytest.raises(SignatureError, match=right):
        Parameters(run)


@pytest.mark.parametrize(
    "hint",
    [
        Context,
        "Context",
        "Nowhere",
        Context | None,
        Standin,
        Double,
        Double | None,
        Any,
        object,
        TypeVar("T"),
    ],
)
def test_a_context_may_be_annotated_as_whatever_it_can_be(hint: Any) -> None:
    assert Parameters(annotated(hint)).describe() == []


def test_what_wraps_run_may_give_it_something_else_first() -> None:
    def inner(tenant: str, n: int = 1) -> None: ...

    @functools.wraps(inner)
    def run(ctx: Any, **given: Any) -> None: ...

    assert Parameters(run).bind({"n": 2}) == {"n": 2}

from __future__ import annotations

import sys
from typing import Any

import pytest

from falconas.codec import decode_value
from falconas.errors import (
    Cancelled,
    DeadlineExceeded,
    FalconError,
    ScriptError,
    Started,
)
from falconas.worker.interrupt import Cause
from falconas.worker.verdict import ERROR_BYTES, describe, pack_error, stopped


def packed(error: FalconError) -> dict[str, Any]:
    body = pack_error(error)
    assert len(body) <= ERROR_BYTES
    fields: dict[str, Any] = decode_value(body)
    return fields


def test_an_error_keeps_its_details() -> None:
    fields = packed(ScriptError("no", sqlstate="23505", details={"item": 7}))
    assert (fields["sqlstate"], fields["details"]) == ("23505", {"item": 7})


def test_details_that_are_too_large_are_left_out() -> None:
    error = ScriptError(
        "no", started=Started.YES, sqlstate="23505", details={"all": "x" * ERROR_BYTES}
    )
    fields = packed(error)
    assert "details" not in fields
    assert (fields["message"], fields["sqlstate"]) == ("no", "23505")
    assert fields["started"] == "yes"


@pytest.mark.parametrize("sqlstate", ["x" * ERROR_BYTES, "x" * 6, 7, [1]])
def test_what_is_no_sqlstate_is_left_out(sqlstate: Any) -> None:
    fields = packed(ScriptError("no", sqlstate=sqlstate, details={"item": 7}))
    assert "sqlstate" not in fields
    assert fields["details"] == {"item": 7}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("message", "x" * ERROR_BYTES),
        ("retry_after", "x" * ERROR_BYTES),
        ("details", {"item": object()}),
        ("started", "maybe"),
        ("body", lambda: sys.exit(3)),
    ],
)
def test_any_other_nonsense_is_one_plain_error(name: str, value: Any) -> None:
    error = ScriptError("no", started=Started.YES)
    setattr(error, name, value)
    fields = packed(error)
    assert "cannot be packed" in fields["message"]
    assert fields["started"] == ("unknown" if name == "started" else "yes")


def test_an_exception_is_described_by_name_and_text() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise SystemExit

    assert describe(ValueError("why")) == "ValueError: why"
    assert describe(ValueError()) == "ValueError"
    assert "cannot be read" in describe(Mute())
    assert describe(ValueError("password=hidden")) == "ValueError: password=***"
    assert len(describe(ValueError("x" * 10**6))) < 10_000


@pytest.mark.parametrize("idempotent", [True, False])
def test_a_stopped_script_says_why_and_what_became_of_its_work(
    idempotent: bool,
) -> None:
    late = stopped(Cause.DEADLINE, 1.04, doubtful=False, idempotent=idempotent)
    assert isinstance(late, DeadlineExceeded)
    assert late.message == "the budget ran out after 1.0 s; rolled back"
    assert (late.started, late.retry_safe) == (Started.YES, idempotent)
    unsure = stopped(Cause.CANCEL, 0.3, doubtful=True, idempotent=idempotent)
    assert isinstance(unsure, Cancelled)
    assert unsure.message.startswith("cancelled after 300 ms; what the script did")
    assert (unsure.started, unsure.retry_safe) == (Started.UNKNOWN, False)


@pytest.mark.parametrize(
    ("awaited", "blame"), [(2.9, ": node n2 had not answered for 2.9 s"), (0.0, "")]
)
def test_a_node_that_let_the_script_wait_is_named(awaited: float, blame: str) -> None:
    late = stopped(
        Cause.DEADLINE,
        3.1,
        doubtful=False,
        idempotent=False,
        node="n2",
        awaited=awaited,
    )
    assert late.message == f"the budget ran out after 3.1 s{blame}; rolled back"

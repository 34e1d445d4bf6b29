from __future__ import annotations

import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falconas import errors
from falconas.errors import CLASSES, Code, FalconError, Started, error_for

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
FIELDS = ["message", "started", "retry_safe", "retry_after", "sqlstate", "details"]


def test_each_code_but_ok_has_exactly_one_class() -> None:
    ours = [c for c in FalconError.__subclasses__() if c.__module__ == errors.__name__]
    codes = [cls.code for cls in ours]

    assert sorted(codes) == sorted(set(Code) - {Code.OK})
    assert all(cls.__base__ is FalconError for cls in ours)


def test_codes_have_grpc_numbers() -> None:
    assert {code.name: int(code) for code in Code} == {
        "OK": 0,
        "CANCELLED": 1,
        "UNKNOWN": 2,
        "INVALID_ARGUMENT": 3,
        "DEADLINE_EXCEEDED": 4,
        "NOT_FOUND": 5,
        "ALREADY_EXISTS": 6,
        "PERMISSION_DENIED": 7,
        "RESOURCE_EXHAUSTED": 8,
        "FAILED_PRECONDITION": 9,
        "ABORTED": 10,
        "UNIMPLEMENTED": 12,
        "INTERNAL": 13,
        "UNAVAILABLE": 14,
        "UNAUTHENTICATED": 16,
    }


def test_tree_at_the_top_names_each_class() -> None:
    tree = errors.__doc__ or ""

    assert all(f"── {cls.__name__} " in tree for cls in CLASSES.values())


@pytest.mark.parametrize("cls", list(CLASSES.values()))
def test_default_message_is_the_docstring(cls: type[FalconError]) -> None:
    assert cls().message == (cls.__doc__ or "").partition("\n")[0] != ""


def test_body_has_only_what_is_known() -> None:
    assert FalconError("no").body() == {
        "message": "no",
        "started": "no",
        "retry_safe": False,
    }


def test_long_messages_are_cut() -> None:
    assert FalconError("x" * 3000).message == "x" * 2000 + "…"
    assert FalconError("x" * 2000).message == "x" * 2000


def test_lone_surrogates_do_not_reach_the_wire() -> None:
    assert FalconError("\udc80 in a file name").message == "\\udc80 in a file name"


def test_text_is_the_message() -> None:
    assert str(errors.NotFound("there is no script x")) == "there is no script x"


def test_survives_pickling() -> None:
    error = errors.Unavailable("away", started=Started.UNKNOWN, retry_after=1.0)

    copy = pickle.loads(pickle.dumps(error))

    assert type(copy) is errors.Unavailable
    assert vars(copy) == vars(error)


@pytest.mark.parametrize("cls", list(CLASSES.values()))
def test_body_and_error_for_are_inverse(cls: type[FalconError]) -> None:
    error = cls(
        "why",
        started=Started.UNKNOWN,
        retry_safe=True,
        retry_after=0.5,
        sqlstate="40001",
        details={"path": "$.a"},
    )

    copy = error_for(cls.code, error.body())

    assert type(copy) is cls
    assert copy.body() == error.body()


def test_unknown_code_keeps_its_number() -> None:
    error = error_for(99, {"message": "new"})

    assert type(error) is errors.ScriptError
    assert error.message == "code 99: new"


def test_ok_is_no_error_code() -> None:
    assert type(error_for(Code.OK, {})) is errors.ScriptError


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (0, 0.0),
        (2, 2.0),
        (0.5, 0.5),
        (-1, None),
        (True, None),
        (float("nan"), None),
        (float("inf"), None),
        ("1", None),
    ],
)
def test_retry_after_is_a_number_of_seconds(given: Any, kept: float | None) -> None:
    assert error_for(14, {"retry_after": given}).retry_after == kept


@pytest.mark.parametrize("started", ["maybe", [], {}, None, 1])
def test_started_of_unknown_meaning_is_unknown(started: Any) -> None:
    assert error_for(14, {"started": started}).started is Started.UNKNOWN


@given(
    st.integers(0, 255),
    ANYTHING | st.dictionaries(st.sampled_from(FIELDS), ANYTHING),
)
def test_error_for_takes_whatever_a_peer_sends(code: int, body: Any) -> None:
    error = error_for(code, body)

    assert error.message
    assert error.started in Started
    assert type(error.retry_safe) is bool
    assert set(error.body()) <= set(FIELDS)

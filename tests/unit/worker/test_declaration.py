from __future__ import annotations

from typing import Any

import pytest

from falconas.errors import InvalidArgument
from falconas.worker.declaration import declared, script
from falconas.worker.parameters import SignatureError


def plain(ctx: Any, number: int = 1) -> int:
    """Say what."""
    del ctx
    return number


def test_a_plain_function_writes_and_is_not_repeated() -> None:
    found = declared(plain)
    assert (found.access, found.idempotent) == ("write", False)
    assert (found.budget, found.snapshot, found.max_lag) == (None, True, None)
    assert found.description == "Say what."


def test_a_read_is_idempotent_unless_said_otherwise() -> None:
    def run(ctx: Any) -> None:
        del ctx

    assert declared(script(access="read")(run)).idempotent
    assert not declared(script(access="read", idempotent=False)(run)).idempotent
    assert declared(script(idempotent=True)(run)).idempotent


def test_the_entry_is_what_the_catalogue_shows() -> None:
    @script(access="read", budget=2, snapshot=False, max_lag=1)
    def run(ctx: Any, number: int) -> int:
        del ctx
        return number

    found = declared(run, digest="0" * 16, description="From the module.")
    assert not found.snapshot
    assert found.describe() == {
        "access": "read",
        "idempotent": True,
        "budget": 2.0,
        "max_lag": 1.0,
        "hash": "0" * 16,
        "description": "From the module.",
        "params": [
            {
                "name": "number",
                "type": "int",
                "required": True,
                "schema": {"type": "integer"},
            }
        ],
        "error": None,
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"access": "readonly"}, "'readonly'"),
        ({"budget": 0}, "above 0"),
        ({"budget": "2s"}, "'2s'"),
        ({"budget": True}, "True"),
        ({"budget": float("nan")}, "nan"),
        ({"snapshot": False}, "for reads"),
        ({"max_lag": 1.0}, "for access=.read."),
        ({"access": "read", "max_lag": -1}, "from 0 on, got -1"),
        ({"access": "read", "max_lag": True}, "from 0 on, got True"),
        ({"access": "read", "max_lag": float("inf")}, "from 0 on, got inf"),
        ({"access": "read", "max_lag": "1s"}, "from 0 on, got '1s'"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        script(**options)


async def waits(ctx: Any) -> None:
    del ctx


def yields(ctx: Any) -> Any:
    yield ctx


@pytest.mark.parametrize(
    ("run", "message"),
    [(waits, "async"), (yields, "generator"), (print, "not a function")],
)
def test_only_plain_functions_are_scripts(run: Any, message: str) -> None:
    with pytest.raises(SignatureError, match=message):
        declared(run)


def test_whatever_a_validator_raises_is_an_invalid_argument() -> None:
    class Odd(dict[str, Any]):
        def __iter__(self) -> Any:
            raise RecursionError("deep")

    with pytest.raises(InvalidArgument, match="RecursionError: deep"):
        declared(plain).bind(Odd(number=1))


def test_the_decorator_needs_no_parentheses() -> None:
    @script
    def run(ctx: Any, number: int) -> int:
        del ctx
        return number

    assert run(None, 2) == 2
    assert declared(run).access == "write"


def test_an_unknown_option_names_the_nearest() -> None:
    wrong: Any = script
    with pytest.raises(TypeError, match=r"'acess'; did you mean access\?"):
        wrong(acess="read")
    with pytest.raises(TypeError, match="'zzz'; known are access, idempotent"):
        wrong(zzz=1)
    with pytest.raises(TypeError, match="go by name"):
        wrong("read")

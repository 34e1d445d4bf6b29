from __future__ import annotations

import json
from typing import Any

import pytest

from falconas.client.operator import WAIT, Reloaded
from falconas.errors import NotFound

OLD, NEW = "0123456789abcdef", "fedcba9876543210"
DONE = Reloaded("a", 1, "done", OLD, NEW, "")
FAILED = Reloaded("b", 2, "failed", OLD, OLD, "x.py does not load")


class FakeOperator:
    results: list[Reloaded]
    told: list[tuple[Any, ...]]

    def __init__(self, control: str) -> None:
        assert control == "ipc://c"

    def reload(self, host: str | None) -> list[Reloaded]:
        if host == "nobody":
            raise NotFound("there is no host nobody; known: a, b")
        self.told.append(("reload", host))
        return self.results

    def drain(self, host: str | None, *, wait: float) -> list[str]:
        self.told.append(("drain", host, wait))
        return []


@pytest.fixture(autouse=True)
def operator(monkeypatch: pytest.MonkeyPatch) -> type[FakeOperator]:
    FakeOperator.results, FakeOperator.told = [DONE], []
    monkeypatch.setattr("falconas.client.operator.Operator", FakeOperator)
    monkeypatch.setenv("FALCONAS_CLIENT__CONTROL", "ipc://c")
    return FakeOperator


def test_a_reload_shows_what_became_of_it(falconas: Any, operator: Any) -> None:
    result = falconas("reload")
    assert (result.code, result.err) == (0, "")
    assert "01234567 -> fedcba98" in result.out
    assert operator.told == [("reload", None)]


@pytest.mark.parametrize("outcome", ["failed", "gone", "unknown"])
def test_a_reload_that_failed_anywhere_fails(
    falconas: Any, operator: Any, outcome: str
) -> None:
    operator.results = [DONE, FAILED._replace(result=outcome)]
    result = falconas("reload", "b")
    assert result.code == 1
    assert "x.py does not load" in result.out
    assert operator.told == [("reload", "b")]


def test_a_reload_as_json(falconas: Any, operator: Any) -> None:
    operator.results = [FAILED]
    result = falconas("reload", "--json")
    assert result.code == 1
    assert json.loads(result.out) == [FAILED._asdict()]


def test_a_host_that_is_not_there_is_one_line(falconas: Any) -> None:
    result = falconas("reload", "nobody")
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("NOT_FOUND: there is no host nobody; known: a, b")


@pytest.mark.parametrize(
    ("arguments", "told", "said"),
    [
        ([], ("drain", None, WAIT), "the broker has stopped\n"),
        (["a"], ("drain", "a", WAIT), "host a has stopped\n"),
        (["--no-wait"], ("drain", None, 0.0), "the broker drains\n"),
        (["a", "--no-wait"], ("drain", "a", 0.0), "host a drains\n"),
    ],
)
def test_drain_says_what_has_ended(
    falconas: Any, operator: Any, arguments: list[str], told: Any, said: str
) -> None:
    assert falconas("drain", *arguments) == (0, "", said)
    assert operator.told == [told]

from __future__ import annotations

import json
from typing import Any, Self

import pytest

from falconas.errors import Unavailable

CATALOGUE: dict[str, Any] = {
    "echo": {"access": "read", "params": [], "hash": "00", "error": None},
    "held": {"params": [], "error": None, "quarantined": "it kills its workers"},
    "broken": {"params": [], "error": "broken.py:1: SyntaxError"},
}
REPORT = {
    "uptime": 1.0,
    "draining": False,
    "queue": {"requests": 0, "bytes": 0},
    "counters": {},
    "workers": [],
    "nodes": [
        {
            "name": "n1",
            "database": "main",
            "role": "primary",
            "up": True,
            "lag": 0.0,
            "lsn": 4096,
            "timeline": 1,
            "reason": None,
            "workers": 2,
            "ready": 2,
            "busy": 1,
            "requests": 7,
            "errors": 1,
        }
    ],
    "supervisors": [],
    "clients": 0,
}


class FakeClient:
    def __init__(self, frontend: str, *, budget: float) -> None:
        assert frontend == "ipc://x"
        assert budget == 2.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def scripts(self) -> dict[str, Any]:
        return CATALOGUE


class FakeOperator:
    def __init__(self, control: str) -> None:
        if control != "ipc://c":
            raise Unavailable("no broker")

    def inspect(self) -> dict[str, Any]:
        return REPORT


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("falconas.client.sync.Client", FakeClient)
    monkeypatch.setattr("falconas.client.operator.Operator", FakeOperator)
    monkeypatch.setenv("FALCONAS_CLIENT__FRONTEND", "ipc://x")
    monkeypatch.setenv("FALCONAS_CLIENT__BUDGET", "2s")


def test_scripts(falconas: Any) -> None:
    assert "echo" in falconas("scripts").out
    assert falconas("scripts", "echo").out.startswith("echo()\n")
    assert json.loads(falconas("scripts", "--json").out) == CATALOGUE
    assert json.loads(falconas("scripts", "echo", "--json").out) == CATALOGUE["echo"]


def test_an_unknown_script_names_the_nearest(falconas: Any) -> None:
    result = falconas("scripts", "ecko")
    assert result.code == 1
    assert result.out == ""
    assert "no script 'ecko'; did you mean echo?" in result.err
    assert "`falconas scripts` lists all there are" in falconas("scripts", "zzz").err


def test_a_script_that_does_not_load_fails(falconas: Any) -> None:
    result = falconas("scripts", "broken")
    assert result.code == 1
    assert "does not load: broken.py:1: SyntaxError" in result.out
    assert falconas("scripts", "broken", "--json").code == 1
    assert falconas("scripts").code == 0


def test_a_quarantined_script_fails(falconas: Any) -> None:
    result = falconas("scripts", "held")
    assert result.code == 1
    assert "quarantined: it kills its workers" in result.out


def test_status(falconas: Any) -> None:
    assert falconas("status", "--control", "ipc://c").out.startswith("broker:")
    result = falconas("status", "--control", "ipc://c", "--json")
    assert json.loads(result.out) == REPORT


def test_status_without_broker(falconas: Any) -> None:
    assert falconas("status").code == 1


def test_nodes(falconas: Any) -> None:
    result = falconas("nodes", "--control", "ipc://c")
    assert result.code == 0
    assert result.out.splitlines()[2].split()[:3] == ["n1", "main", "primary"]
    result = falconas("nodes", "--control", "ipc://c", "--json")
    assert json.loads(result.out) == REPORT["nodes"]
    assert falconas("nodes").code == 1

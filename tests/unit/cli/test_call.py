from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any, Self

import pytest

from falconas.errors import Cancelled, DeadlineExceeded, FalconError, NotFound, Started

CATALOGUE = {
    "order": {
        "params": [
            {"name": "id", "schema": {"type": "integer"}},
            {"name": "text", "schema": {"type": "string"}},
        ]
    }
}


class FakeCall:
    def __init__(self, outcome: Any) -> None:
        self.outcome = outcome
        self.ends: Any = Cancelled(started=Started.YES)
        self.cancelled = False
        self.info = {"worker": "h/1", "node": "main", "run_us": 2000}

    def result(self) -> Any:
        outcome = self.ends if self.cancelled else self.outcome
        if isinstance(outcome, signal.Signals):
            signal.raise_signal(outcome)
            return "went on"
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def cancel(self) -> None:
        self.cancelled = True


class FakeClient:
    """Stands for the client of threads; notes how it is used."""

    made: list[FakeClient]
    outcome: Any

    def __init__(self, frontend: str, *, budget: float) -> None:
        self.frontend, self.patience = frontend, budget
        self.asked = 0
        self.closed = False
        self.call = FakeCall(type(self).outcome)
        self.sent: list[tuple[str, dict[str, Any], float | None]] = []
        type(self).made.append(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True

    def scripts(self, *, budget: float | None = None) -> dict[str, Any]:
        del budget
        self.asked += 1
        return CATALOGUE

    def submit(
        self, script: str, params: dict[str, Any], *, budget: float | None
    ) -> FakeCall:
        self.sent.append((script, params, budget))
        return self.call


def fail(_: Any, **__: Any) -> Any:
    raise FalconError("no")


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> type[FakeClient]:
    class Fresh(FakeClient):
        made: list[FakeClient] = []  # noqa: RUF012
        outcome = [{"id": 5}]  # noqa: RUF012

    monkeypatch.setattr("falconas.client.sync.Client", Fresh)
    return Fresh


def test_values_take_the_catalogues_types(falconas: Any, client: Any) -> None:
    result = falconas("call", "order", "id=5", "text=7", 'more:={"a": 1}')
    assert result == (0, "id\n--\n 5\n", "")
    (made,) = client.made
    assert made.sent == [("order", {"id": 5, "text": "7", "more": {"a": 1}}, None)]
    assert made.closed


def test_what_is_exact_needs_no_catalogue(falconas: Any, client: Any) -> None:
    assert falconas("call", "order", "id:=5").code == 0
    assert client.made[0].asked == 0


def test_a_script_that_the_catalogue_lacks_is_called_all_the_same(
    falconas: Any, client: Any
) -> None:
    falconas("call", "other", "id=5")
    assert client.made[0].sent == [("other", {"id": "5"}, None)]


def test_words_go_before_the_file(falconas: Any, client: Any, tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text('{"id": 1, "x": 2}')
    falconas("call", "order", "--params", "p.json", "id=5")
    assert client.made[0].sent == [("order", {"id": 5, "x": 2}, None)]


def test_the_budget_goes_along(falconas: Any, client: Any) -> None:
    falconas("call", "order", "--budget", "250ms", "--frontend", "ipc://x")
    (made,) = client.made
    assert made.sent == [("order", {}, 0.25)]
    assert made.patience == 0.25
    assert made.frontend == "ipc://x"


def test_without_budget_the_script_decides(
    falconas: Any, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FALCONAS_CLIENT__BUDGET", "4s")
    falconas("call", "order")
    assert client.made[0].patience == 4.0
    assert client.made[0].sent[0][2] is None


def test_json_and_who_served(falconas: Any, client: Any) -> None:
    result = falconas("call", "order", "--json", "-v")
    assert json.loads(result.out) == client.outcome
    assert result.err == "served by h/1 on node main in 2.0 ms\n"


def test_an_error_is_one_line_on_stderr(falconas: Any, client: Any) -> None:
    client.outcome = DeadlineExceeded("too late", retry_safe=True)
    result = falconas("call", "order")
    assert result == (
        1,
        "",
        "DEADLINE_EXCEEDED: too late (not started; safe to send again)\n",
    )
    assert client.made[0].closed


@pytest.mark.parametrize("words", [["oder"], ["oder", "id=5"], ["oder", "id:=5"]])
def test_an_unknown_script_names_the_nearest(
    falconas: Any, client: Any, words: list[str]
) -> None:
    client.outcome = NotFound("there is no script oder")
    said = "NOT_FOUND: there is no script oder; did you mean order? (not started)\n"
    assert falconas("call", *words) == (1, "", said)
    assert client.made[0].asked == 1


def test_a_script_that_is_known_has_another_reason(falconas: Any, client: Any) -> None:
    client.outcome = NotFound("script order does not load: here")
    said = "NOT_FOUND: script order does not load: here (not started)\n"
    assert falconas("call", "order").err == said


def test_without_a_catalogue_there_is_no_help(
    falconas: Any, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.outcome = NotFound("there is no script oder")
    monkeypatch.setattr(client, "scripts", fail)
    said = "NOT_FOUND: there is no script oder (not started)\n"
    assert falconas("call", "oder") == (1, "", said)


@pytest.mark.parametrize(
    ("given", "code", "shown"),
    [(signal.SIGINT, 130, "\n"), (signal.SIGTERM, 143, ""), (signal.SIGHUP, 129, "")],
)
def test_what_interrupts_cancels(
    falconas: Any, client: Any, given: signal.Signals, code: int, shown: str
) -> None:
    client.outcome = given
    said = f"{shown}falconas: interrupted: cancelled; it had started\n"
    assert falconas("call", "order") == (code, "", said)
    assert client.made[0].call.cancelled
    assert client.made[0].closed


def test_what_interrupts_while_it_is_sent_cancels_when_it_is(
    falconas: Any, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit = FakeClient.submit

    def interrupted(*arguments: Any, **options: Any) -> FakeCall:
        signal.raise_signal(signal.SIGTERM)
        return submit(*arguments, **options)

    monkeypatch.setattr(client, "submit", interrupted)
    assert falconas("call", "order").code == 143
    assert client.made[0].call.cancelled


@pytest.mark.parametrize(
    ("ends", "said"),
    [
        (Cancelled(started=Started.NO), "cancelled; it had not started"),
        (Cancelled(started=Started.YES), "cancelled; it had started"),
        (
            Cancelled(started=Started.UNKNOWN),
            "cancelled; whether it had started is not known",
        ),
        (
            DeadlineExceeded("late", started=Started.YES),
            "it had failed: DEADLINE_EXCEEDED: late (started)",
        ),
        ([1], "too late to cancel: it was done"),
    ],
)
def test_ctrl_c_says_what_became_of_it(
    falconas: Any, client: Any, monkeypatch: pytest.MonkeyPatch, ends: Any, said: str
) -> None:
    client.outcome = signal.SIGINT
    made = FakeCall.__init__

    def ending(self: FakeCall, outcome: Any) -> None:
        made(self, outcome)
        self.ends = ends

    monkeypatch.setattr(FakeCall, "__init__", ending)
    assert falconas("call", "order") == (130, "", f"\nfalconas: interrupted: {said}\n")


@pytest.mark.parametrize(
    ("second", "code", "shown"), [(signal.SIGINT, 130, "\n"), (signal.SIGTERM, 143, "")]
)
def test_a_second_signal_does_not_wait(
    falconas: Any,
    client: Any,
    monkeypatch: pytest.MonkeyPatch,
    second: signal.Signals,
    code: int,
    shown: str,
) -> None:
    monkeypatch.setattr(FakeCall, "result", lambda _: signal.raise_signal(second))
    assert falconas("call", "order") == (code, "", f"{shown}falconas: interrupted\n")
    assert client.made[0].closed


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["order", "x"], 2, "'x' must be KEY=VALUE"),
        (["order", "x:={"], 2, "x: is not JSON"),
        (["order", "--params", "nope"], 2, "--params nope: No such file"),
        (["order", "--budget", "soon"], 2, "--budget must be a duration"),
        (["order", "--budget", "0"], 2, "--budget must be a duration"),
        (["order", "id=x"], 1, "INVALID_ARGUMENT: parameter id must be a whole"),
    ],
)
def test_bad_input_calls_nobody(
    falconas: Any, client: Any, arguments: list[str], code: int, words: str
) -> None:
    result = falconas("call", *arguments)
    assert result.code == code
    assert words in result.err
    assert len(result.err.splitlines()) == 1
    assert not [made for made in client.made if made.sent]


def test_a_failing_catalogue_fails_the_call(
    falconas: Any, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "scripts", fail)
    assert falconas("call", "order", "id=5").code == 1

from __future__ import annotations

from typing import Any

import pytest

from falconas.broker.admission import budget_of, priority_of, refusal
from falconas.broker.flow import Flow
from falconas.broker.records import Client, ScriptInfo
from falconas.errors import Code
from falconas.protocol import BUDGET_LIMIT, Request
from falconas.settings import Broker
from tests.unit.broker.desk import info, pending

SETTINGS = Broker(client_requests=2, params_bytes=100, budget=30.0, start_wait=3.0)
CAPPED = ScriptInfo("read", budget=5.0)


@pytest.fixture
def flow() -> Flow:
    return Flow(SETTINGS, b"epoch-01", 100.0)


@pytest.fixture
def client() -> Client:
    return Client(b"c", b"c", session=False)


@pytest.mark.parametrize(
    ("wanted", "known", "budget"),
    [
        (None, None, 30.0),
        (None, ScriptInfo("read"), 30.0),
        (None, CAPPED, 5.0),
        (2.0, CAPPED, 2.0),
        (9.0, CAPPED, 5.0),
        (99.0, None, 99.0),
        (1e9, None, BUDGET_LIMIT),
        (None, ScriptInfo("read", budget=60.0), 60.0),
    ],
)
def test_a_scripts_budget_is_default_and_cap(
    flow: Flow, wanted: float | None, known: ScriptInfo | None, budget: float
) -> None:
    assert budget_of(flow, wanted, known) == budget


def refused(
    flow: Flow,
    client: Client,
    *,
    script: str = "read",
    budget: float | None = None,
    known: ScriptInfo | None = CAPPED,
    size: int = 0,
    now: float = 200.0,
) -> Code:
    request = Request(b"id", script, budget, {})
    error = refusal(flow, client, request, known, size, now)
    return Code.OK if error is None else error.code


def test_a_good_request_is_accepted(flow: Flow, client: Client) -> None:
    assert refused(flow, client, size=100, budget=0.001) is Code.OK


def test_what_is_wrong_with_the_request(flow: Flow, client: Client) -> None:
    assert refused(flow, client, script="../etc", known=None) is Code.INVALID_ARGUMENT
    assert refused(flow, client, size=101) is Code.INVALID_ARGUMENT
    assert refused(flow, client, budget=0) is Code.DEADLINE_EXCEEDED
    assert refused(flow, client, budget=-1.0) is Code.DEADLINE_EXCEEDED


def test_an_id_in_use(flow: Flow, client: Client) -> None:
    client.pending[b"id"] = pending()

    assert refused(flow, client) is Code.ALREADY_EXISTS


def test_a_client_has_a_bound(flow: Flow, client: Client) -> None:
    client.pending[b"1"] = pending()
    assert refused(flow, client) is Code.OK
    client.pending[b"2"] = pending()

    assert refused(flow, client) is Code.RESOURCE_EXHAUSTED


def test_an_unknown_script_is_accepted_only_after_the_start(
    flow: Flow, client: Client
) -> None:
    assert refused(flow, client, known=None, now=102.9) is Code.OK
    assert refused(flow, client, known=None, now=103.0) is Code.NOT_FOUND


def test_a_script_that_does_not_load_names_its_error(
    flow: Flow, client: Client
) -> None:
    request = Request(b"id", "read", None, {})
    broken = info(error="SyntaxError: line 1")

    error = refusal(flow, client, request, broken, 0, 100.0)

    assert error is not None
    assert error.code is Code.NOT_FOUND
    assert "SyntaxError: line 1" in error.message


@pytest.mark.parametrize(
    ("extras", "code"),
    [
        ({"accept": ["ext"]}, Code.OK),
        ({"numbers": [0.5] * 200}, Code.OK),
        ({"numbers": [0.5] * 300}, Code.INVALID_ARGUMENT),
    ],
)
def test_a_header_must_fit_as_we_write_it(
    flow: Flow, client: Client, extras: dict[str, object], code: Code
) -> None:
    request = Request(b"id", "read", None, extras)
    error = refusal(flow, client, request, CAPPED, 0, 200.0)
    assert (Code.OK if error is None else error.code) is code


@pytest.mark.parametrize("min_lsn", [None, 1, [], "0/0", {"main": -1}, {"main": "1"}])
def test_a_position_that_is_none_is_refused(
    flow: Flow, client: Client, min_lsn: Any
) -> None:
    request = Request(b"id", "read", None, {"min_lsn": min_lsn})

    error = refusal(flow, client, request, CAPPED, 0, 200.0)

    assert error is not None
    assert error.code is Code.INVALID_ARGUMENT
    assert error.message.startswith("min_lsn must be a map of databases to positions")


def test_positions_by_database_are_taken(flow: Flow, client: Client) -> None:
    request = Request(b"id", "read", None, {"min_lsn": {"main": 2**63, "shard": 0}})

    assert refusal(flow, client, request, CAPPED, 0, 200.0) is None


@pytest.mark.parametrize(
    ("said", "priority"),
    [(3, 3), (-3, -3), (0, 0), (4, 0), (None, 0), ("1", 0), (True, 0), (1.0, 0)],
)
def test_what_is_no_priority_counts_as_0(said: Any, priority: int) -> None:
    assert priority_of({"priority": said}) == priority
    assert priority_of({}) == 0

from __future__ import annotations

import psycopg
import pytest
from psycopg import errors, pq

from falconas.database.sqlstate import Notice, classify, ends_connection, is_conflict
from falconas.errors import Code, Started

CODES = {
    "40001": (Code.ABORTED, True),
    "40P01": (Code.ABORTED, True),
    "25P02": (Code.ABORTED, False),
    "57P01": (Code.UNAVAILABLE, True),
    "57P02": (Code.UNAVAILABLE, True),
    "57P03": (Code.UNAVAILABLE, True),
    "08006": (Code.UNAVAILABLE, True),
    "26000": (Code.UNAVAILABLE, True),
    "25P03": (Code.DEADLINE_EXCEEDED, False),
    "25P04": (Code.DEADLINE_EXCEEDED, False),
    "57014": (Code.DEADLINE_EXCEEDED, False),
    "23505": (Code.UNKNOWN, False),
    "42501": (Code.UNKNOWN, False),
    "53100": (Code.UNKNOWN, False),
    "55P03": (Code.UNKNOWN, False),
    "0A000": (Code.UNKNOWN, False),
}
FATAL = {"57P01", "57P02", "57P03", "08006", "25P03", "25P04"}
ENDING = FATAL | {"26000", "25006"}


def error(
    state: str, text: str = "went wrong", severity: str | None = None
) -> psycopg.Error:
    """Return an error as the server gives it."""
    severity = severity or ("FATAL" if state in FATAL else "ERROR")
    field = pq.DiagnosticField.SEVERITY_NONLOCALIZED
    return errors.lookup(state)(text, info={field: severity.encode()})


@pytest.mark.parametrize("state", CODES)
def test_the_sqlstate_decides(state: str) -> None:
    verdict = classify(error(state))
    assert (verdict.code, verdict.retry_safe) == CODES[state]
    assert verdict.sqlstate == state
    assert verdict.started is Started.YES
    assert "went wrong" in verdict.message


@pytest.mark.parametrize("state", [*CODES, "25006"])
def test_which_errors_end_the_connection(state: str) -> None:
    assert ends_connection(error(state)) == (state in ENDING)


@pytest.mark.parametrize("state", ["08001", "08006", "57P01"])
def test_a_code_that_a_function_raises_ends_no_connection(state: str) -> None:
    raised = error(state, 'could not connect to server "crm"', "ERROR")
    assert not ends_connection(raised)
    verdict = classify(raised)
    assert (verdict.code, verdict.retry_safe) == (Code.UNKNOWN, False)


def test_read_only_is_the_nodes_fault_for_a_write_and_the_scripts_for_a_read() -> None:
    assert classify(error("25006"), access="write").code is Code.UNAVAILABLE
    assert classify(error("25006"), access="read").code is Code.UNKNOWN
    assert not ends_connection(error("25006"), access="read")


def test_a_cancel_by_hand_is_a_cancel_unless_the_deadline_has_passed() -> None:
    cancel = error("57014", "canceling statement due to user request")
    assert classify(cancel).code is Code.CANCELLED
    assert classify(cancel, late=True).code is Code.DEADLINE_EXCEEDED


def test_a_collision_is_one_also_if_it_took_the_connection_along() -> None:
    verdict = classify(error("40001", "terminating connection"), lost=True)
    assert (verdict.code, verdict.retry_safe) == (Code.ABORTED, True)
    assert classify(error("57P01"), lost=True).code is Code.UNAVAILABLE


@pytest.mark.parametrize(
    ("state", "text", "standby", "conflict"),
    [
        ("40001", "Abbruch wegen Konflikt", True, True),
        ("40P01", "canceling statement due to conflict with recovery", True, True),
        ("40001", "terminating connection due to conflict with recovery", False, True),
        ("40001", "could not serialize access", False, False),
        ("57014", "canceling statement due to user request", True, False),
        ("57P04", "terminating connection due to conflict with recovery", True, False),
    ],
)
def test_what_is_a_conflict_with_recovery(
    state: str, text: str, standby: bool, conflict: bool
) -> None:
    assert is_conflict(error(state, text), standby=standby) is conflict


def test_a_lost_connection_does_not_name_hosts() -> None:
    verdict = classify(psycopg.OperationalError("host 10.0.0.7 user x"), lost=True)
    assert verdict.code is Code.UNAVAILABLE
    assert "10.0.0.7" not in verdict.message


def test_a_result_without_sqlstate_is_a_lost_connection() -> None:
    result = pq.PGconn.connect(b"port=x").make_empty_result(pq.ExecStatus.FATAL_ERROR)
    lost = errors.error_from_result(result)
    assert ends_connection(lost)
    assert classify(lost).code is Code.UNAVAILABLE


def test_an_error_of_psycopg_itself_is_the_scripts() -> None:
    verdict = classify(psycopg.ProgrammingError("the query has 1 placeholders"))
    assert verdict.code is Code.UNKNOWN
    assert verdict.message == "ProgrammingError: the query has 1 placeholders"


def test_an_error_without_text_is_still_an_error() -> None:
    class Mute(psycopg.DataError):
        def __str__(self) -> str:
            raise ValueError

    assert classify(Mute()).message == "Mute: Mute"


@pytest.mark.parametrize(
    ("notice", "cancels"),
    [
        (Notice("WARNING", "01000", "canceling wait", None), True),
        (Notice("WARNING", "57P01", "canceling the wait", None), True),
        (Notice("WARNING", "01000", "a trigger", "PL/pgSQL function f()"), False),
        (Notice("WARNING", "01000", "skipped", None, "vacuum_rel"), False),
        (Notice("WARNING", "01000", "x", None, "SyncRepWaitForLSN"), True),
        (Notice("NOTICE", "00000", "hello", None), False),
        (Notice("WARNING", "25P01", "no transaction", None), False),
    ],
)
def test_which_notices_cancel_replication(notice: Notice, cancels: bool) -> None:
    assert notice.cancels_replication is cancels

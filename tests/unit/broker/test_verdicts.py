from __future__ import annotations

import pytest

from falconas.broker import verdicts
from falconas.broker.records import LaneKey, Loss, Worker
from falconas.codec import decode_value, encode_value
from falconas.errors import Code, Started
from tests.unit.broker.desk import info, pending

WORKER = Worker(b"u", b"i", b"s", LaneKey("m", "g", ""), {"name": "db1/0"})


def test_what_never_left_the_queue_was_not_started() -> None:
    for error in (
        verdicts.expired(pending()),
        verdicts.cancelled(pending()),
        verdicts.abandoned(pending()),
        verdicts.unserved(pending(), info(), "", 1.0),
    ):
        assert error.started is Started.NO
        assert error.retry_safe


@pytest.mark.parametrize("idempotent", [True, False])
def test_what_was_handed_out_before_may_have_been_started(*, idempotent: bool) -> None:
    again = pending(attempt=2, info=info(idempotent=idempotent))
    in_hand = pending(worker=WORKER, info=info(idempotent=idempotent))
    for error in (
        verdicts.expired(again),
        verdicts.cancelled(again),
        verdicts.abandoned(in_hand),
        verdicts.silent(in_hand),
    ):
        assert error.started is Started.UNKNOWN
        assert error.retry_safe is idempotent


def test_silence_names_the_worker() -> None:
    error = verdicts.silent(pending(worker=WORKER))

    assert error.code is Code.DEADLINE_EXCEEDED
    assert "worker db1/0 had not answered" in error.message


def test_why_nobody_served() -> None:
    request = pending(script="daily")
    unknown = verdicts.unserved(request, None, "", 1.0)
    broken = verdicts.unserved(request, info(error="SyntaxError"), "", 1.0)
    missing = verdicts.unserved(request, info(), "", 1.5)

    assert unknown.code is Code.NOT_FOUND
    assert broken.code is Code.NOT_FOUND
    assert "SyntaxError" in broken.message
    assert missing.code is Code.UNAVAILABLE
    assert missing.message == "no worker is ready for script daily"
    assert missing.retry_after == 1.5


def test_who_could_not_serve_is_named() -> None:
    error = verdicts.unserved(pending(script="daily"), info(), "n1: a standby", 1.0)

    assert error.message == "no worker is ready for script daily (n1: a standby)"
    assert error.started is Started.NO
    assert error.retry_safe


def test_a_lost_worker_is_named_with_the_reason() -> None:
    loss = Loss(b"", Started.YES, "signal 9")
    request = pending(info=info(idempotent=True))
    error = verdicts.lost(request, "db1/0", loss, late=False)

    assert error.code is Code.UNAVAILABLE
    assert "db1/0 was lost with the request: signal 9" in error.message
    assert error.started is Started.YES
    assert error.retry_safe
    assert not verdicts.lost(pending(), "", loss, late=False).retry_safe


@pytest.mark.parametrize("late", [True, False])
def test_a_worker_that_had_to_die(*, late: bool) -> None:
    loss = Loss(b"", Started.YES, "signal 9", late=late)
    cancelled = verdicts.lost(pending(cancelled=True), "db1/0", loss, late=late)
    assert cancelled.code is Code.CANCELLED
    error = verdicts.lost(pending(), "db1/0", loss, late=late)
    assert error.code is (Code.DEADLINE_EXCEEDED if late else Code.UNAVAILABLE)
    for each in (cancelled, error):
        assert each.started is Started.YES
        assert "signal 9" in each.message
        assert "db1/0" in each.message
        assert not each.retry_safe


def test_quarantine_says_how_it_ends() -> None:
    error = verdicts.quarantined(pending(script="daily"))

    assert error.code is Code.FAILED_PRECONDITION
    assert "script daily is quarantined" in error.message
    assert "`falconas reload`" in error.message
    assert error.started is Started.NO


def test_not_started_of_a_second_attempt_is_unknown() -> None:
    body = encode_value({"message": "late", "started": "no"})

    assert decode_value(verdicts.corrected(body)) == {
        "message": "late",
        "started": "unknown",
    }


@pytest.mark.parametrize(
    "body", [b"\xc1", encode_value([1]), encode_value({"started": "yes"}), b""]
)
def test_other_errors_stay_as_they_are(body: bytes) -> None:
    assert verdicts.corrected(body) is body

"""What the broker itself says of a request that it had accepted."""

from __future__ import annotations

from typing import Any

from falconas.broker.quarantine import CRASHES, WINDOW
from falconas.broker.records import Body, Loss, Pending, ScriptInfo
from falconas.codec import decode_value, encode_value
from falconas.errors import (
    Cancelled,
    DeadlineExceeded,
    FailedPrecondition,
    FalconError,
    NotFound,
    Started,
    Unavailable,
)

QUARANTINED = (
    f"its workers died of it {CRASHES} times within {WINDOW:.0f} s;"
    " when it is mended, `falconas reload` lifts that"
)


def expired(pending: Pending) -> FalconError:
    """Say that the budget ran out while the request waited."""
    text = "the budget ran out before a worker was free"
    return DeadlineExceeded(text, **_facts(pending))


def silent(pending: Pending) -> FalconError:
    """Say that the worker kept the request beyond its deadline."""
    name = pending.worker.name if pending.worker is not None else "?"
    text = f"worker {name} had not answered by the deadline"
    return DeadlineExceeded(text, **_facts(pending))


def unserved(
    pending: Pending, info: ScriptInfo | None, nodes: str, wait: float
) -> FalconError:
    """Say that no worker came for the script, of which `info` is known.

    `nodes` says of each why its workers could not serve it.
    """
    script, facts = pending.script, _facts(pending)
    if info is None:
        return NotFound(f"there is no script {script}", **facts)
    if info.error is not None:
        return NotFound(f"script {script} does not load: {info.error}", **facts)
    text = f"no worker is ready for script {script}"
    text = f"{text} ({nodes})" if nodes else text
    return Unavailable(text, retry_after=wait, **facts)


def cancelled(pending: Pending) -> FalconError:
    """Say that the request was cancelled: while it waited, or in silent hands."""
    return Cancelled(**_facts(pending))


def quarantined(pending: Pending) -> FalconError:
    """Say that the script is not run any more."""
    text = f"script {pending.script} is quarantined: {QUARANTINED}"
    return FailedPrecondition(text, **_facts(pending))


def changed(pending: Pending) -> FalconError:
    """Say that only an earlier version of the script could be run twice."""
    text = (
        f"script {pending.script} was changed, and must not be run a second time:"
        " look what its first run did before you send it again"
    )
    return Unavailable(text, **_facts(pending))


def abandoned(pending: Pending) -> FalconError:
    """Say that the broker stops before the request is done."""
    text = "the broker stopped before the request was done"
    return Unavailable(text, **_facts(pending))


def lost(pending: Pending, worker: str, loss: Loss, *, late: bool) -> FalconError:
    """Say that the worker was lost with the request, and whose wish that was."""
    error: type[FalconError] = Unavailable
    text = f"worker {worker} was lost with the request"
    if pending.cancelled:
        error = Cancelled
        text = f"the caller cancelled the request; worker {worker} was lost with it"
    elif late:
        error = DeadlineExceeded
        text = f"the budget ran out and its worker had to be ended ({worker})"
    safe = _is_idempotent(pending)
    return error(f"{text}: {loss.reason}", started=loss.started, retry_safe=safe)


def corrected(body: Body) -> Body:
    """Amend the error of a repeated request: "not started" is of one attempt only."""
    try:
        fields = decode_value(bytes(body))
    except ValueError:
        return body
    if not isinstance(fields, dict) or fields.get("started") != Started.NO:
        return body
    return encode_value({**fields, "started": Started.UNKNOWN.value})


def _facts(pending: Pending) -> dict[str, Any]:
    """Whether it was started: an attempt is repeated only where it may have been."""
    if pending.worker is None and pending.attempt == 1:
        return {"started": Started.NO, "retry_safe": True}
    return {"started": Started.UNKNOWN, "retry_safe": _is_idempotent(pending)}


def _is_idempotent(pending: Pending) -> bool:
    return pending.info is not None and pending.info.idempotent

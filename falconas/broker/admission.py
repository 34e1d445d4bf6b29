"""What is refused, and how long a request may take."""

from __future__ import annotations

from falconas.broker import presence
from falconas.broker.backlog import PRIORITY_LIMIT
from falconas.broker.flow import ATTEMPTS, Flow
from falconas.broker.nodes import is_min_lsn
from falconas.broker.records import Client, Demand, Pending, ScriptInfo
from falconas.errors import (
    AlreadyExists,
    DeadlineExceeded,
    FalconError,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
)
from falconas.protocol import (
    BUDGET_LIMIT,
    HEADER_LIMIT,
    Extras,
    Request,
    encode,
    is_script_name,
    public_extras,
)

NAME_RULE = "lower-case letters, digits and _, at most four parts joined by dots"
USUAL_EXTRAS = {"accept": ["ext"]}


def budget_of(flow: Flow, wanted: float | None, info: ScriptInfo | None) -> float:
    """Return how long a request may take: as asked for, the script's at most."""
    cap = info.budget if info is not None else None
    if wanted is None:
        wanted = cap or flow.settings.budget
    if cap is not None and cap < wanted:
        wanted = cap
    return min(wanted, BUDGET_LIMIT)


def priority_of(extras: Extras) -> int:
    """Return a request's priority; what is none counts as 0."""
    priority = extras.get("priority")
    if type(priority) is not int or abs(priority) > PRIORITY_LIMIT:
        return 0
    return priority


def wish(flow: Flow, pending: Pending) -> None:
    """Note what a request wants beyond the usual."""
    extras = pending.extras = public_extras(pending.extras)
    pending.priority = priority_of(extras)
    pending.watched = presence.watch(flow, pending.client, extras, pending.envelope)
    if "min_lsn" in extras:
        pending.demand = Demand.COMPARABLE
    if extras.get("attempt") == ATTEMPTS:  # the first was lost with another broker
        pending.attempt = ATTEMPTS


def refusal(
    flow: Flow,
    client: Client,
    request: Request,
    info: ScriptInfo | None,
    size: int,
    now: float,
) -> FalconError | None:
    """Say why a request is not accepted; None: it is."""
    settings = flow.settings
    id_, script, budget, extras = request
    if id_ in client.pending:
        return AlreadyExists("the id is in use by an outstanding request of yours")
    if info is None and not is_script_name(script):
        return InvalidArgument(f"{script[:80]!r} is no script name: {NAME_RULE}")
    if budget is not None and budget <= 0:
        return DeadlineExceeded("the budget was used up", retry_safe=True)
    if extras and extras != USUAL_EXTRAS:
        error = _against(request)
        if error is not None:
            return error
    if size > settings.params_bytes:
        text = f"{size} bytes of parameters, the limit is {settings.params_bytes}"
        return InvalidArgument(text)
    if len(client.pending) >= settings.client_requests:
        return ResourceExhausted(
            f"{len(client.pending)} requests of this client are outstanding,"
            f" the limit is {settings.client_requests}",
            retry_safe=True,
            retry_after=flow.retry_after(),
        )
    if info is None or info.error is not None:
        return _missing(flow, script, info, now)
    return None


def _missing(
    flow: Flow, script: str, info: ScriptInfo | None, now: float
) -> FalconError | None:
    """Say why a script cannot be had; None: it may yet come."""
    if info is not None and flow.hosts.offers(script):  # else nobody has it any more
        return NotFound(f"script {script} does not load: {info.error}")
    if info is not None or now >= flow.began + flow.settings.start_wait:
        return NotFound(f"there is no script {script}")
    return None


def _against(request: Request) -> FalconError | None:
    """Say what is wrong with a request's extras; None: nothing."""
    if not is_min_lsn(request.extras.get("min_lsn", {})):
        text = "min_lsn must be a map of databases to positions, integers from 0 up"
        return InvalidArgument(text)
    # Numbers may be longer as we write them than as the client did.
    header = len(encode(request))
    if header > HEADER_LIMIT:
        text = f"a header of {header} bytes, the limit is {HEADER_LIMIT}"
        return InvalidArgument(f"{text}: put fewer extras in")
    return None

"""Short work that a worker gets before it is done with what it has.

To wake a process costs more than a short script does. So where nobody suitable is idle
a busy worker gets further requests, as long as all that it has in hand is expected to
take at most its lane's `horizon`. Only what is idempotent, and only behind what is:
each such request has a lease. The worker does not start it later and gives it back,
also while another one runs; if it cannot even do that, the broker takes back what is
not the first in its hands, `MARGIN` after the lease. So nothing is run twice, unless
an answer is on its way for longer than that: then the worker counts as lost.

While all have enough to do the broker may rest a moment: to be woken for each answer,
and to wake a client for it, costs both more than all they do with it.

How long a script takes is what it took of late in the lane, on the average. What takes
longer than a busy processor explains counts at once, and is forgotten so slowly that
nothing goes behind a script of which one run in some hundreds is long.
"""

from __future__ import annotations

from math import inf
from typing import Any

from falconas.broker.records import Lane, Pending, Worker

DEPTH = 16
LEASE = 0.01
SILENCE = 0.005
OUTLIER = 0.01
# Between the look at the lease and the start a worker may lose its processor so long.
MARGIN = 0.25
REST, SHARE = 0.002, 0.6  # at most so long, and so much of what all have in hand
OVERHEAD = 50e-6  # what a worker needs between two scripts
MEMORY, LONG_MEMORY = 8.0, 512.0  # requests


def learn(lane: Lane, script: str, run_us: Any, *, cold: bool = False) -> None:
    """Note how long a script took of which several may be in hand.

    A `cold` worker may take long for once.
    """
    if type(run_us) is not int or run_us < 0 or not lane.scripts[script].idempotent:
        return
    took = run_us * 1e-6 + OVERHEAD
    pace = lane.paces.get(script)
    if pace is None:
        lane.paces[script] = took
    elif took < OUTLIER or (took < pace and not cold):
        memory = MEMORY if pace < OUTLIER else LONG_MEMORY
        lane.paces[script] = pace + (took - pace) / memory
    elif not cold:
        lane.paces[script] = took


def expectation(lane: Lane, pending: Pending) -> float:
    """Return how long a request will take; inf where nothing may go behind it.

    Also of what a node may give back: its worker waits for the node meanwhile.
    """
    if pending.attempt > 1 or pending.demand:
        return inf
    return lane.paces.get(pending.script, inf)


def first(lane: Lane, now: float) -> Worker | None:
    """Return whose turn it is to get something ahead.

    Not who has been silent for long: he is at something that takes longer than
    expected, and has given back by now what waited behind that.
    """
    for worker in list(lane.spare):
        if now <= worker.heard_at + SILENCE:
            return worker
        close(worker)
    return None


def add(worker: Worker, pending: Pending, expected: float) -> bool:
    """Count a request that a worker has got, and let others have their turn.

    Returns:
        Whether others may follow while it runs.
    """
    lane = worker.home
    horizon, spare = lane.horizon, lane.spare
    pending.expected = expected
    load = worker.load = worker.load + expected
    if load < horizon and len(worker.hands) < DEPTH and worker.ready:
        spare[worker] = None
        spare.move_to_end(worker)
    else:
        spare.pop(worker, None)
    return expected < horizon


def remove(worker: Worker, pending: Pending) -> None:
    """Count a request no more that a worker had in hand."""
    if worker.hands:
        worker.load -= pending.expected
    else:
        worker.load = 0.0
        worker.home.spare.pop(worker, None)


def reopen(worker: Worker) -> None:
    """Let a worker that is busy and can serve have more, if there is room."""
    lane = worker.home
    if worker.load < lane.horizon and len(worker.hands) < DEPTH:
        lane.spare.setdefault(worker, None)


def rest(load: float) -> float:
    """Return how long who has so much in hand surely has enough to do, in seconds."""
    return min(REST, load * SHARE)


def close(worker: Worker) -> None:
    """Let a worker have no more until it has answered: it is slower than expected."""
    worker.home.spare.pop(worker, None)

"""Dead workers: what their supervisor says of them, and when they are let go."""

from __future__ import annotations

from collections import deque
from math import inf

from falconas.broker.flow import Flow
from falconas.broker.quarantine import Suspect
from falconas.broker.records import Loss, Worker
from falconas.errors import Started
from falconas.protocol import Lost

# For the answer of a worker that died after it had answered. It is on its way, for
# the worker took its time to say goodbye; only this machine's load delays it.
ANSWER_WAIT = 0.5


class Losses:
    """Workers that died, and those among them whose answer may still arrive."""

    def __init__(self, flow: Flow) -> None:
        self._flow = flow
        self._dead: deque[tuple[float, Lost]] = deque()

    def lost(self, lost: Lost, now: float) -> None:
        """Let a worker go, now or when its answer has had time to arrive."""
        worker = self._flow.pool.by_uuid.get(lost.worker)
        if worker is None:
            return
        if lost.extras.get("crash") is True:
            self._blame(worker, lost, now)
        answered = lost.state not in {"RUN", "COMMIT"}
        if answered and lost.id in worker.hands:
            # What a process sent may arrive after the news of its death.
            worker.dead = True
            self._flow.set_ready(worker, False, now)
            self._dead.append((now + ANSWER_WAIT, lost))
        else:
            self._bury(lost, now)

    def tick(self, now: float) -> None:
        """Let those go whose answer did not arrive."""
        while self._dead and self._dead[0][0] <= now:
            self._bury(self._dead.popleft()[1], now)

    def wake_at(self) -> float:
        """Return when `tick` has work next; inf for never."""
        return self._dead[0][0] if self._dead else inf

    def _blame(self, worker: Worker, lost: Lost, now: float) -> None:
        flow = self._flow
        script = worker.started(lost.id)
        if script is None:
            return
        flow.counters["crashes"] += 1
        if flow.pool.crashed(Suspect(worker.lane.manifest, script), now):
            flow.counters["quarantined"] += 1
            flow.refile(now)

    def _bury(self, lost: Lost, now: float) -> None:
        worker = self._flow.pool.by_uuid.get(lost.worker)
        if worker is not None:
            dispatch = lost.id if type(lost.id) is bytes else None
            # Before COMMIT is sent the database rolls back: begun, and no more.
            started = Started.YES if lost.state == "RUN" else Started.UNKNOWN
            late = lost.extras.get("why") == "deadline"
            loss = Loss(dispatch, started, lost.reason, late=late)
            self._flow.lose(worker, loss, now)

"""Lost workers: when they are let go, and what becomes of what they had in hand."""

from __future__ import annotations

from collections import deque
from math import inf

from falconas.broker import verdicts
from falconas.broker.flow import ATTEMPTS, Flow
from falconas.broker.quarantine import Suspect
from falconas.broker.records import Loss, Pending, Worker
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

    def lose(self, worker: Worker, loss: Loss, now: float) -> None:
        """Let a worker go; of what it had, what came after that in `loss` waits again.

        The other is dispatched once more if this version of the script is idempotent,
        somebody still wants it and there is time; else its outcome is not known.
        """
        self.lose_all([worker], loss, now)

    def lose_all(self, workers: list[Worker], loss: Loss, now: float) -> None:
        """Let workers go together, so that none gets what another had in hand."""
        flow, pool = self._flow, self._flow.pool
        hands = [(p, worker) for worker in workers for p in worker.hands.values()]
        for pending, worker in hands:
            flow.take_back(pending)
            if loss.tells(pending.dispatch) is not Started.NO:
                worker.served += 1
                worker.errors += 1
        changed = [pool.remove(worker) for worker in workers]
        if any(changed):
            flow.refile(now)
        elif not all(worker.home.ready for worker in workers):
            flow.patience.reconsider(now)
        flow.counters["workers_gone"] += len(workers)
        for pending, worker in hands:
            self._dispose(pending, worker, loss, now)

    def _dispose(
        self, pending: Pending, worker: Worker, loss: Loss, now: float
    ) -> None:
        flow, started = self._flow, loss.tells(pending.dispatch)
        if started is Started.NO:
            flow.again(pending, now)
            return
        if pending.answered:
            return
        idempotent = pending.info is not None and pending.info.idempotent
        late = loss.late or now >= pending.deadline
        over = late or pending.cancelled
        if idempotent and pending.attempt < ATTEMPTS and not over:
            pending.attempt += 1
            flow.counters["attempts_repeated"] += 1
            flow.again(pending, now)
        else:
            loss = loss._replace(started=started)
            error = verdicts.lost(pending, worker.name, loss, late=late)
            flow.finish(pending, error, now)

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
            self.lose(worker, loss, now)

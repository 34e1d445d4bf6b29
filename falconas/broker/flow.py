"""The way of a request through the broker: file, dispatch, take back, finish.

It waits in the backlog or is in exactly one worker's hands: `file` and `dispatch`
are the only places that put it there. It gets exactly one verdict: `finish` is the
only place that gives one.
"""

from __future__ import annotations

from collections import Counter
from math import inf
from typing import Any

from falconas.broker import prefetch, verdicts
from falconas.broker.backlog import Backlog, QueueKey
from falconas.broker.clients import Clients
from falconas.broker.expiry import Expiry
from falconas.broker.hosts import Hosts
from falconas.broker.pool import Pool
from falconas.broker.records import Body, Loss, Peer, Pending, Send, Socket, Worker
from falconas.codec import encode_value
from falconas.errors import Code, FalconError, ResourceExhausted, Started
from falconas.protocol import VERSION, Cancel, Id, Kind, Reply, Request, Welcome
from falconas.settings import Broker as BrokerSettings

# A worker's deadline is the request's; the broker's own verdict on what a worker has
# in hand comes this much later, so that the worker's better one can overtake it.
VERDICT_GRACE = 0.7
ATTEMPTS = 2
# A node that serves may take so long to have replayed something: mostly it lags by
# less, but what is known of its position is old too.
CATCH_UP = 3.0
# Id of a WELCOME that asks a known worker to say READY again, with what it holds.
RECOUNT = b"holding?"


class Flow:
    """Requests, those who ask and those who serve, and the messages to send."""

    def __init__(self, settings: BrokerSettings, epoch: bytes, now: float) -> None:
        self.settings = settings
        self.epoch = epoch
        self.began = now
        self.backlog = Backlog(settings.queue_requests, settings.queue_bytes)
        self.clients = Clients()
        self.pool = Pool(settings.ahead)
        self.hosts = Hosts()
        self.expiry = Expiry()
        self.counters: Counter[str] = Counter()
        self.sends: list[Send] = []
        self.open = 0
        self._dispatched = 0
        self._wait = 0.0

    def answer(self, peer: Peer, id_: Id, outcome: FalconError | Body) -> None:
        """Send a verdict or a report."""
        if isinstance(outcome, FalconError):
            reply = Reply(id_, Kind.ERROR, outcome.code, {})
            outcome = encode_value(outcome.body())
        else:
            reply = Reply(id_, Kind.OK, Code.OK, {})
        self.sends.append(Send(*peer, reply, outcome))

    def welcome(self, peer: Peer, id_: Id, now: float, body: Body = b"") -> None:
        """Introduce the broker; under the id "?", ask an unknown peer to do so too."""
        settings = self.settings
        limits: dict[str, Any] = {
            "params_bytes": settings.params_bytes,
            "result_bytes": settings.result_bytes,
            "client_requests": settings.client_requests,
            "budget": max(settings.budget, self.pool.longest_budget),
        }
        extras = {"versions": [VERSION], "limits": limits}
        message = Welcome(id_, self.epoch, now, extras)
        self.sends.append(Send(*peer, message, body))

    def file(
        self,
        pending: Pending,
        now: float,
        *,
        accepted: bool = False,
        front: bool = False,
    ) -> None:
        """Hand a request to an idle worker, or let it wait.

        No bound refuses what was accepted before; `front` puts it at the head.
        """
        key = self.pool.key_of(pending)
        worker = self.pool.choose(key) or self._follow(pending, key, now)
        if worker is not None:
            self.dispatch(pending, worker, now)
        elif not key and self.pool.is_quarantined(pending.script):
            self.finish(pending, verdicts.quarantined(pending), now)
        elif accepted or self.backlog.has_room(pending.size):
            self.backlog.push(pending, key, front=front)
            self.expiry.set(pending, self._due(pending, now))
        else:
            backlog = self.backlog
            full = ResourceExhausted(
                f"{backlog.count} requests with {backlog.bytes} bytes wait,"
                f" the limits are {backlog.limit} and {backlog.limit_bytes}",
                retry_safe=True,
                retry_after=self.retry_after(),
            )
            self.finish(pending, full, now)

    def dispatch(self, pending: Pending, worker: Worker, now: float) -> None:
        """Put a request into a worker's hands, unless it is too late."""
        scripts = worker.home.scripts
        assert scripts is not None
        info = pending.info = scripts[pending.script]
        if info.budget is not None:
            pending.deadline = min(pending.deadline, pending.arrived + info.budget)
        if now >= pending.deadline:
            self.finish(pending, verdicts.expired(pending), now)
            return
        self._dispatched += 1
        pending.dispatch = self.epoch + self._dispatched.to_bytes(8, "big")
        pending.worker = worker
        pending.handed = now
        extras = pending.extras.copy()
        extras["origin"] = pending.origin
        extras["attempt"] = pending.attempt
        extras["now"] = now
        due = pending.deadline + VERDICT_GRACE
        if not worker.hands:
            worker.heard_at = now
        else:
            self.counters["ahead"] += 1
            extras["ahead"] = len(worker.hands)
            pending.start_by = extras["start_by"] = now + prefetch.LEASE
            due = min(due, pending.start_by + prefetch.MARGIN)
        self.expiry.set(pending, due)
        worker.hands[pending.dispatch] = pending
        prefetch.add(worker, pending)
        message = Request(pending.dispatch, pending.script, pending.deadline, extras)
        self.sends.append(
            Send(Socket.BACKEND, worker.identity, (), message, pending.body)
        )

    def take_back(self, pending: Pending) -> None:
        """Take a request out of its worker's hands."""
        worker = pending.worker
        assert worker is not None
        del worker.hands[pending.dispatch]
        prefetch.remove(worker, pending)
        pending.worker = None
        pending.start_by = inf

    def reconcile(self, worker: Worker, holding: Any, now: float) -> None:
        """Take back what a worker says not to hold: it never got that."""
        held = holding if isinstance(holding, list) else []
        missing = [p for p in worker.hands.values() if p.dispatch not in held]
        self._revoke(missing)
        for pending in missing:
            self.again(pending, now)

    def again(self, pending: Pending, now: float) -> None:
        """File what was taken back, if somebody still wants it."""
        if pending.answered:
            return
        if pending.cancelled:
            self.finish(pending, verdicts.cancelled(pending), now)
        else:
            self.file(pending, now, accepted=True, front=True)

    def due(self, due: list[Pending], now: float) -> None:
        """Take back what has lost its lease, and end what has no time left.

        The first in hand may run: what was ahead of it has been answered. A worker
        that is silent for so long is as good as lost for what is behind that: should
        answers be on their way, something of it may have been started.
        """
        leases = [pending for pending in due if pending.start_by < inf]
        over = [pending for pending in due if pending.start_by == inf]
        lapsed = [pending for pending in leases if not _is_first(pending)]
        for pending in leases:
            pending.start_by = inf
            if pending not in lapsed:
                self.expiry.set(pending, pending.deadline + VERDICT_GRACE)
        self._revoke(lapsed)
        self.counters["revoked"] += len(lapsed)
        for pending in lapsed:
            pending.attempt += 1
            self.again(pending, now)
        for pending in over:
            self._give_up(pending, now)

    def _give_up(self, pending: Pending, now: float) -> None:
        """End a request whose time is up."""
        if pending.worker is not None:
            cancelled = pending.cancelled
            error = (verdicts.cancelled if cancelled else verdicts.silent)(pending)
            # It may have dropped the request, and would count as busy for ever.
            peer = Peer(Socket.BACKEND, pending.worker.identity)
            self.welcome(peer, RECOUNT, now)
        elif pending.due >= pending.deadline:
            error = verdicts.expired(pending)
        else:
            script = pending.script
            info = self.pool.info(script) if self.hosts.offers(script) else None
            nodes, wait = self.pool.objections(pending), self.settings.worker_wait
            error = verdicts.unserved(pending, info, nodes, wait)
        self._end(pending, error, now)

    def cancel(self, pending: Pending, now: float) -> None:
        """End a request that waits; let one that is in hand be dropped or interrupted.

        A worker that runs a script does not read: its supervisor interrupts it. The
        deadline of the request is now.
        """
        if pending.cancelled:
            return
        pending.cancelled = True
        worker = pending.worker
        if worker is None:
            self._end(pending, verdicts.cancelled(pending), now)
            return
        pending.deadline = min(pending.deadline, now)
        pending.start_by = inf
        self.expiry.set(pending, pending.deadline + VERDICT_GRACE)
        if worker.dead:
            return  # and its answer perhaps on its way
        message = Cancel(pending.dispatch, {})
        self.sends.append(Send(Socket.BACKEND, worker.identity, (), message, b""))
        supervisor = self.hosts.supervisors.get(worker.supervisor)
        if supervisor is not None:
            message = Cancel(pending.dispatch, {"worker": worker.uuid})
            to = supervisor.identity
            self.sends.append(Send(Socket.CONTROL, to, (), message, b""))

    def abandon(self, now: float) -> None:
        """End every request: the broker stops."""
        in_hand = [p for w in self.pool.by_uuid.values() for p in w.hands.values()]
        for pending in [*self.backlog, *in_hand]:
            if not pending.answered:
                self._end(pending, verdicts.abandoned(pending), now)

    def finish(
        self,
        pending: Pending,
        outcome: Reply | FalconError,
        now: float,
        body: Body = b"",
    ) -> None:
        """Give the verdict; what comes later is counted and dropped."""
        if pending.answered:
            self.counters["late_replies"] += 1
            return
        client = pending.client
        pending.answered = True
        pending.body = b""
        self.open -= 1
        self.expiry.clear(pending)
        del client.pending[pending.origin]
        to, envelope = client.identity, pending.envelope
        if isinstance(outcome, FalconError):
            self.counters[f"verdicts.{outcome.code.name.lower()}"] += 1
            self.answer(Peer(Socket.FRONTEND, to, envelope), pending.origin, outcome)
        else:
            ok = outcome.kind == Kind.OK
            self.counters["replies.ok" if ok else "replies.error"] += 1
            self.sends.append(Send(Socket.FRONTEND, to, envelope, outcome, body))
        client.seen = now
        if not client.session:
            self.clients.ended(client)

    def answered(self, worker: Worker, now: float) -> None:
        """Give more to a worker that has answered and can go on."""
        worker.heard_at = now
        prefetch.reopen(worker)
        self.pool.set_idle(worker, now)
        self._serve(worker, now)

    def set_ready(self, worker: Worker, ready: bool, now: float) -> None:
        """Note whether a worker may be given work, and give it some."""
        lane = self.pool.lanes[worker.lane]
        before = lane.ready
        ready = ready and not worker.dead
        self.pool.set_ready(worker, ready)
        if bool(before) != bool(lane.ready):
            self._rearm(now)
        if ready:
            self.pool.set_idle(worker, now)
            self._serve(worker, now)

    def lose(self, worker: Worker, loss: Loss, now: float) -> None:
        """Let a worker go; of what it had, what came after that in `loss` waits again.

        The other is dispatched once more if this version of the script is idempotent,
        somebody still wants it and there is time; else its outcome is not known.
        """
        hands = list(worker.hands.values())
        for pending in hands:
            self.take_back(pending)
            if loss.tells(pending.dispatch) is not Started.NO:
                worker.served += 1
                worker.errors += 1
        if self.pool.remove(worker):
            self.refile(now)
        else:
            self._rearm(now)
        self.counters["workers_gone"] += 1
        for pending in hands:
            started = loss.tells(pending.dispatch)
            if started is Started.NO:
                self.again(pending, now)
            elif not pending.answered:
                self._lost(pending, worker, loss._replace(started=started), now)

    def lose_all(self, workers: list[Worker], reason: str, now: float) -> None:
        """Let workers go together, so that none gets what another had in hand."""
        for worker in workers:
            self.pool.set_ready(worker, False)
        for worker in workers:
            self.lose(worker, Loss(None, Started.UNKNOWN, reason), now)

    def refile(self, now: float) -> None:
        """File anew what waits and has another way: what can run where has changed."""
        scripts = {p.script for p in self.backlog} if self.pool.quarantine else ()
        held_back = {script for script in scripts if self.pool.is_quarantined(script)}
        for pending in [p for p in self.backlog if p.script in held_back]:
            self._end(pending, verdicts.quarantined(pending), now)
        self.move(self.backlog.strays(self.pool.key_of), now)

    def move(self, strays: list[Pending], now: float) -> None:
        """Let requests wait elsewhere, or no longer."""
        self.backlog.move(strays, self.pool.key_of)
        for pending in (*strays, *self.backlog.demanding.values()):
            self.expiry.set(pending, self._due(pending, now))
        for lane in self.pool.lanes.values() if strays else ():
            for worker in list(lane.idle):
                self._serve(worker, now)

    def retry_after(self) -> float:
        """Return a hint for those who are refused: how long others wait at present."""
        return round(min(max(self._wait, 0.1), 5.0), 3)

    def _lost(self, pending: Pending, worker: Worker, loss: Loss, now: float) -> None:
        idempotent = pending.info is not None and pending.info.idempotent
        late = loss.late or now >= pending.deadline
        over = late or pending.cancelled
        if idempotent and pending.attempt < ATTEMPTS and not over:
            pending.attempt += 1
            self.counters["attempts_repeated"] += 1
            self.again(pending, now)
        else:
            error = verdicts.lost(pending, worker.name, loss, late=late)
            self.finish(pending, error, now)

    def _follow(self, pending: Pending, key: QueueKey, now: float) -> Worker | None:
        """Return a busy worker that may take a request ahead of its turn.

        Not past what waits already: that would never find a worker idle.
        """
        best: Worker | None = None
        for lane_key in key:
            lane = self.pool.lanes[lane_key]
            worker = next(iter(lane.spare), None)
            if worker is None or (best and best.load <= worker.load):
                continue
            if not self.backlog.awaits(lane_key):
                best = worker if prefetch.may_follow(worker, pending, now) else best
        return best

    def _revoke(self, hands: list[Pending]) -> None:
        """Take back what its workers have not started; they get no more for now."""
        for pending in hands:
            worker = pending.worker
            assert worker is not None
            self.take_back(pending)
            prefetch.close(worker)

    def _serve(self, worker: Worker, now: float) -> None:
        """Give a worker what has waited longest of what it can run."""
        while (queue := self.backlog.queue_of(worker.lane)) is not None:
            if worker.hands and not prefetch.may_follow(worker, queue.first(), now):
                return
            pending = self.backlog.pop(queue)
            self._wait += (now - pending.arrived - self._wait) / 8
            self.dispatch(pending, worker, now)

    def _end(self, pending: Pending, error: FalconError, now: float) -> None:
        if pending.worker is None:
            self.backlog.remove(pending)
        self.finish(pending, error, now)

    def _rearm(self, now: float) -> None:
        for pending in self.backlog:
            self.expiry.set(pending, self._due(pending, now))

    def _due(self, pending: Pending, now: float) -> float:
        """When to give up a request that waits."""
        if self.pool.is_served(pending.queue.key):
            return pending.deadline
        if pending.astray_at is not None:
            patience = self.settings.worker_wait
            route = self.pool.route(pending.script)
            if self.pool.is_served(route):  # by nodes that only have to catch up
                patience = max(patience, CATCH_UP)
            return min(pending.deadline, pending.astray_at + patience)
        if 0.0 < pending.due < pending.deadline:
            return pending.due  # already waiting for a worker to appear
        patience = max(
            now + self.settings.worker_wait, self.began + self.settings.start_wait
        )
        return min(pending.deadline, patience)


def _is_first(pending: Pending) -> bool:
    assert pending.worker is not None
    return next(iter(pending.worker.hands)) == pending.dispatch

"""The way of a request through the broker: file, dispatch, take back, finish.

It waits in the backlog or is in exactly one worker's hands: `file` and `dispatch`
are the only places that put it there. It gets exactly one verdict: `finish` is the
only place that gives one.
"""

from __future__ import annotations

from collections import defaultdict
from math import inf
from typing import Any

from falconas.broker import prefetch, verdicts
from falconas.broker.backlog import ASKED, TAKEN_BACK, Backlog, QueueKey
from falconas.broker.clients import Clients
from falconas.broker.expiry import Expiry
from falconas.broker.hosts import Hosts
from falconas.broker.patience import Patience
from falconas.broker.pool import Pool
from falconas.broker.records import (
    Body,
    Peer,
    Pending,
    ScriptInfo,
    Send,
    Socket,
    Worker,
)
from falconas.codec import encode_value
from falconas.errors import Code, FalconError, ResourceExhausted
from falconas.messages import made
from falconas.protocol import VERSION, Id, Kind, Reply, Request, Welcome
from falconas.settings import Broker as BrokerSettings

# A worker's deadline is the request's; the broker's own verdict on what a worker has
# in hand comes this much later, so that the worker's better one can overtake it.
VERDICT_GRACE = 0.7
ATTEMPTS = 2
# Id of a WELCOME that asks a known worker to say READY again, with what it holds.
RECOUNT = b"holding?"
# Id of a WELCOME that asks an unknown peer to introduce itself.
UNKNOWN_PEER = b"?"

# To look up an enum's member takes as long as ten other names.
_FRONTEND, _BACKEND, _OK = Socket.FRONTEND, Socket.BACKEND, Kind.OK


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
        self.patience = Patience(settings, now, self.pool, self.backlog, self.expiry)
        self.counters: dict[str, int] = defaultdict(int)
        self.sends: list[Send] = []
        self._least = inf  # of what those have in hand who have answered
        self._dispatched = 0
        self._wait = 0.0

    @property
    def open(self) -> int:
        """How many requests have no verdict yet: each of them has its timer."""
        return len(self.expiry)

    def answer(self, peer: Peer, id_: Id, outcome: FalconError | Body) -> None:
        """Send a verdict or a report."""
        if isinstance(outcome, FalconError):
            reply = Reply(id_, Kind.ERROR, outcome.code, {})
            outcome = encode_value(outcome.body())
        else:
            reply = Reply(id_, Kind.OK, Code.OK, {})
        self.sends.append(peer.send(reply, outcome))

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
        self.sends.append(peer.send(message, body))

    def file(self, pending: Pending, now: float, rank: int = ASKED) -> None:
        """Hand a request to an idle worker, or let it wait.

        No bound refuses what was accepted before.
        """
        backlog, key = self.backlog, self.pool.key_of(pending)
        worker = None
        if key not in backlog.queues:  # else nobody has time
            worker = self.pool.choose(key) or self._follow(pending, key, now)
        if worker is not None:
            expected = prefetch.expectation(worker.home, pending)
            self.dispatch(pending, worker, expected, now)
        elif not key and self.pool.is_quarantined(pending.script):
            self.finish(pending, verdicts.quarantined(pending), now)
        elif rank != ASKED or backlog.has_room(pending.size):
            if backlog.push(pending, key, rank):
                self.patience.look(pending.queue, now)
            pending.alone_at = now
            self.expiry.set(pending, self.patience.end(pending))
        else:
            full = ResourceExhausted(
                f"{backlog.count} requests with {backlog.bytes} bytes wait,"
                f" the limits are {backlog.limit} and {backlog.limit_bytes}",
                retry_safe=True,
                retry_after=self.retry_after(),
            )
            self.finish(pending, full, now)

    def dispatch(
        self, pending: Pending, worker: Worker, expected: float, now: float
    ) -> None:
        """Put a request into a worker's hands, unless it is too late."""
        script, hands = pending.script, worker.hands
        info = worker.home.scripts[script]
        fits = info is pending.info or _adopt(pending, info)
        deadline = pending.deadline
        if now >= deadline:
            self.finish(pending, verdicts.expired(pending), now)
            return
        if not fits:
            self.finish(pending, verdicts.changed(pending), now)
            return
        extras = dict(
            pending.extras, origin=pending.origin, attempt=pending.attempt, now=now
        )
        due = deadline + VERDICT_GRACE
        if ahead := len(hands):
            self.counters["ahead"] += 1
            start_by = pending.start_by = extras["start_by"] = now + prefetch.LEASE
            if due > (lapse := start_by + prefetch.MARGIN):
                due = lapse
        else:
            pending.start_by = inf
            worker.home.idle.pop(worker, None)
            worker.heard_at = now
            self._least = 0.0
        self.expiry.set(pending, due)
        self._dispatched += 1
        id_ = pending.dispatch = self.epoch + self._dispatched.to_bytes(8, "big")
        hands[id_] = pending
        pending.worker = worker
        pending.handed = now
        if prefetch.add(worker, pending, expected):
            extras["ahead"] = ahead
        message = made(Request, (id_, script, deadline, extras))
        send = Send(_BACKEND, worker.identity, (), message, pending.body)
        self.sends.append(send)

    def take_back(self, pending: Pending) -> Worker:
        """Take a request out of its worker's hands."""
        worker = pending.worker
        assert worker is not None
        del worker.hands[pending.dispatch]
        prefetch.remove(worker, pending)
        pending.worker = None
        return worker

    def revoke(self, hands: list[Pending]) -> None:
        """Take back what its workers have not started; they get no more for now."""
        for pending in hands:
            prefetch.close(self.take_back(pending))

    def reconcile(self, worker: Worker, holding: Any, now: float) -> None:
        """Take back what a worker says not to hold: it never got that."""
        held = holding if isinstance(holding, list) else []
        missing = [p for p in worker.hands.values() if p.dispatch not in held]
        self.revoke(missing)
        for pending in missing:
            self.again(pending, now)

    def again(self, pending: Pending, now: float) -> None:
        """File what was taken back, if somebody still wants it."""
        if pending.answered:
            return
        if pending.cancelled:
            self.finish(pending, verdicts.cancelled(pending), now)
        else:
            self.file(pending, now, TAKEN_BACK)

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
        self.expiry.clear(pending)
        del client.pending[pending.origin]
        to, envelope = client.identity, pending.envelope
        if isinstance(outcome, FalconError):
            self.counters[f"verdicts.{outcome.code.name.lower()}"] += 1
            self.answer(Peer(_FRONTEND, to, envelope), pending.origin, outcome)
        else:
            kind = "replies.ok" if outcome.kind == _OK else "replies.error"
            self.counters[kind] += 1
            self.sends.append(Send(_FRONTEND, to, envelope, outcome, body))
        client.seen = now
        if not client.session:
            self.clients.ended(client)

    def end(self, pending: Pending, error: FalconError, now: float) -> None:
        """Give the verdict on a request wherever it is."""
        if pending.worker is None:
            self.backlog.remove(pending)
        self.finish(pending, error, now)

    def answered(self, worker: Worker, now: float) -> None:
        """Give more to a worker that has answered and can go on."""
        worker.heard_at = now
        if worker.hands:
            prefetch.reopen(worker)
        else:
            self.pool.set_idle(worker, now)
        self._serve(worker, now)
        if len(worker.hands) <= 1:
            self._least = 0.0
        elif worker.load < self._least:
            self._least = worker.load

    def take_rest(self) -> float:
        """Return how long nobody will need the broker, by what happened since last.

        Workers have answered, all of these have enough in hand, and nobody is idle.
        """
        least, self._least = self._least, inf
        return 0.0 if least == inf or self.pool.has_idle else prefetch.rest(least)

    def set_ready(self, worker: Worker, ready: bool, now: float) -> None:
        """Note whether a worker may be given work, and give it some."""
        lane = self.pool.lanes[worker.lane]
        before = lane.ready
        ready = ready and not worker.dead
        self.pool.set_ready(worker, ready)
        if bool(before) != bool(lane.ready):
            self.patience.reconsider(now)
        if ready:
            self.pool.set_idle(worker, now)
            self._serve(worker, now)

    def refile(self, now: float) -> None:
        """File anew what waits and has another way: what can run where has changed."""
        pool, backlog = self.pool, self.backlog
        scripts = backlog.scripts if pool.quarantine else ()
        held_back = {script for script in scripts if pool.is_quarantined(script)}
        waiting = list(backlog) if held_back else []
        for pending in [p for p in waiting if p.script in held_back]:
            self.end(pending, verdicts.quarantined(pending), now)
        renamed = backlog.rename(pool.key_of)
        self.move(backlog.strays(pool.key_of), now)
        if renamed:
            self._serve_idle(now)

    def move(self, strays: list[Pending], now: float) -> None:
        """Let requests wait elsewhere, or no longer."""
        for pending in strays:
            self.patience.begin(pending, now)
        self.backlog.move(strays, self.pool.key_of)
        self.patience.reconsider(now)
        for pending in strays:
            self.expiry.set(pending, self.patience.end(pending))
        if strays:
            self._serve_idle(now)

    def retry_after(self) -> float:
        """Return a hint for those who are refused: how long others wait at present."""
        return round(min(max(self._wait, 0.1), 5.0), 3)

    def _follow(self, pending: Pending, key: QueueKey, now: float) -> Worker | None:
        """Return a busy worker that may take a request ahead of its turn.

        Not past what waits already: that would never find a worker idle.
        """
        best: Worker | None = None
        for lane_key in key:
            lane = self.pool.lanes[lane_key]
            worker = prefetch.first(lane, now)
            if worker is None or (best and best.load <= worker.load):
                continue
            load = worker.load + prefetch.expectation(lane, pending)
            if load <= lane.horizon and not self.backlog.awaits(lane_key):
                best = worker
        return best

    def _serve(self, worker: Worker, now: float, *, ahead: bool = True) -> None:
        """Give a worker what has waited longest of what it can run."""
        hands, lane, backlog = worker.hands, worker.home, self.backlog
        while not hands or (ahead and worker in lane.spare):
            queue = backlog.queue_of(worker.lane)
            if queue is None:
                return
            pending = queue.first()
            expected = prefetch.expectation(lane, pending)
            if hands and worker.load + expected > lane.horizon:
                return
            backlog.pop(queue)
            self._wait += (now - pending.arrived - self._wait) / 8
            self.dispatch(pending, worker, expected, now)

    def _serve_idle(self, now: float) -> None:
        """Give each idle worker something before any has more than one."""
        idle = [worker for lane in self.pool.lanes.values() for worker in lane.idle]
        for ahead in (False, True):
            for worker in idle:
                self._serve(worker, now, ahead=ahead)


def _adopt(pending: Pending, info: ScriptInfo) -> bool:
    """Note which version is to be run; False if that must not be run a second time."""
    before, pending.info = pending.info, info
    if info.budget is not None:
        pending.deadline = min(pending.deadline, pending.arrived + info.budget)
    if pending.attempt == 1 or before is None:
        return True
    return before.idempotent <= info.idempotent

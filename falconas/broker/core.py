"""The broker's decisions, without I/O: one method for each thing that can happen.

`now`, on one monotonic clock, comes in; messages to send come out of `take_sends()`.
Nothing here blocks, sleeps, logs or looks at a body other than a manifest.
"""

from __future__ import annotations

from math import inf

from falconas.broker import (
    detours,
    endings,
    operators,
    prefetch,
    presence,
    supervision,
    verdicts,
)
from falconas.broker.admission import USUAL_EXTRAS, budget_of, refusal, wish
from falconas.broker.flow import UNKNOWN_PEER, Flow
from falconas.broker.losses import Losses
from falconas.broker.records import (
    Body,
    LaneKey,
    Loss,
    Peer,
    Pending,
    Send,
    Socket,
    Worker,
)
from falconas.codec import encode_value
from falconas.errors import FalconError, Started, Unavailable
from falconas.messages import made
from falconas.protocol import (
    Cancel,
    Catalogue,
    Drain,
    Heartbeat,
    Hello,
    Id,
    Kind,
    Lost,
    Ready,
    Register,
    Reload,
    Reply,
    Request,
    Return,
    Status,
)
from falconas.settings import Broker as BrokerSettings

SWEEP_INTERVAL = 1.0

_PARTIAL, _ERROR = Kind.PARTIAL, Kind.ERROR  # see `flow`


class BrokerCore:
    """State of one broker's life, named by `epoch` (8 random bytes)."""

    def __init__(self, settings: BrokerSettings, epoch: bytes, now: float) -> None:
        self.settings = settings
        self.flow = Flow(settings, epoch, now)
        self.hosts = self.flow.hosts
        self.losses = Losses(self.flow)
        self.draining_until = inf
        self._sweep_at = now + SWEEP_INTERVAL

    # What clients say

    def hello(self, peer: Peer, hello: Hello, now: float) -> None:
        """A connection names its session."""
        clients = self.flow.clients
        conflict = clients.conflict(peer.identity, hello.session)
        if conflict is not None:
            self.flow.answer(peer, hello.id, conflict)
            return
        client = clients.hello(peer.identity, hello.session, now)
        held = clients.take_held(client, now)
        owed = [*client.pending, *(message.id for message, _ in held)]
        self.flow.welcome(peer, hello.id, now, encode_value(owed))
        for message, body in held:
            self.flow.sends.append(Send(peer.socket, peer.identity, (), message, body))

    def request(self, peer: Peer, request: Request, body: Body, now: float) -> None:
        """A client wants a script run."""
        flow = self.flow
        id_, script, budget, extras = request
        client = flow.clients.of(peer.identity, now)
        info, size = flow.pool.info(script), len(body)
        error: FalconError | None
        if self.draining_until < inf:
            text = "the broker is draining"
            error = Unavailable(text, retry_safe=True, retry_after=1.0)
        else:
            error = refusal(flow, client, request, info, size, now)
        counters = flow.counters
        if error is not None:
            counters[f"refused.{error.code.name.lower()}"] += 1
            flow.answer(peer, id_, error)
            flow.clients.ended(client)
            return
        number = counters["requests"] = counters["requests"] + 1
        pending = Pending(
            number,
            client,
            peer.envelope,
            id_,
            script,
            body,
            size,
            extras,
            now,
            now + budget_of(flow, budget, info),
            info,
        )
        if extras != USUAL_EXTRAS:
            wish(flow, pending)
        client.pending[id_] = pending
        flow.file(pending, now)

    def cancel(self, peer: Peer, cancel: Cancel, now: float) -> None:
        """A client no longer wants an answer; what has one already has it."""
        flow = self.flow
        client = flow.clients.find(peer.identity)
        pending = client.pending.get(cancel.id) if client else None
        if pending is None:
            return
        flow.counters["cancels"] += 1
        endings.cancel(flow, pending, now)

    def catalogue(self, peer: Peer, catalogue: Catalogue) -> None:
        """Somebody asks what scripts there are."""
        scripts = self.hosts.catalogue(self.flow.pool.quarantine)
        if catalogue.extras.get("brief") is True:
            scripts = {name: entry.get("idempotent") for name, entry in scripts.items()}
        self.flow.answer(peer, catalogue.id, encode_value({"scripts": scripts}))

    # What workers say

    def ready(self, peer: Peer, ready: Ready, now: float) -> None:
        """A worker introduces itself, for the first time or again."""
        flow, pool = self.flow, self.flow.pool
        worker = pool.by_uuid.get(ready.worker)
        if worker is not None and _is_older(ready.id, worker.introduced):
            flow.counters["stale_ready"] += 1  # by a connection that is gone
            return
        self.flow.welcome(peer, ready.id, now)
        lane = LaneKey(ready.manifest, ready.group, ready.node)
        other = pool.by_identity.get(peer.identity)
        if other is not None and other is not worker:
            if worker is not None:  # it must not get what the other had in hand
                flow.set_ready(worker, False, now)
            self.losses.lose(other, _perhaps("its connection changed hands"), now)
        if worker is not None and worker.lane != lane:
            self.losses.lose(worker, _perhaps("it came back changed"), now)
            worker = None
        if worker is None:
            to, facts = peer.identity, ready.extras
            worker = Worker(ready.worker, to, ready.supervisor, lane, facts)
            if pool.add(worker):
                flow.refile(now)
        else:
            pool.rebind(worker, peer.identity)
            worker.supervisor, worker.facts = ready.supervisor, ready.extras
        worker.introduced = ready.id
        flow.reconcile(worker, ready.extras.get("holding"), now)
        flow.set_ready(worker, ready.extras.get("ready") is not False, now)

    def status(self, peer: Peer, status: Status, now: float) -> None:
        """A worker can, or can no longer, serve."""
        worker = self.flow.pool.by_identity.get(peer.identity)
        if worker is None:
            self.flow.welcome(peer, UNKNOWN_PEER, now)
            return
        worker.facts = {**worker.facts, "reason": "", **status.extras}
        self.flow.set_ready(worker, status.ready, now)

    def reply(self, peer: Peer, reply: Reply, body: Body, now: float) -> None:
        """A worker answers a request, which also gives its credit back."""
        flow = self.flow
        id_, kind, code, extras = reply
        pending = self._in_hand(peer, id_, now)
        if pending is None or kind == _PARTIAL:
            flow.counters["stale_replies"] += 1
            return
        worker, script = flow.take_back(pending), pending.script
        worker.served += 1
        worker.answered = id_, script
        cold = worker.served == 1
        prefetch.learn(worker.home, script, extras.get("run_us"), cold=cold)
        ready, repeated = extras.pop("ready", None) is not False, False
        if kind == _ERROR:
            worker.errors += 1
            body = body if pending.attempt == 1 else verdicts.corrected(body)
            repeated = detours.repeats(flow, pending, extras, now)
        if not repeated:
            extras["attempt"] = pending.attempt
            answer = made(Reply, (pending.origin, kind, code, extras))
            flow.finish(pending, answer, now, body)
        if worker.ready and ready:
            flow.answered(worker, now)
        else:
            flow.set_ready(worker, False, now)

    def returned(self, peer: Peer, returned: Return, now: float) -> None:
        """A worker gives back what it has not started; that costs no attempt."""
        pending = self._in_hand(peer, returned.id, now)
        if pending is None:
            self.flow.counters["stale_replies"] += 1
            return
        self.flow.counters["returned"] += 1
        worker = self.flow.take_back(pending)
        prefetch.close(worker)
        if returned.extras.get("ready") is False:
            self.flow.set_ready(worker, False, now)
        detours.returned(self.flow, pending, worker.lane.node, returned.extras, now)
        self.flow.again(pending, now)
        self.flow.set_ready(worker, worker.ready, now)

    def disconnect(self, peer: Peer, now: float) -> None:
        """A worker or a supervisor leaves; a worker has finished or returned all."""
        if peer.socket is Socket.CONTROL:
            for supervisor in self.hosts.leave(peer.identity):
                detours.forget(self.flow, supervisor.uuid, now)
            return
        worker = self.flow.pool.by_identity.get(peer.identity)
        if worker is not None:
            self.losses.lose(worker, Loss(b"", Started.UNKNOWN, "it left"), now)

    def unreachable(self, send: Send, now: float) -> None:
        """A message could not be sent: its peer is gone."""
        flow = self.flow
        if send.socket is Socket.BACKEND:
            worker = flow.pool.by_identity.get(send.identity)
            if worker is None:
                return
            pending = worker.hands.get(send.message.id)
            if pending is not None and isinstance(send.message, Request):
                flow.take_back(pending)  # it never left
                flow.again(pending, now)
            self.losses.lose(worker, _perhaps("its connection is gone"), now)
        elif send.socket is Socket.FRONTEND:
            if isinstance(send.message, Reply):
                until = now + self.settings.budget
                held = flow.clients.hold(send.identity, send.message, send.body, until)
                flow.counters["replies_held" if held else "replies_undeliverable"] += 1
            presence.gone(flow, send.identity, now)

    # What supervisors and operators say

    def register(self, peer: Peer, register: Register, body: Body, now: float) -> None:
        """A supervisor introduces itself and its scripts."""
        supervision.register(self.flow, peer, register, body, now)

    def heartbeat(
        self, peer: Peer, heartbeat: Heartbeat, body: Body, now: float
    ) -> None:
        """A supervisor lives; of its workers, those that it no longer lists do not."""
        supervision.heartbeat(self.flow, self.losses, peer, heartbeat, body, now)

    def lost(self, lost: Lost, now: float) -> None:
        """A supervisor saw its worker die, and which request that had started."""
        self.losses.lost(lost, now)

    def pass_on(self, peer: Peer, message: Reload | Drain, now: float) -> None:
        """An operator wants one host's supervisors, or all, to do something."""
        operators.pass_on(self.flow, peer, message, now)

    def drain(self, now: float) -> None:
        """Accept nothing more; what is not done after `drain_timeout` is given up."""
        if self.draining_until == inf:
            self.draining_until = now + self.settings.drain_timeout

    # Time, and what comes out

    def tick(self, now: float) -> None:
        """Do what is due; call it at `wake_at()` at the latest."""
        flow = self.flow
        endings.tick(flow, now)
        self.losses.tick(now)
        if now >= self._sweep_at:
            self._sweep_at = now + SWEEP_INTERVAL
            flow.clients.sweep(now)
            presence.ask(flow, now)
            supervision.sweep(flow, self.losses, now)
            detours.sweep(flow, now)
        if now >= self.draining_until:
            endings.abandon(flow, now)

    def wake_at(self) -> float:
        """Return when `tick` has work next, if nothing happens before."""
        flow = self.flow
        wake_at = min(flow.expiry.wake_at(), flow.patience.wake_at())
        wake_at = min(wake_at, self.losses.wake_at())
        return min(wake_at, self._sweep_at, self.draining_until)

    @property
    def drained(self) -> bool:
        """Whether the drain is complete: every request has its verdict."""
        return self.draining_until < inf and not self.flow.open

    def take_sends(self) -> list[Send]:
        """Return the messages to send, in order, and forget them."""
        sends, self.flow.sends = self.flow.sends, []
        return sends

    def _in_hand(self, peer: Peer, id_: Id, now: float) -> Pending | None:
        worker = self.flow.pool.by_identity.get(peer.identity)
        if worker is None:
            self.flow.welcome(peer, UNKNOWN_PEER, now)
            return None
        return worker.hands.get(id_)


def _is_older(id_: Id, last: Id) -> bool:
    """Tell whether a READY was said before another: a worker's ids grow."""
    return isinstance(id_, bytes) and isinstance(last, bytes) and id_ < last


def _perhaps(reason: str) -> Loss:
    """Say of a worker that it may have started all that it had."""
    return Loss(None, Started.UNKNOWN, reason)

"""Peers of a broker in simulation, and what may and may not happen between them.

Messages travel on links that delay, keep or lose them. Each request carries its
nonce as its body, a worker answers with the nonce of what it was given, and `World`
checks every message that leaves the core against what it knows.
"""

from __future__ import annotations

from math import inf
from typing import Any

from falconas.broker.core import BrokerCore
from falconas.broker.invariants import check_invariants
from falconas.broker.records import LaneKey, Peer, Send, Socket
from falconas.codec import decode_value, encode_value
from falconas.errors import Code
from falconas.protocol import (
    Cancel,
    Disconnect,
    Heartbeat,
    Hello,
    Id,
    Kind,
    Lost,
    Message,
    Ping,
    Ready,
    Register,
    Reload,
    Reply,
    Request,
    Return,
    Status,
    Welcome,
)
from falconas.settings import Broker
from tests.unit.broker.peers import CAPS, MANIFESTS, Asked, Caller, Host, Link, Process
from tests.unit.broker.views import DATABASE, Node, View, Views, has, suits

# As documented, not as imported: the rule itself is under test.
GRACE, RESOLUTION, SLACK = 0.7, 0.01, 1e-6
ANSWER_WAIT, UNLISTED_FOR, RETURN_WAIT = 0.5, 0.5, 3.0
CRASHES, WINDOW = 3, 60.0
LEASE, MARGIN = 0.01, 0.25
DOUBT = 3.0
OPERATOR = b"operator"
SETTINGS = Broker(
    queue_requests=5,
    queue_bytes=200,
    client_requests=4,
    params_bytes=64,
    budget=3.0,
    worker_wait=1.0,
    start_wait=3.0,
    drain_timeout=2.0,
)


class World:
    """A broker's core, its peers, and the rules."""

    def __init__(self, settings: Broker = SETTINGS) -> None:
        self.now = 100.0
        self.settings = settings
        self.core = BrokerCore(settings, b"epoch###", self.now)
        self.links: dict[bytes, Link] = {}
        self.asked: dict[Id, Asked] = {}
        self.callers: list[Caller] = []
        self.hosts: list[Host] = []
        self.nodes = {"n1": Node("n1", "primary"), "n2": Node("n2")}
        self.views = Views()
        self._before: dict[str, View] | None = None
        self.workers: list[Process] = []
        self.live: dict[bytes, Process] = {}  # whom the broker may give requests
        self.owing: dict[bytes, set[Any]] = {}  # what it has not heard of since
        self.handed: dict[Id, Asked] = {}  # by dispatch id
        self.dying: set[bytes] = set()  # may still be heard, but get nothing
        self.burials: dict[bytes, float] = {}
        self.unlisted: dict[bytes, float] = {}
        self.answered: dict[bytes, Id] = {}  # what a worker has answered last
        self.requests: dict[Id, Request] = {}  # by dispatch id
        self.crashes: dict[tuple[str, str], list[float]] = {}
        self.quarantined: set[tuple[str, str]] = set()
        self.learned: set[str] = set()
        self.given_back = 0
        self.introduced: dict[bytes, bytes] = {}
        self._deserted: list[Asked] = []
        self._greeting: Caller | None = None
        self._duplicate: bytes | None = None
        self._serial = 0
        self.links[OPERATOR] = Link(OPERATOR)

    def link(self) -> Link:
        self._serial += 1
        link = Link(b"link%d" % self._serial)
        self.links[link.identity] = link
        return link

    # Clients

    def is_told(self, asked: Asked) -> bool:
        """Tell whether a request has its verdict, or its worker was told to stop."""
        holder = self._holder(asked)
        if asked.verdict is not None or holder is None:
            return asked.verdict is not None or asked.cancelled_at is not None
        worker, dispatch = holder
        told = [message for message, _ in worker.link.down]
        return Cancel(dispatch, {}) in told or not worker.link.open

    def caller(self, session: bytes, envelope: tuple[bytes, ...] = ()) -> Caller:
        caller = Caller(session, self.link(), envelope)
        if session:
            self.hello(caller, caller.link)
        self.callers.append(caller)
        return caller

    def hello(self, caller: Caller, link: Link) -> None:
        """Say HELLO: whatever is owed comes here from now on."""
        if caller.session:
            caller.link, self._greeting = link, caller
            peer = Peer(Socket.FRONTEND, link.identity)
            self.core.hello(peer, Hello(b"hello", caller.session, {}), self.now)
            caller.gone_at = None
            self.flush()
            self._greeting = None
            late = [a for a in self._of(caller) if (a.held_until or 0.0) > self.now]
            assert not late or not link.open, "a kept answer was not given"
        else:
            caller.link = link

    def ask(
        self,
        caller: Caller,
        script: str,
        budget: float | None = None,
        extras: dict[str, Any] | None = None,
        padding: int = 0,
    ) -> Asked:
        """Send a request, which arrives at once."""
        self._serial += 1
        extras = extras or {}
        min_lsn = extras.get("min_lsn", {}).get(DATABASE)
        id_ = b"ask%d" % self._serial
        body = b"nonce%d" % self._serial + bytes(padding)
        cap = CAPS.get(script) if self.learned else None
        wanted = self.settings.budget if budget is None else budget
        asked = Asked(
            caller,
            id_,
            script,
            body,
            self.now,
            self.now + min(wanted, cap or wanted),
            caller.link,
            min_lsn=min_lsn,
            watched=bool(extras.get("cancel_on_disconnect")) and not caller.envelope,
        )
        busy, full = self._limits(caller, len(body))
        self.asked[id_] = asked
        peer = Peer(Socket.FRONTEND, caller.link.identity, caller.envelope)
        request = Request(id_, script, budget, {"_caller": "x", **extras})
        self.core.request(peer, request, body, self.now)
        self.flush()
        refused = asked.verdict is not None and not asked.handed
        assert not busy or refused, "beyond the client's bound"
        # What was handed out, if in vain, was accepted: it may always wait.
        tried = asked.handed or asked.unsent
        assert tried or refused or not full, "beyond the bound of the queue"
        if refused and asked.verdict is not None:
            crowded = asked.verdict[0].code == Code.RESOURCE_EXHAUSTED
            assert not crowded or busy or full, "refused though there is room"
        return asked

    def duplicate(self, asked: Asked) -> None:
        """Use the id of an outstanding request again."""
        caller = asked.caller
        peer = Peer(Socket.FRONTEND, caller.link.identity, caller.envelope)
        self._duplicate = asked.id
        again = Request(asked.id, asked.script, None, {})
        self.core.request(peer, again, b"again", self.now)
        self.flush()
        assert self._duplicate is None, "a duplicate id was not refused"

    def cancel(self, asked: Asked) -> None:
        caller = asked.caller
        peer = Peer(Socket.FRONTEND, caller.link.identity, caller.envelope)
        heard = bool(asked.to is caller.link or caller.session)
        first = heard and not self._may_be_cancelled(asked) and asked.verdict is None
        holder = self._holder(asked)
        self.core.cancel(peer, Cancel(asked.id, {}), self.now)
        if heard and asked.cancelled_at is None:
            asked.cancelled_at = self.now
        self.flush()
        if first and holder is not None:
            worker, dispatch = holder
            told = Cancel(dispatch, {"worker": worker.uuid}), b""
            known = worker.host.uuid in self.core.hosts.supervisors
            assert not known or told in worker.host.link.down, "cancel not passed on"

    def _holder(self, asked: Asked) -> tuple[Process, Id] | None:
        """Return who has a request in hand, unless it is dead."""
        for worker in self.live.values():
            for dispatch in self.owing[worker.uuid]:
                if self.handed[dispatch] is asked and worker.uuid not in self.dying:
                    return worker, dispatch
        return None

    def _may_be_cancelled(self, asked: Asked) -> bool:
        """Tell whether somebody wanted that, or the caller was gone for too long."""
        return asked.cancelled_at is not None or asked.deserted

    def _limits(self, caller: Caller, size: int) -> tuple[bool, bool]:
        """Tell whether the client's bound and the queue's are reached."""
        waiting = list(self.core.flow.backlog)
        size += sum(len(p.body) for p in waiting)
        full = len(waiting) >= self.settings.queue_requests
        theirs = [a for a in self._of(caller) if a.to is caller.link or caller.session]
        outstanding = sum(a.verdict is None for a in theirs)
        busy = outstanding >= self.settings.client_requests
        return busy, full or size > self.settings.queue_bytes

    def _of(self, caller: Caller) -> list[Asked]:
        return [asked for asked in self.asked.values() if asked.caller is caller]

    # Workers and supervisors

    def host(self, manifest: str) -> Host:
        host = Host(bytes([len(self.hosts)]) * 16, manifest, self.link())
        self.hosts.append(host)
        return host

    def register(self, host: Host, *, fresh: bool = False) -> None:
        self.learned.add(host.manifest)
        extras = {"fresh": fresh}
        register = Register(b"r", host.uuid, "h", host.manifest, extras)
        body = encode_value({"scripts": MANIFESTS[host.manifest]})
        host.link.up.append((register, body))

    def beat(self, host: Host) -> None:
        alive = [w.uuid for w in self.workers if w.host is host and w.alive]
        nodes = [view.entry(name) for name, view in host.views.items()]
        heartbeat = Heartbeat(b"h", host.uuid, {})
        body = encode_value({"workers": alive, "nodes": nodes})
        host.link.up.append((heartbeat, body))

    def look(self, host: Host) -> None:
        """Let a host's probe see how the nodes are."""
        host.views = {name: node.view() for name, node in self.nodes.items()}

    def promote(self, node: Node, *, followed: bool = True) -> None:
        """Make a node the primary, on a timeline of its own, which others may miss."""
        nodes = self.nodes.values()
        node.timeline = 1 + max(other.timeline for other in nodes)
        for other in nodes:
            other.role = "primary" if other is node else "standby"
            other.timeline = node.timeline if followed else other.timeline
        node.lag = 0.0

    def reload(self) -> None:
        """Let an operator ask all supervisors to load their scripts anew."""
        supervisors = self.core.hosts.supervisors.values()
        self._pardon({supervisor.manifest for supervisor in supervisors})
        peer = Peer(Socket.CONTROL, OPERATOR)
        self.core.pass_on(peer, Reload(b"reload", {}), self.now)
        self.flush()
        told = [link for link in self.links.values() if _has_reload(link)]
        assert len(told) == len(supervisors), "not all were told"
        for link in told:
            link.down.pop()

    def held(self, worker: Process) -> list[Asked]:
        """Return what a worker has in hand, by its and the broker's books."""
        if self.live.get(worker.link.identity) is not worker:
            return []
        asked = [self.handed[dispatch] for dispatch in self.owing[worker.uuid]]
        return [a for a in asked if a.verdict is None and worker.uuid not in self.dying]

    def spawn(self, host: Host, group: str, node: str = "n1") -> Process:
        uuid = (100 + len(self.workers)).to_bytes(2, "big") * 8
        link, at = self.link(), self.nodes[node]
        worker = Process(uuid, host, group, link, host.manifest, at)
        self.workers.append(worker)
        worker.introduce()
        return worker

    def start(self, worker: Process) -> None:
        """Let a worker read its messages and start what it should."""
        worker.read()
        request = worker.next(self.now)
        if request is None:
            return
        asked = self.asked[request.extras["origin"]]
        idempotent = MANIFESTS[worker.manifest][request.script]["idempotent"]
        asked.starts.append(idempotent)
        assert len(asked.starts) == 1 or all(asked.starts), "not to be started twice"
        assert len(asked.starts) <= request.extras["attempt"], "started too often"
        if asked.verdict is not None:
            assert _started(asked.verdict) != "no", "started in spite of its verdict"

    def end(
        self,
        worker: Process,
        kept: int,
        *,
        noticed: bool,
        state: str = "IDLE",
        **extras: Any,
    ) -> None:
        """Kill a worker; `kept` of its last messages still arrive.

        `state` is what it did last, if it did not work on a request; `extras` say
        why it had to die, or that it is to blame.
        """
        worker.alive = False
        up = worker.link.up
        while len(up) > kept:
            up.pop()
        worker.link.open = not noticed
        state = "RUN" if worker.running else state
        lost = Lost(worker.slot, worker.uuid, state, "killed", extras)
        worker.host.link.up.append((lost, b""))

    def reconnect(self, worker: Process, kept: int) -> None:
        """Move a worker to a new connection; some old messages still arrive."""
        old, worker.link = worker.link, self.link()
        while len(old.up) > kept:
            old.up.pop()
        old.open = False
        worker.link.down.extend(old.down)  # read late, before the WELCOME
        worker.introduce()

    def deliver(self, link: Link, count: int) -> None:
        """Let up to `count` messages of a peer arrive."""
        while link.up and count:
            count -= 1
            message, body = link.up.popleft()
            self._arrive(link, message, body)
            self.flush()

    def _arrive(self, link: Link, message: Message, body: bytes) -> None:
        core, now = self.core, self.now
        peer = Peer(Socket.BACKEND, link.identity)
        if isinstance(message, Ready) and self._is_stale(message):
            core.ready(peer, message, now)
        elif isinstance(message, Ready):
            owing = self.owing.get(message.worker, set())
            self.live = {i: w for i, w in self.live.items() if w.uuid != message.worker}
            self.owing[message.worker] = owing & set(message.extras["holding"])
            owner = next(w for w in self.workers if w.uuid == message.worker)
            self.live[link.identity] = owner
            core.ready(peer, message, now)
        elif isinstance(message, Status):
            core.status(peer, message, now)
        elif isinstance(message, Reply):
            owed = self._heard(link, message)
            # The core may amend the extras, but the worker keeps its last answer.
            reply = message._replace(extras=dict(message.extras))
            repeated = owed and self._is_repeated(link, message)
            core.reply(peer, reply, body, now)
            self.flush()
            asked = self.handed.get(message.id)
            verdict = asked.verdict if asked else None
            assert not owed or verdict or repeated, "an answer was dropped"
            changed = verdict is not None and _is_changed(verdict)
            assert changed or not (repeated and verdict), "not repeated"
        elif isinstance(message, Return):
            if self._heard(link, message):
                self._sent_back(link, message)
            core.returned(peer, message, now)
        elif isinstance(message, Disconnect):
            self._gone(link)
            core.disconnect(peer, now)
        else:
            self._arrive_at_control(link, message, body)

    def _arrive_at_control(self, link: Link, message: Message, body: bytes) -> None:
        core, now = self.core, self.now
        peer = Peer(Socket.CONTROL, link.identity)
        if isinstance(message, Lost):
            self._died(message)
        elif isinstance(message, Register):
            if message.extras["fresh"]:
                self._pardon({message.manifest})
            core.register(peer, message, body, now)
        elif isinstance(message, Heartbeat):
            self._beaten(message, body)
            core.heartbeat(peer, message, body, now)
            self._check_known()

    def _is_repeated(self, link: Link, reply: Reply) -> bool:
        """Tell whether what a node broke off has to be tried once more.

        After a conflict with recovery the primary has to be, else anybody.
        """
        conflict = reply.extras.get("conflict", False)
        if not conflict and not reply.extras.get("lost"):
            return False
        asked = self.handed[reply.id]
        entry = MANIFESTS[self.live[link.identity].manifest][asked.script]
        late = self.now >= min(asked.deadline, asked.at + (entry["budget"] or 9.9))
        over = late or asked.verdict is not None or self._may_be_cancelled(asked)
        if over or asked.attempt > 1 or not entry["idempotent"]:
            return False
        before, asked.conflicted = asked.conflicted, asked.conflicted or conflict
        view = self.believed()
        there = any(
            worker.ready and self._is_for(worker.lane, asked, view)
            for worker in self.core.flow.pool.by_uuid.values()
        )
        asked.conflicted = asked.conflicted if there else before
        return there

    def _sent_back(self, link: Link, returned: Return) -> None:
        """Note what the broker learns from a request that was not started."""
        asked = self.handed[returned.id]
        node = self.live[link.identity].node.name
        view = self.believed().get(node)
        if returned.extras.get("behind"):
            asked.behind = True
            if not has(view, None if asked.conflicted else asked.min_lsn):
                return
        elif not returned.extras.get("refused"):
            return
        self.views.doubts[node] = self.now + DOUBT

    def believed(self) -> dict[str, View]:
        """Return what has to be believed of the nodes."""
        return self.views.believed({*self.core.hosts.supervisors})

    def _is_for(self, lane: LaneKey, asked: Asked, views: dict[str, View]) -> bool:
        """Tell whether workers of a lane may be given a request."""
        manifest, group, node = lane
        entry = MANIFESTS[manifest].get(asked.script)
        if entry is None or entry["error"] or manifest not in self.learned:
            return False
        if (manifest, asked.script) in self.quarantined:
            return False
        if entry["group"] not in {None, group} or not suits(views.get(node), entry):
            return False
        if asked.conflicted:
            return has(views.get(node), None)
        view = views.get(node)
        lost = view is not None and view.astray and view.role != "primary"
        if asked.min_lsn and lost:
            return False
        return not asked.behind or has(view, asked.min_lsn)

    def _is_stale(self, ready: Ready) -> bool:
        """Tell whether a later READY of this worker has overtaken this one."""
        known = ready.worker in {worker.uuid for worker in self.live.values()}
        last = self.introduced.get(ready.worker, b"")
        assert isinstance(ready.id, bytes)
        self.introduced[ready.worker] = max(ready.id, last) if known else ready.id
        return known and ready.id < last

    def _beaten(self, heartbeat: Heartbeat, body: bytes) -> None:
        if heartbeat.supervisor in self.core.hosts.supervisors:
            said = decode_value(body)
            self.views.hear(heartbeat.supervisor, said["nodes"])
            alive = said["workers"]
            workers = self.live.values()
            theirs = {w.uuid for w in workers if w.host.uuid == heartbeat.supervisor}
            missing = theirs.difference(alive) - self.dying
            for uuid in theirs - missing:
                self.unlisted.pop(uuid, None)
            since = {uuid: self.unlisted.setdefault(uuid, self.now) for uuid in missing}
            self._forget(
                {u for u, at in since.items() if self.now >= at + UNLISTED_FOR}
            )

    def _died(self, lost: Lost) -> None:
        """Forget a worker, but not yet where its answer may be on its way."""
        worker = next((w for w in self.live.values() if w.uuid == lost.worker), None)
        owed = worker is not None and lost.id in self.owing[lost.worker]
        asked = self.handed[lost.id] if owed else None
        asked = asked if asked and asked.verdict is None else None
        self._blame(worker, lost)
        waits = owed and lost.state not in {"RUN", "COMMIT"}
        if waits:
            self.dying.add(lost.worker)
            self.burials[lost.worker] = self.now + ANSWER_WAIT
        else:
            self._forget({lost.worker})
        self.core.lost(lost, self.now)
        self.flush()
        why = lost.extras.get("why")
        if asked is not None and why is not None and not waits:
            assert asked.verdict is not None, "its worker was ended in vain"
            code = Code(asked.verdict[0].code)
            if why == "cancel" or asked.cancelled_at is not None:
                assert code is Code.CANCELLED
            else:
                assert code in {Code.DEADLINE_EXCEEDED, Code.CANCELLED}
            assert _started(asked.verdict) == "yes"

    def _blame(self, worker: Process | None, lost: Lost) -> None:
        if worker is None or not lost.extras.get("crash"):
            return
        if lost.id in {*self.owing[lost.worker], self.answered.get(lost.worker)}:
            culprit = worker.manifest, self.handed[lost.id].script
            times = [*self.crashes.get(culprit, []), self.now][-CRASHES:]
            self.crashes[culprit] = times
            if len(times) == CRASHES and times[-1] - times[0] <= WINDOW:
                self.quarantined.add(culprit)

    def _pardon(self, manifests: set[str]) -> None:
        for culprit in [c for c in self.crashes if c[0] in manifests]:
            del self.crashes[culprit]
            self.quarantined.discard(culprit)

    def _forget(self, uuids: set[bytes]) -> None:
        gone = [i for i, worker in self.live.items() if worker.uuid in uuids]
        for identity in gone:
            self._gone(self.links[identity])

    def _gone(self, link: Link) -> None:
        worker = self.live.pop(link.identity, None)
        if worker is not None:
            self.owing.pop(worker.uuid, None)
            self.dying.discard(worker.uuid)
            self.unlisted.pop(worker.uuid, None)
            self.answered.pop(worker.uuid, None)

    def _heard(self, link: Link, answer: Reply | Return) -> bool:
        """Tell whether the worker owed that; it does no longer."""
        worker = self.live.get(link.identity)
        if worker is None or answer.id not in self.owing[worker.uuid]:
            return False
        self.owing[worker.uuid].remove(answer.id)
        if isinstance(answer, Reply):
            self.answered[worker.uuid] = answer.id
        return True

    # Time

    def tick(self) -> None:
        due = {uuid for uuid, at in self.burials.items() if at <= self.now}
        self.burials = {u: at for u, at in self.burials.items() if u not in due}
        self._forget(due)
        for asked in self.asked.values():
            gone_at = asked.caller.gone_at
            gone = gone_at is not None and self.now >= gone_at + RETURN_WAIT
            asked.deserted |= asked.watched and gone
        self._before = self.believed()
        if self.core._sweep_at <= self.now:
            doubts = self.views.doubts.items()
            self.views.doubts = {n: at for n, at in doubts if at > self.now}
        self.core.tick(self.now)
        self._see_revoked()
        self.flush()
        self._before = None
        self.views.forget({*self.core.hosts.supervisors})
        for asked in self.asked.values():
            if asked.verdict is None:
                until = asked.deadline
                if asked.cancelled_at is not None:
                    until = min(until, asked.cancelled_at)
                limit = until + RESOLUTION + (GRACE if asked.handed else 0.0)
                assert self.now < limit + SLACK, "no verdict in time"

    def check(self) -> None:
        """Compare the core's books with ours."""
        check_invariants(self.core)
        self._see_revoked()
        outstanding = sum(asked.verdict is None for asked in self.asked.values())
        assert self.core.flow.open == outstanding, "not one verdict for each request"
        self._check_known()
        self._check_waiting()
        wake_at = min(self.burials.values(), default=inf)
        assert self.core.wake_at() <= wake_at, "a verdict would be late"

    def _check_waiting(self) -> None:
        views, waiting = self.believed(), list(self.core.flow.backlog)
        for worker in self.core.flow.pool.by_uuid.values():
            if worker.ready and not worker.hands:
                for pending in waiting:
                    asked = self.asked[pending.origin]
                    assert not self._is_for(worker.lane, asked, views), (
                        "waits for nothing"
                    )

    def _check_known(self) -> None:
        known = {worker.uuid for worker in self.live.values()}
        assert self.core.flow.pool.by_uuid.keys() == known, "kept or let go too early"

    def settle(self, *, work: bool) -> None:
        """Let everything arrive and all time pass; every request has its verdict."""
        for _ in range(12):
            for worker in self.workers:
                if worker.alive and work:
                    self.start(worker)
                    if worker.running:
                        worker.finish(ok=True, ready=True)
            for link in list(self.links.values()):
                self.deliver(link, 100)
        self.check()
        end = max([self.now, *(a.deadline for a in self.asked.values())]) + 2.0
        while self.now < end and not self.core.drained:
            self.now = max(self.now, self.core.wake_at()) + SLACK
            self.tick()
        self.check()
        for asked in self.asked.values():
            assert asked.verdict is not None, "no verdict at all"
        flow = self.core.flow
        counts = flow.counters
        answered = [n for name, n in counts.items() if name.startswith(_ENDS)]
        assert flow.open == 0
        assert counts["requests"] == sum(answered), "verdicts do not add up"
        assert len(flow.expiry) == 0
        assert self.core.drained == (self.core.draining_until < inf)

    # What the broker says

    def flush(self) -> None:
        """Put on the links what the core wants sent, as the loop does."""
        while sends := self.core.take_sends():
            for send in sends:
                link = self.links[send.identity]
                if send.socket is Socket.FRONTEND:
                    self._to_client(send, link)
                elif isinstance(send.message, Request) and link.open:
                    self._to_worker(send, send.message)
                elif isinstance(send.message, Request):
                    self.asked[send.message.extras["origin"]].unsent = True
                self._hand_over(send, link)
            # What was decided before the broker knew has been said by now.
            for asked in self._deserted:
                asked.cancelled_at = asked.cancelled_at or self.now
            self._deserted.clear()

    def _hand_over(self, send: Send, link: Link) -> None:
        message = send.message
        if isinstance(message, Welcome) and message.id == b"?":
            self._gone(link)
        if link.open:
            link.down.append((message, send.body))
            return
        asked = self.asked.get(message.id)
        if send.socket is Socket.FRONTEND and asked and asked.caller.session:
            asked.held_until = self.now + self.settings.budget
        self._gone(link)
        if send.socket is Socket.FRONTEND:
            self._desert(link)
        self.core.unreachable(send, self.now)

    def _desert(self, link: Link) -> None:
        """Note that the broker now knows that a client's connection is gone."""
        for caller in self.callers:
            if caller.session and caller.link is link and caller.gone_at is None:
                caller.gone_at = self.now
        for asked in self.asked.values():
            alone = not asked.caller.session and asked.to is link
            if alone and asked.watched and asked.verdict is None:
                self._deserted.append(asked)

    def _to_worker(self, send: Send, request: Request) -> None:
        worker = self.live.get(send.identity)
        assert worker is not None, "a request to a worker that is gone"
        assert worker.uuid not in self.dying, "a request to the dead"
        self._see_revoked()
        asked = self.handed[request.id] = self.asked[request.extras["origin"]]
        self.requests[request.id] = request
        self._check_ahead(worker, request)
        self.owing[worker.uuid].add(request.id)
        asked.handed += 1
        assert asked.verdict is None, "handed out after its verdict"
        assert asked.cancelled_at is None, "handed out though cancelled"
        culprit = worker.manifest, request.script
        assert culprit not in self.quarantined, "handed out though quarantined"
        assert send.body == asked.body, "somebody else's parameters"
        assert request.script == asked.script
        entry = MANIFESTS[worker.manifest].get(request.script)
        assert entry is not None, "a worker without the script"
        assert entry["error"] is None, "a script that does not load"
        deadline = min(asked.deadline, asked.at + (entry["budget"] or 9.9))
        assert request.budget is not None
        assert abs(request.budget - deadline) < SLACK, "a wrong deadline"
        assert self.now < request.budget, "handed out too late"
        asked.attempt = request.extras["attempt"]
        lane = LaneKey(worker.manifest, worker.group, worker.node.name)
        # Who was let go by a tick had been believed at its beginning.
        views = [self.believed()] + ([] if self._before is None else [self._before])
        fits = any(self._is_for(lane, asked, view) for view in views)
        assert fits, "handed to a node that does not suit"
        assert "_caller" not in request.extras
        assert request.extras["now"] == self.now

    def _check_ahead(self, worker: Process, request: Request) -> None:
        """Check what is handed out ahead of its turn."""
        owing = self.owing[worker.uuid]
        assert request.extras.get("ahead", 0) == len(owing), (
            "miscounted",
            request,
            owing,
            [*self.core.flow.pool.by_uuid[worker.uuid].hands],
        )
        if not owing:
            assert "start_by" not in request.extras, "a lease for nothing"
            return
        assert request.extras["start_by"] == self.now + LEASE, "a wrong lease"
        for dispatch in [*owing, request.id]:
            entry = MANIFESTS[worker.manifest][self.handed[dispatch].script]
            assert entry["idempotent"], "ahead of its turn, and not idempotent"
        pool = self.core.flow.pool
        lanes = [pool.lanes[key] for key in pool.route(request.script)]
        since = [at for lane in lanes for at in lane.idle.values()]
        assert min(since, default=inf) >= self.now, "ahead beside an idle worker"

    def _see_revoked(self) -> None:
        """Note what the broker has taken back: only what nobody may start any more."""
        for uuid, owing in self.owing.items():
            worker = self.core.flow.pool.by_uuid.get(uuid)
            if worker is None:
                continue
            for dispatch in owing - worker.hands.keys():
                lease = self.requests[dispatch].extras.get("start_by", inf)
                assert self.now >= lease + MARGIN - SLACK, "taken back too early"
                assert dispatch != min(owing), "taken back though it may run"
                owing.remove(dispatch)

    def _to_client(self, send: Send, link: Link) -> None:
        message = send.message
        if isinstance(message, Welcome):
            self._welcomed(send)
            return
        if isinstance(message, Ping):
            assert link.identity not in self._enveloped(), "a REQ cannot take that"
            return
        assert isinstance(message, Reply)
        asked = self.asked[message.id]
        caller = asked.caller
        assert link is (caller.link if caller.session else asked.to), "wrong client"
        if message.id == self._duplicate:
            draining = self.core.draining_until < inf
            refused = Code.UNAVAILABLE if draining else Code.ALREADY_EXISTS
            assert message.code == refused
            self._duplicate = None
            return
        verdict = message, bytes(send.body)
        if asked.verdict is not None:
            assert self._greeting is caller, "two verdicts"
            assert asked.held_until is not None, "two verdicts"
            assert asked.verdict == verdict
            asked.held_until = None
            return
        assert send.envelope == caller.envelope
        asked.verdict = verdict
        self._check_verdict(asked, message, verdict)

    def _check_verdict(
        self, asked: Asked, reply: Reply, verdict: tuple[Reply, bytes]
    ) -> None:
        if reply.kind == Kind.OK:
            assert verdict[1] == b"done " + asked.body, "somebody else's result"
            assert asked.starts, "a result without a start"
            return
        fields = decode_value(verdict[1])
        if reply.code == Code.CANCELLED:
            assert self._may_be_cancelled(asked), "cancelled, but who wanted that?"
        elif reply.code == Code.FAILED_PRECONDITION:
            scripts = {script for _, script in self.quarantined}
            assert asked.script in scripts, "not quarantined, or no longer"
            assert not self._others(asked.script), "another version could serve"
        if reply.code == Code.UNKNOWN:
            assert fields["message"] == asked.body.decode(), "somebody else's error"
        if fields["started"] == "no":
            assert not asked.starts, "started, but denied"
        elif fields["started"] == "yes":
            assert asked.starts, "not started, but claimed"
        if asked.starts.count(False):
            assert not fields.get("retry_safe"), "a retry would not be safe"
        if "had not answered" in fields["message"]:
            entry = CAPS.get(asked.script, 9.9)
            deadline = min(asked.deadline, asked.at + entry)
            assert self.now > deadline + GRACE - SLACK, "given up too early"
        elif "ran out" in fields["message"]:
            assert self.now > asked.at + 0.01

    def _others(self, script: str) -> set[str]:
        """Return the manifests at hand whose version of a script may be run."""
        pool = self.core.flow.pool
        entries = {m: MANIFESTS[m].get(script) for m in pool.manifests}
        sound = {m for m, entry in entries.items() if entry and not entry["error"]}
        served = {w.lane.manifest for w in pool.by_uuid.values()} & sound
        return {m for m in served if (m, script) not in self.quarantined}

    def _enveloped(self) -> set[bytes]:
        asked = self.asked.values()
        return {a.to.identity for a in asked if a.caller.envelope}

    def _welcomed(self, send: Send) -> None:
        caller = self._greeting
        if caller is None:
            return
        theirs = self._of(caller)
        owed = {a.id for a in theirs if a.verdict is None}
        owed |= {a.id for a in theirs if (a.held_until or 0.0) > self.now}
        assert set(decode_value(send.body)) == owed, "a session's requests forgotten"


_ENDS = ("verdicts.", "replies.")


def _has_reload(link: Link) -> bool:
    return bool(link.down) and isinstance(link.down[-1][0], Reload)


def _is_changed(verdict: tuple[Reply, bytes]) -> bool:
    """Tell whether it says that there is only a version that must not run twice."""
    message = decode_value(verdict[1])["message"] if verdict[0].code else ""
    return "was changed" in message


def _started(verdict: tuple[Reply, bytes]) -> str:
    if verdict[0].kind == Kind.OK:
        return "yes"
    return str(decode_value(verdict[1])["started"])

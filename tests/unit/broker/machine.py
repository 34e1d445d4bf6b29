"""Everything that can happen to a broker, in any order (hypothesis).

Time passes apart from ticks; messages wait on their links until a rule lets them
arrive, so that a reply can meet a LOST that overtook it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from falconas.errors import Code
from falconas.protocol import Disconnect, Status
from tests.unit.broker.peers import MANIFESTS, SCRIPTS, Asked, Link, Process
from tests.unit.broker.views import DATABASE
from tests.unit.broker.world import World

INDEX = st.integers(0, 5)
FEW = st.integers(0, 2)
NODE = st.sampled_from(["n1", "n2"])
ANSWERED = st.sampled_from(["REPLY", "RESET", "IDLE"])
STEPS = 50


def pick(items: list[Any], index: int) -> Any:
    return items[index % len(items)]


def needs(peers: Callable[[Any], list[Any]]) -> Callable[[Any], Any]:
    """Let a rule run only where there is somebody whom it is about."""
    return precondition(lambda machine: bool(peers(machine)))


class BrokerMachine(RuleBasedStateMachine):
    """A world, and rules that move it."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.steps = 0
        self.work_on = True

    @initialize(
        third=st.sampled_from(["none", "a", "other group", "b"]),
        registered=st.sampled_from([True, True, True, False]),
        work_on=st.booleans(),
        envelope=st.sampled_from([(), (b"",)]),
        second=NODE,
        looked=st.booleans(),
    )
    def begin(
        self,
        third: str,
        envelope: tuple[bytes, ...],
        second: str,
        *,
        looked: bool,
        registered: bool,
        work_on: bool,
    ) -> None:
        world = self.world
        self.work_on = work_on
        for manifest in ("a", "b"):
            host = world.host(manifest)
            if registered:
                world.register(host)
                world.deliver(host.link, 1)
            if looked:
                self.probe(len(world.hosts) - 1)
        for node in ("n1", second):
            world.spawn(world.hosts[0], "default", node)
        if third != "none":
            host = world.hosts[third == "b"]
            world.spawn(host, "other" if third == "other group" else "default")
        for worker in world.workers:
            world.deliver(worker.link, 1)
            world.start(worker)
        for session in (b"first session..#", b"second session.#"):
            world.caller(session)
        world.caller(b"", envelope)

    # Clients

    @rule(
        who=FEW,
        script=st.sampled_from(SCRIPTS),
        budget=st.sampled_from([None, 0.2, 0.9, 5.0]),
        priority=st.sampled_from([0, 0, 3, -3, 99]),
        padding=st.sampled_from([0, 0, 50]),
        watched=st.booleans(),
        min_lsn=st.sampled_from([None, None, 5, 12, 25]),
    )
    def ask(
        self,
        who: int,
        script: str,
        budget: float | None,
        priority: int,
        padding: int,
        min_lsn: int | None,
        *,
        watched: bool,
    ) -> None:
        caller = self.world.callers[who]
        extras: dict[str, Any] = {"priority": priority, "cancel_on_disconnect": watched}
        if min_lsn is not None:
            extras["min_lsn"] = {DATABASE: min_lsn}
        self.world.ask(caller, script, budget, extras, padding)

    @rule(who=FEW, script=st.sampled_from(SCRIPTS[:4]), count=st.integers(2, 4))
    def burst(self, who: int, script: str, count: int) -> None:
        for _ in range(count):
            self.world.ask(self.world.callers[who], script)

    @rule(
        who=FEW,
        script=st.sampled_from(["broken", "nothing", "No Name"]),
        padding=st.sampled_from([0, 60]),
    )
    def ask_in_vain(self, who: int, script: str, padding: int) -> None:
        self.world.ask(self.world.callers[who], script, padding=padding)

    def outstanding(self) -> list[Asked]:
        asked = self.world.asked.values()
        return [a for a in asked if a.verdict is None and a.caller.link.open]

    @needs(outstanding)
    @rule(index=INDEX)
    def cancel(self, index: int) -> None:
        self.world.cancel(pick(self.outstanding(), index))

    @needs(outstanding)
    @rule(index=INDEX)
    def duplicate(self, index: int) -> None:
        asked = pick(self.outstanding(), index)
        if asked.caller.session or asked.to is asked.caller.link:
            self.world.duplicate(asked)

    @rule(who=FEW, noticed=st.booleans())
    def client_reconnects(self, who: int, *, noticed: bool) -> None:
        caller = self.world.callers[who]
        caller.link.open = not noticed
        self.world.hello(caller, self.world.link())

    @rule(who=FEW)
    def client_goes(self, who: int) -> None:
        self.world.callers[who].link.open = False

    @rule(who=FEW, script=st.sampled_from(SCRIPTS), back=st.booleans())
    def client_vanishes(self, who: int, script: str, *, back: bool) -> None:
        """Let a client go whose request is to end with it, or come back in time."""
        world, caller = self.world, self.world.callers[who]
        if caller.envelope or not caller.link.open:
            return
        asked = world.ask(caller, script, 5.0, {"cancel_on_disconnect": True})
        caller.link.open = False
        for _ in range(4):
            if back and caller.gone_at is not None:
                world.hello(caller, world.link())
            self.time_passes(1.1)
            world.tick()
        assert back or world.is_told(asked), "its client is gone"

    # Workers

    def alive(self) -> list[Process]:
        return [worker for worker in self.world.workers if worker.alive]

    def running(self) -> list[Process]:
        return [worker for worker in self.alive() if worker.running]

    @needs(alive)
    @rule(index=INDEX)
    def start(self, index: int) -> None:
        self.world.start(pick(self.alive(), index))

    @needs(running)
    @rule(
        index=INDEX,
        ok=st.booleans(),
        ready=st.sampled_from([True, True, False]),
        run_us=st.sampled_from([100, 400, 50_000]),
    )
    def finish(self, index: int, run_us: int, *, ok: bool, ready: bool) -> None:
        pick(self.running(), index).finish(ok, ready, run_us)

    @rule(who=FEW, count=st.integers(2, 4), start=st.booleans(), late=st.booleans())
    def pile_up(self, who: int, count: int, *, start: bool, late: bool) -> None:
        """Give busy workers more than one; what is late has lost its lease."""
        self.ask_and_start(who, "read")
        self.serve_all()
        for number in range(count):
            self.world.ask(self.world.callers[(who + number) % 3], "read")
        for worker in self.alive():
            if start:
                self.world.start(worker)
        if late:
            self.time_passes(0.3)
            self.world.tick()
            self.serve_all()

    def on_standby(self) -> list[Process]:
        return [w for w in self.running() if w.node.role == "standby"]

    @rule(
        who=FEW,
        script=st.sampled_from(["read", "fresh", "only_a"]),
        ready=st.sampled_from([True, True, False]),
        then=st.booleans(),
    )
    def conflict(self, who: int, script: str, *, ready: bool, then: bool) -> None:
        """Let the recovery of standbys cancel what they run, perhaps twice."""
        self.ask_and_start(who, script)
        for worker in self.on_standby():
            worker.conflict(ready)
            self.world.deliver(worker.link, 9)
        if then:
            self.serve_all()

    @needs(running)
    @rule(index=INDEX, then=st.booleans())
    def lose_connection(self, index: int, *, then: bool) -> None:
        """Let a node end a connection under what runs."""
        worker = pick(self.running(), index)
        worker.lose_connection()
        if then:
            self.world.deliver(worker.link, 9)
            self.serve_all()

    @rule(
        who=FEW,
        script=st.sampled_from(["read", "fresh", "only_a"]),
        min_lsn=st.sampled_from([5, 12, 25]),
        then=st.booleans(),
    )
    def read_own_writes(
        self, who: int, script: str, min_lsn: int, *, then: bool
    ) -> None:
        """Ask for what only some nodes have replayed; a standby looks and says no."""
        extras = {"min_lsn": {DATABASE: min_lsn}}
        self.world.ask(self.world.callers[who], script, None, extras)
        for worker in self.alive():
            if worker.node.role == "standby":
                self.world.start(worker)
                self.world.deliver(worker.link, 9)
        if then:
            self.serve_all()

    def overdue(self) -> list[Process]:
        now = self.world.now
        return [w for w in self.running() if w.interrupted(now) is not None]

    @needs(overdue)
    @rule(index=INDEX, gently=st.booleans())
    def stop(self, index: int, *, gently: bool) -> None:
        """Interrupt what runs, or end its worker."""
        worker = pick(self.overdue(), index)
        code = worker.interrupted(self.world.now)
        assert code is not None
        if gently:
            worker.stop(code)
            return
        why = "cancel" if code is Code.CANCELLED else "deadline"
        self.world.end(worker, 1, noticed=True, why=why)
        self.world.deliver(worker.host.link, 9)

    @needs(running)
    @rule(index=INDEX, gently=st.booleans())
    def cancel_and_stop(self, index: int, *, gently: bool) -> None:
        worker = pick(self.running(), index)
        assert worker.running is not None
        asked = self.world.handed[worker.running[0].id]
        if asked.verdict is None and asked.caller.link.open:
            self.world.cancel(asked)
            if worker in self.overdue():
                self.stop(self.overdue().index(worker), gently=gently)

    @rule(who=FEW, script=st.sampled_from(SCRIPTS))
    def ask_and_start(self, who: int, script: str) -> None:
        self.world.ask(self.world.callers[who], script)
        for worker in self.alive():
            self.world.deliver(worker.link, 1)
            self.world.start(worker)

    @rule()
    def serve_all(self) -> None:
        for worker in self.alive():
            self.world.start(worker)
            if worker.running:
                worker.finish(ok=True, ready=True)
            self.world.deliver(worker.link, 9)

    @needs(alive)
    @rule(index=INDEX, ok=st.booleans())
    def serve(self, index: int, *, ok: bool) -> None:
        worker = pick(self.alive(), index)
        self.world.start(worker)
        if worker.running:
            worker.finish(ok, ready=True)
        self.world.deliver(worker.link, 9)

    @needs(alive)
    @rule(index=INDEX, ready=st.booleans())
    def give_back(self, index: int, *, ready: bool) -> None:
        worker = pick(self.alive(), index)
        worker.read()
        if worker.inbox:
            worker.give_back(ready)

    @needs(alive)
    @rule(index=INDEX, ready=st.sampled_from([True, True, False]))
    def status(self, index: int, *, ready: bool) -> None:
        worker = pick(self.alive(), index)
        if worker.welcomed:
            worker.link.up.append((Status(worker.uuid, ready, {}), b""))

    @needs(alive)
    @rule(index=INDEX)
    def repeat_answer(self, index: int) -> None:
        worker = pick(self.alive(), index)
        if worker.welcomed and worker.answers:
            worker.link.up.append(worker.answers[-1])

    @needs(alive)
    @rule(index=INDEX)
    def introduce(self, index: int) -> None:
        worker = pick(self.alive(), index)
        worker.read()
        worker.introduce()

    @needs(alive)
    @rule(index=INDEX, kept=FEW)
    def reconnect(self, index: int, kept: int) -> None:
        self.world.reconnect(pick(self.alive(), index), kept)

    @precondition(lambda self: len(self.alive()) > 1)
    @rule(index=INDEX, kept=FEW, noticed=st.booleans(), state=ANSWERED)
    def kill(self, index: int, kept: int, state: str, *, noticed: bool) -> None:
        worker = pick(self.alive(), index)
        self.world.end(worker, kept, noticed=noticed, state=state)

    @needs(running)
    @rule(index=INDEX)
    def kill_at_work(self, index: int) -> None:
        worker = pick(self.running(), index)
        self.world.end(worker, 1, noticed=True)
        self.world.deliver(worker.host.link, 9)

    @needs(running)
    @rule(index=INDEX, ok=st.booleans(), again=st.booleans(), state=ANSWERED)
    def kill_after_answer(
        self, index: int, state: str, *, ok: bool, again: bool
    ) -> None:
        """Let a LOST overtake the answer, which is still on its way."""
        worker = pick(self.running(), index)
        self.world.deliver(worker.link, 9)
        worker.finish(ok, ready=True)
        if again and worker.welcomed:
            worker.link.up.append((Status(worker.uuid, True, {}), b""))
        self.world.end(worker, 9, noticed=False, state=state)
        self.world.deliver(worker.host.link, 9)

    @needs(running)
    @rule(index=INDEX)
    def crash(self, index: int) -> None:
        worker = pick(self.running(), index)
        self.world.end(worker, 1, noticed=True, crash=True)
        self.world.deliver(worker.host.link, 9)

    @rule(
        who=FEW,
        script=st.sampled_from(["read", "write", "both"]),
        rounds=st.integers(2, 4),
        of=st.integers(0, 1),
        external=st.sampled_from([False, False, True]),
    )
    def crash_often(
        self, who: int, script: str, rounds: int, of: int, *, external: bool
    ) -> None:
        """Let a script kill worker after worker, or somebody else do that."""
        host = self.world.hosts[of]
        for _ in range(rounds):
            self.spawn(of, "default")
            self.ask_and_start(who, script)
            for worker in self.running():
                assert worker.running is not None
                if worker.host is host and worker.running[0].script == script:
                    self.world.end(worker, 1, noticed=True, crash=not external)
                    self.world.deliver(host.link, 9)

    @rule(who=FEW, script=st.sampled_from(["read", "write", "both"]))
    def mend(self, who: int, script: str) -> None:
        self.world.reload()
        self.world.ask(self.world.callers[who], script)

    @precondition(lambda self: len(self.alive()) < 5)
    @rule(of=st.integers(0, 1), index=INDEX, lost_first=st.booleans())
    def roll(self, of: int, index: int, *, lost_first: bool) -> None:
        """Replace a worker by one of another manifest; nothing may be lost by that."""
        world = self.world
        host = world.hosts[of]
        old = [w for w in self.alive() if w.host is host and w.welcomed]
        host.manifest = "b" if host.manifest == "a" else "a"
        world.register(host, fresh=True)
        world.deliver(host.link, 9)
        new = world.spawn(host, "default")
        world.deliver(new.link, 1)
        new.read()
        if not old:
            return
        worker = pick(old, index)
        worker.read()
        world.deliver(worker.link, 9)
        held = world.held(worker)
        if worker.running is not None:
            worker.finish(ok=True, ready=False)
        while worker.inbox:
            worker.give_back(ready=False)
        worker.link.up.append((Disconnect(worker.uuid, {}), b""))
        world.end(worker, 99, noticed=False)
        links = [worker.link, host.link]
        for link in reversed(links) if lost_first else links:
            world.deliver(link, 99)
        # Unless it had been started, and the other version may not be run twice.
        again = MANIFESTS[host.manifest]
        lost = [a for a in held if a.failed]
        lost = [a for a in lost if a.attempt < 2 or again[a.script]["idempotent"]]
        assert not lost, "lost in a rolling replacement"

    @precondition(lambda self: len(self.alive()) > 1)
    @rule(index=INDEX)
    def leave(self, index: int) -> None:
        worker = pick(self.alive(), index)
        worker.read()
        if worker.running is None and worker.welcomed:
            while worker.inbox:
                worker.give_back(ready=False)
            worker.link.up.append((Disconnect(worker.uuid, {}), b""))
            self.world.end(worker, 9, noticed=False)

    @precondition(lambda self: len(self.alive()) < 4)
    @rule(
        of=st.integers(0, 1),
        group=st.sampled_from(["default", "other"]),
        beats=st.sampled_from([0, 0, 1, 1, 2]),
        node=NODE,
    )
    def spawn(self, of: int, group: str, beats: int = 0, node: str = "n1") -> None:
        """Start a worker; so many heartbeats from before its time come after it."""
        host = self.world.hosts[of]
        for _ in range(beats):
            self.world.beat(host)
        worker = self.world.spawn(host, group, node)
        self.world.deliver(worker.link, 1)
        self.world.start(worker)
        if beats:
            self.world.deliver(host.link, 9)

    # Nodes

    def probe(self, of: int) -> None:
        """Let a supervisor see the nodes as they are, and say so."""
        host = self.world.hosts[of]
        self.world.look(host)
        self.heartbeat(of)

    @rule(of=st.integers(0, 1))
    def probed(self, of: int) -> None:
        self.probe(of)

    @rule(
        node=NODE,
        of=st.sampled_from([None, 0, 1]),
        followed=st.sampled_from([True, True, False]),
    )
    def promote(self, node: str, of: int | None, *, followed: bool) -> None:
        """Let a standby become the primary; supervisors may learn it late."""
        self.world.promote(self.world.nodes[node], followed=followed)
        if of is not None:
            self.probe(of)

    @rule(node=NODE, of=st.sampled_from([None, 0, 1]))
    def fail_or_return(self, node: str, of: int | None) -> None:
        self.world.nodes[node].up = not self.world.nodes[node].up
        if of is not None:
            self.probe(of)

    @rule(
        node=NODE,
        lsn=st.sampled_from([0, 5, 20]),
        lag=st.sampled_from([0.0, 0.5, 3.0, None]),
        of=st.sampled_from([None, 0, 1]),
    )
    def replay(self, node: str, lsn: int, lag: float | None, of: int | None) -> None:
        """Let a node go on in the log, fall behind, or catch up."""
        at = self.world.nodes[node]
        at.lsn += lsn
        at.lag = 0.0 if at.role == "primary" else lag
        if of is not None:
            self.probe(of)

    @rule(who=FEW, of=st.integers(0, 1))
    def fall_behind(self, who: int, of: int) -> None:
        """Let standbys lag, and ask for what must be fresh."""
        for node in self.world.nodes.values():
            node.lag = 3.0 if node.role == "standby" else 0.0
        self.probe(of)
        self.world.ask(self.world.callers[who], "fresh")

    @rule(who=FEW, of=st.integers(0, 1))
    def catch_up(self, who: int, of: int) -> None:
        """Let a request wait until a standby has replayed what it wants to see."""
        nodes = self.world.nodes.values()
        for node in nodes:
            node.up, node.lsn = node.role == "standby", 10
        self.probe(0)
        self.probe(1)
        self.read_own_writes(who, "read", 25, then=False)
        for node in nodes:
            node.lsn = 30
        self.probe(of)

    # Links, supervisors, time

    def laden(self) -> list[Link]:
        return [link for link in self.world.links.values() if link.up]

    @needs(laden)
    @rule(index=INDEX, count=st.integers(1, 3))
    def deliver(self, index: int, count: int) -> None:
        self.world.deliver(pick(self.laden(), index), count)

    @rule(of=st.integers(0, 1), fresh=st.sampled_from([False, False, True]))
    def register(self, of: int, *, fresh: bool) -> None:
        host = self.world.hosts[of]
        self.world.register(host, fresh=fresh)
        self.world.deliver(host.link, 9)

    @rule(of=st.integers(0, 1))
    def heartbeat(self, of: int) -> None:
        host = self.world.hosts[of]
        self.world.beat(host)
        self.world.deliver(host.link, 9)

    @rule(of=st.integers(0, 1))
    def hush(self, of: int) -> None:
        host = self.world.hosts[of]
        host.beating = not host.beating

    @rule(step=st.sampled_from([0.001, 0.05, 0.3, 0.72, 1.1, 3.5]))
    def time_passes(self, step: float) -> None:
        self.world.now += step
        if len(self.alive()) < 2 and self.steps % 3:
            self.spawn(self.steps % 2, "default")
        for host in self.world.hosts:
            if host.beating:
                self.world.beat(host)
                self.world.deliver(host.link, 9)

    @rule()
    def tick(self) -> None:
        self.world.tick()

    @rule()
    def tick_in_time(self) -> None:
        self.world.now = max(self.world.now, self.world.core.wake_at())
        self.world.tick()

    @precondition(lambda self: self.steps > 30)
    @rule(really=st.sampled_from([False, False, True]))
    def drain(self, *, really: bool) -> None:
        if really:
            self.world.core.drain(self.world.now)

    @invariant()
    def sound(self) -> None:
        self.steps += 1
        self.world.check()

    def teardown(self) -> None:
        self.world.settle(work=self.work_on)


def campaign(runs: int, number: int, machine: type = BrokerMachine) -> None:
    """Run the machine, always the same way for the same number and hash seed."""
    run_state_machine_as_test(
        seed(number)(machine),
        settings=settings(
            max_examples=runs,
            stateful_step_count=STEPS,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )

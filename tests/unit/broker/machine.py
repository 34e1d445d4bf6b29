"""Everything that can happen to a broker, in any order (hypothesis).

Time passes apart from ticks; messages wait on their links until a rule lets them
arrive, so that a reply can meet a LOST that overtook it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from falconas.protocol import Disconnect, Status
from tests.unit.broker.peers import SCRIPTS, Asked, Link, Process
from tests.unit.broker.world import World

INDEX = st.integers(0, 5)
FEW = st.integers(0, 2)
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
    )
    def begin(self, third: str, *, registered: bool, work_on: bool) -> None:
        world = self.world
        self.work_on = work_on
        for manifest in ("a", "b"):
            host = world.host(manifest)
            if registered:
                world.register(host)
                world.deliver(host.link, 1)
        for _ in range(2):
            world.spawn(world.hosts[0], "default")
        if third != "none":
            host = world.hosts[third == "b"]
            world.spawn(host, "other" if third == "other group" else "default")
        for worker in world.workers:
            world.deliver(worker.link, 1)
            world.start(worker)
        for session in (b"first session..#", b"second session.#", b""):
            world.caller(session)

    # Clients

    @rule(
        who=FEW,
        script=st.sampled_from(SCRIPTS),
        budget=st.sampled_from([None, 0.2, 0.9, 5.0]),
        priority=st.sampled_from([0, 0, 3, -3, 99]),
        padding=st.sampled_from([0, 0, 50]),
    )
    def ask(
        self, who: int, script: str, budget: float | None, priority: int, padding: int
    ) -> None:
        caller = self.world.callers[who]
        extras = {"priority": priority}
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
    @rule(index=INDEX, ok=st.booleans(), ready=st.sampled_from([True, True, False]))
    def finish(self, index: int, *, ok: bool, ready: bool) -> None:
        pick(self.running(), index).finish(ok, ready)

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
        if worker.welcomed and worker.last is not None:
            worker.link.up.append(worker.last)

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
    )
    def spawn(self, of: int, group: str, beats: int = 0) -> None:
        """Start a worker; so many heartbeats from before its time come after it."""
        host = self.world.hosts[of]
        for _ in range(beats):
            self.world.beat(host)
        worker = self.world.spawn(host, group)
        self.world.deliver(worker.link, 1)
        self.world.start(worker)
        if beats:
            self.world.deliver(host.link, 9)

    # Links, supervisors, time

    def laden(self) -> list[Link]:
        return [link for link in self.world.links.values() if link.up]

    @needs(laden)
    @rule(index=INDEX, count=st.integers(1, 3))
    def deliver(self, index: int, count: int) -> None:
        self.world.deliver(pick(self.laden(), index), count)

    @rule(of=st.integers(0, 1))
    def register(self, of: int) -> None:
        host = self.world.hosts[of]
        self.world.register(host)
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


def campaign(runs: int, machine: type[BrokerMachine] = BrokerMachine) -> None:
    """Run the machine, always with the same seeds."""
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=runs,
            stateful_step_count=STEPS,
            derandomize=True,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from itertools import pairwise
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
)

from falconas.database.nodes import (
    HURRY,
    Change,
    Node,
    NodeSet,
    Probe,
    Refusal,
    Role,
)
from tests.unit.database.world import PRIMARY, STANDBY, fail, make, recover, well

weights = st.dictionaries(
    st.sampled_from("abcdef"), st.integers(1, 20).map(float), min_size=1
)


def chosen(
    nodes: NodeSet,
    access: str = "read",
    *,
    now: float = 0.5,
    in_use: Mapping[str, int] | None = None,
) -> str:
    found = nodes.choose(access, now=now, in_use=in_use or {})
    assert isinstance(found, Node), found
    return found.name


def refused(nodes: NodeSet, access: str = "write", now: float = 0.5) -> str:
    found = nodes.choose(access, now=now, in_use={})
    assert isinstance(found, Refusal)
    assert nodes.refusal(access, now=now) == found
    return found.reason


def test_names_are_unique() -> None:
    with pytest.raises(ValueError, match="two nodes are named a"):
        NodeSet([Node("a"), Node("a")], random=float)
    nodes = well(a=1)
    with pytest.raises(ValueError, match="two nodes are named b"):
        nodes.update([Node("b"), Node("b")])
    assert list(nodes) == [Node("a")]


def test_without_any_node_there_is_nothing_to_do() -> None:
    nodes = NodeSet([], random=float)

    assert refused(nodes, "read") == "no node is known"
    assert (nodes.due(0.0), nodes.wake_at(), nodes.primary()) == ([], inf, None)
    assert nodes.facts(0.0) == []


def test_nothing_is_believed_before_the_first_probe() -> None:
    nodes = make(a=1, b=1)

    assert refused(nodes, "read") == "a: not probed yet; b: not probed yet"
    assert nodes.due(0.0) == ["a", "b"]
    assert nodes.due(0.0) == []
    assert nodes.wake_at() == inf


def test_writes_go_to_the_primary_only() -> None:
    nodes = well(a=1, b=1, c=1)

    assert {chosen(nodes, "write", in_use={"a": n}) for n in range(9)} == {"a"}
    assert nodes.primary() == Node("a")


def test_without_a_primary_writes_are_refused_and_reads_go_on() -> None:
    nodes = well(a=1, b=1, c=1)
    fail(nodes, "a", 1.0)

    reason = refused(nodes)

    assert reason == "a: connection refused; b: a standby; c: a standby"
    assert nodes.primary() is None
    assert {chosen(nodes) for _ in range(8)} == {"b", "c"}


def test_a_promoted_standby_takes_the_writes_and_the_old_primary_nothing() -> None:
    nodes = well(a=1, b=1)
    nodes.due(1.0)
    nodes.probed("b", Probe(Role.PRIMARY, 110, timeline=2), 1.0)

    assert chosen(nodes, "write") == "b"
    assert {chosen(nodes) for _ in range(4)} == {"b"}
    assert "left behind on timeline 1 of 2" in nodes.facts(1.0)[0].reason
    assert not nodes.suits("a", "read")
    nodes.check_invariants()


def test_an_old_primary_is_not_believed_when_the_new_one_is_gone() -> None:
    nodes = well(a=1, b=1)
    nodes.probed("b", Probe(Role.PRIMARY, 110, timeline=2), 1.0)
    fail(nodes, "b", 2.0)

    assert "left behind" in refused(nodes)


def test_two_primaries_on_one_timeline_get_no_writes() -> None:
    nodes = well(a=1, b=1, c=1)
    nodes.probed("b", PRIMARY, 1.0)

    assert refused(nodes) == (
        "a: a primary on the same timeline as b;"
        " b: a primary on the same timeline as a; c: a standby"
    )
    assert nodes.primary() is None
    fail(nodes, "b", 2.0)
    assert chosen(nodes, "write") == "a"


def test_a_refused_write_ends_the_belief_until_the_next_probe() -> None:
    nodes = well(a=1, b=1)

    assert nodes.refused_write("a", 0.4)
    assert not nodes.refused_write("a", 0.4)

    assert refused(nodes) == "a: it refused a write as read-only; b: a standby"
    assert nodes.due(0.4) == ["a"]
    nodes.probed("a", PRIMARY, 0.45)
    assert chosen(nodes, "write") == "a"


def test_a_suspect_node_is_used_only_if_no_other_suits() -> None:
    nodes = well(a=1, b=1)

    assert nodes.lost("a", "57P01", 0.4)

    assert {chosen(nodes) for _ in range(4)} == {"b"}
    assert chosen(nodes, "write") == "a"
    assert nodes.wake_at() == 0.4


def test_a_standby_too_far_behind_is_passed_over() -> None:
    nodes = well(a=1, b=1)
    nodes.probed("a", Probe(Role.PRIMARY, 200, timeline=1), 5.0)
    nodes.probed("b", Probe(Role.STANDBY, 150, 1, age=9.0), 5.1)

    found = [nodes.choose("read", now=5.1, in_use={}, max_lag=3.0) for _ in range(4)]
    only = nodes.choose("read", now=5.1, in_use={}, max_lag=3.0, among=["b"])

    assert found == [Node("a")] * 4
    assert only == Refusal("b: 5.1 s behind")
    assert nodes.choose("read", now=5.1, in_use={}, max_lag=6.0, among=["b"]) == (
        Node("b")
    )


def test_an_unknown_lag_is_too_large() -> None:
    nodes = well(a=1, b=1)
    nodes.probed("b", Probe(Role.STANDBY, 50, 1), 5.1)

    found = nodes.choose("read", now=5.1, in_use={}, max_lag=1e9, among=["b"])

    assert found == Refusal("b: its lag is not known")


def test_what_has_not_replayed_the_position_is_passed_over() -> None:
    nodes = well(a=1, b=1)

    found = {nodes.choose("read", now=0.5, in_use={}, min_lsn=101) for _ in range(4)}
    only = nodes.choose("read", now=0.5, in_use={}, min_lsn=101, among=["b"])

    assert found == {Node("a")}
    assert only == Refusal("b: it has replayed 0/64, not yet 0/65")
    both = {nodes.choose("read", now=0.5, in_use={}, min_lsn=100) for _ in range(4)}
    assert Node("b") in both


def test_databases_are_chosen_from_apart() -> None:
    nodes = NodeSet([Node("a"), Node("x", database="other")], random=lambda: 1.0)
    nodes.probed("a", PRIMARY, 0.0)
    nodes.probed("x", PRIMARY, 0.0)

    found = nodes.choose("write", now=0.0, in_use={}, database="other")

    assert found == Node("x", database="other")
    assert nodes.choose("read", now=0.0, in_use={}, database="none") == Refusal(
        "no node is known"
    )


def test_what_is_full_is_passed_over_and_said() -> None:
    nodes = well(a=1, b=1)

    found = [nodes.choose("read", now=0, in_use={"a": 3}, full=["a"]) for _ in "xyz"]

    assert found == [Node("b")] * 3
    assert nodes.choose("read", now=0, in_use={}, full=["a", "b"]) == Refusal(
        "all that suit are busy: a, b"
    )
    assert nodes.refusal("read", now=0) is None


def test_the_least_busy_one_is_chosen_by_weight() -> None:
    nodes = well(a=1, b=1, c=2)

    assert chosen(nodes, in_use={"a": 2, "b": 1, "c": 4}) == "b"
    assert chosen(nodes, in_use={"a": 2, "b": 2, "c": 3}) == "c"


def test_a_slow_node_gets_less_by_itself() -> None:
    """Of three, one takes ten times as long: it gets a tenth of what the others get."""
    nodes = well(a=1, b=1, c=1)
    busy: list[tuple[float, str]] = []
    served: Counter[str] = Counter()
    now = 0.0
    for _ in range(3000):
        if len(busy) == 12:
            busy.sort()
            now, name = busy.pop(0)
        name = chosen(nodes, in_use=Counter(name for _, name in busy))
        served[name] += 1
        busy.append((now + (10.0 if name == "c" else 1.0), name))

    assert served["a"] == pytest.approx(served["b"], rel=0.02)
    assert served["c"] == pytest.approx(served["a"] / 10, rel=0.1)


def test_weight_0_is_for_when_no_other_suits() -> None:
    nodes = well(a=0, b=1)

    assert {chosen(nodes) for _ in range(4)} == {"b"}
    assert chosen(nodes, "write") == "a"
    fail(nodes, "b", 1.0)
    assert chosen(nodes) == "a"


def test_a_node_on_probation_gets_a_tenth_at_first() -> None:
    nodes = well(a=1, b=1)
    fail(nodes, "b", 1.0)
    recover(nodes, "b", 2.0)

    found = Counter(chosen(nodes, now=2.0) for _ in range(110))

    assert found["b"] == pytest.approx(10, abs=1)


def test_one_that_returns_has_no_claim_to_what_it_missed() -> None:
    nodes = well(a=1, b=1)
    fail(nodes, "b", 1.0)
    for _ in range(1000):
        assert chosen(nodes) == "a"
    recover(nodes, "b", 2.0)

    found = Counter(chosen(nodes, now=100.0) for _ in range(20))

    assert found == {"a": 10, "b": 10}


@given(weights, st.integers(1, 200))
def test_turns_respect_the_weights_within_one(
    given_weights: dict[str, float], count: int
) -> None:
    nodes = well(**given_weights)

    found = Counter(chosen(nodes) for _ in range(count))

    total = sum(given_weights.values())
    for name, weight in given_weights.items():
        rest = len(given_weights) - 1  # each of the others may be one ahead
        assert abs(found[name] - count * weight / total) <= 1 + rest * weight / total


@given(weights, st.integers(1, 60))
def test_work_at_hand_respects_the_weights_within_one(
    given_weights: dict[str, float], count: int
) -> None:
    nodes = well(**given_weights)
    in_use: Counter[str] = Counter()

    for _ in range(count):
        in_use[chosen(nodes, in_use=in_use)] += 1

    total = sum(given_weights.values())
    for name, weight in given_weights.items():
        assert in_use[name] < count * weight / total + 1


class Nodes(RuleBasedStateMachine):
    """Whatever happens, nothing goes to a node known dead while another suits."""

    @initialize(count=st.integers(1, 4))
    def start(self, count: int) -> None:
        self.now = 0.0
        self.names = list("abcd"[:count])
        self.servers = 0
        self.asked: set[str] = set()
        self.nodes = make(**dict.fromkeys(self.names, 1.0))
        self.down = set(self.names)
        self.unasked = set(self.names)
        self.surveyed = False
        self.newest = 0

    def name(self, index: int) -> str:
        return self.names[index % len(self.names)]

    def heard(self, name: str) -> None:
        self.unasked.discard(name)
        self.surveyed = self.surveyed or not self.unasked

    @rule(seconds=st.floats(0, 20))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def ask(self) -> None:
        due = self.nodes.due(self.now)
        assert not self.asked & set(due)  # one probe at a time
        self.asked |= set(due)

    @rule(
        index=st.integers(0, 3),
        primary=st.booleans(),
        timeline=st.integers(1, 3),
        lsn=st.integers(0, 9),
    )
    def answer(self, index: int, timeline: int, lsn: int, *, primary: bool) -> None:
        name = self.name(index)
        if name in self.asked:
            self.asked.discard(name)
            role = Role.PRIMARY if primary else Role.STANDBY
            self.nodes.probed(name, Probe(role, lsn, timeline), self.now)
            self.newest = max(self.newest, timeline)
            self.heard(name)
            self.down.discard(name)

    @rule(index=st.integers(0, 3))
    def fail(self, index: int) -> None:
        name = self.name(index)
        if name in self.asked:
            self.asked.discard(name)
            self.nodes.failed(name, "gone", self.now)
            self.heard(name)
            self.down.add(name)

    @rule(
        names=st.lists(st.sampled_from("abcd"), min_size=1, unique=True),
        others=st.sets(st.sampled_from("abcd")),
    )
    def update(self, names: list[str], others: set[str]) -> None:
        """Some come, some go, some of those that stay are other servers now."""
        before = {node.name: node for node in self.nodes}
        known = {facts.name: facts for facts in self.nodes.facts(self.now)}
        self.servers += 1
        fresh = {name for name in names if name not in before or name in others}
        now = [
            Node(name, f"port={self.servers}") if name in fresh else before[name]
            for name in names
        ]

        change = self.nodes.update(now)

        assert set(change.come) == fresh
        assert set(change.gone) == {
            name for name in before if name not in names or name in others
        }
        assert list(self.nodes) == now
        self.names = names
        self.asked = (self.asked & set(names)) - fresh
        self.down = (self.down & set(names)) | fresh
        self.unasked = (self.unasked & set(names)) | fresh
        for facts in self.nodes.facts(self.now):
            if facts.name not in fresh:  # what speaks against it may be others' affair
                assert facts == known[facts.name]._replace(reason=facts.reason)

    @rule(index=st.integers(0, 3), write=st.booleans())
    def lose(self, index: int, write: bool) -> None:
        name = self.name(index)
        if write:
            self.nodes.refused_write(name, self.now)
        else:
            self.nodes.lost(name, "57P01", self.now)

    @rule(
        access=st.sampled_from(["read", "write"]),
        lag=st.none() | st.floats(0, 5),
        lsn=st.none() | st.integers(0, 9),
        busy=st.lists(st.integers(0, 9), min_size=4, max_size=4),
    )
    def choose(
        self, access: str, lag: float | None, lsn: int | None, busy: list[int]
    ) -> None:
        in_use = dict(zip(self.names, busy, strict=False))
        found = self.nodes.choose(
            access, now=self.now, in_use=in_use, max_lag=lag, min_lsn=lsn
        )
        if isinstance(found, Refusal):
            assert all(f"{name}: " in found.reason for name in self.names)
            assert not any(reason.endswith(": ") for reason in found.reason.split("; "))
            return
        assert found.name not in self.down
        state = self.nodes.state(found.name)
        if access == "write":
            assert self.nodes.primary() == found
            assert state.role is Role.PRIMARY
            assert state.timeline == self.newest
            assert self.surveyed or not self.unasked
        elif state.role is Role.STANDBY and (lag is not None or lsn is not None):
            assert state.timeline == self.newest
            assert not state.beyond
        if state.health.suspect:
            others = set(self.names) - {found.name}
            sound = [n for n in others if not self.nodes.state(n).health.suspect]
            assert access == "write" or isinstance(
                self.nodes.choose(
                    access,
                    now=self.now,
                    in_use={},
                    max_lag=lag,
                    min_lsn=lsn,
                    among=sound,
                ),
                Refusal,
            )

    @invariant()
    def holds(self) -> None:
        if hasattr(self, "nodes"):
            self.nodes.check_invariants()
            waits = self.nodes.wake_at()
            assert waits < inf or self.asked == set(self.names)
            assert waits <= self.now + 5.0 or self.asked == set(self.names)


Nodes.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestNodes = Nodes.TestCase


@given(st.lists(st.sampled_from("abc"), max_size=12))
def test_every_node_is_used_again_after_its_return(failing: list[str]) -> None:
    nodes = well(a=1, b=1, c=1)
    now = 1.0
    for name in failing:
        fail(nodes, name, now)
        now += 0.5
    for name in "abc":
        recover(nodes, name, now, probe=PRIMARY if name == "a" else STANDBY)

    later = now + 100
    assert Counter(chosen(nodes, now=later) for _ in range(30)) == dict.fromkeys(
        "abc", 10
    )


def test_nodes_come_and_go_and_the_rest_stays_as_known() -> None:
    nodes = well(a=1, b=1)

    change = nodes.update([Node("c"), Node("a", weight=3.0, tags=("x",))])

    assert change == Change(["c"], ["b"])
    assert list(nodes) == [Node("c"), Node("a", weight=3.0, tags=("x",))]
    assert chosen(nodes, "write") == "a"
    assert nodes.state("a").weight_at(0.5) == 3.0
    assert nodes.due(0.5) == ["c"]  # at once
    nodes.check_invariants()


@pytest.mark.parametrize("other", [Node("b", "host=new"), Node("b", database="x")])
def test_another_server_by_the_same_name_is_a_new_node(other: Node) -> None:
    nodes = well(a=1, b=1)

    change = nodes.update([Node("a"), other])

    assert change == Change(["b"], ["b"])
    assert not nodes.state("b").health.up
    assert nodes.is_up(Node("a"))
    assert not nodes.is_up(Node("a", "host=new"))
    assert not nodes.is_up(other)
    nodes.check_invariants()


def test_what_is_heard_of_a_node_that_has_gone_is_ignored() -> None:
    nodes = well(a=1, b=1)
    nodes.update([Node("a")])

    nodes.probed("b", PRIMARY._replace(timeline=9), 0.5)
    nodes.failed("b", "gone", 0.5)

    assert not nodes.lost("b", "57P01", 0.5)
    assert not nodes.refused_write("b", 0.5)
    assert not nodes.suits("b", "read")
    assert not nodes.is_up(Node("b"))
    assert chosen(nodes, "write") == "a"
    nodes.check_invariants()


def test_a_database_whose_nodes_return_remembers_its_timeline() -> None:
    nodes = well(a=1, b=1)
    nodes.probed("b", Probe(Role.PRIMARY, 110, timeline=2), 1.0)
    nodes.update([])

    nodes.update([Node("a")])
    nodes.probed("a", PRIMARY, 2.0)

    assert "left behind on timeline 1 of 2" in refused(nodes)


def test_who_comes_later_has_no_claim_to_what_was_before() -> None:
    nodes = well(a=1)
    for _ in range(1000):
        chosen(nodes)
    nodes.update([Node("a"), Node("b")])
    nodes.probed("b", STANDBY, 0.5)

    found = Counter(chosen(nodes) for _ in range(20))

    assert found == {"a": 10, "b": 10}


def answer_all(nodes: NodeSet, now: float, **probes: Probe) -> None:
    """Have all nodes that are due answer, or refuse."""
    for name in nodes.due(now):
        if name in probes:
            nodes.probed(name, probes[name], now)
        else:
            nodes.failed(name, "connection refused", now)
    nodes.check_invariants()


def test_a_database_that_lost_its_primary_is_probed_faster() -> None:
    """A standby's promotion is seen 0.2 s later, and not after a whole second."""
    nodes = well(a=1, b=1, c=1)
    answer_all(nodes, 1.0, b=STANDBY, c=STANDBY)  # a is down
    seen = []
    now = 1.0
    while now < 4.0:
        now = nodes.wake_at()
        answer_all(nodes, now, b=STANDBY, c=STANDBY)
        seen.append(now)

    steps = [round(later - now, 9) for now, later in pairwise([1.0, *seen])]
    assert max(steps) <= HURRY
    answer_all(nodes, now + HURRY, b=Probe(Role.PRIMARY, 110, timeline=2), c=STANDBY)
    assert chosen(nodes, "write", now=now) == "b"
    for _ in range(2):  # whatever was due before
        answer_all(nodes, nodes.wake_at(), b=STANDBY, c=STANDBY, a=STANDBY)


def test_a_refused_write_makes_all_its_nodes_probed_soon() -> None:
    nodes = well(a=1, b=1)

    nodes.refused_write("a", 0.4)

    assert nodes.due(0.4) == ["a"]
    assert nodes.wake_at() == 0.4 + HURRY


def test_nobody_hurries_where_there_was_no_primary_of_late() -> None:
    standbys = make(a=1, b=1)
    answer_all(standbys, 0.0, a=STANDBY, b=STANDBY)
    assert standbys.wake_at() == 1.0

    given_up = well(a=1, b=1)
    answer_all(given_up, 59.0, b=STANDBY)
    assert given_up.state("b").health.probe_at == 59.0 + HURRY
    answer_all(given_up, 60.0, b=STANDBY)
    assert given_up.state("b").health.probe_at == 61.0


def test_other_databases_do_not_hurry() -> None:
    nodes = NodeSet([Node("a"), Node("x", database="other")], random=lambda: 1.0)
    answer_all(nodes, 0.0, a=PRIMARY, x=PRIMARY)
    nodes.refused_write("a", 0.5)

    assert nodes.state("x").health.probe_at == 1.0


def test_facts_name_what_speaks_against_a_node() -> None:
    nodes = well(a=1, b=1)
    fail(nodes, "b", 1.0)

    facts = {item.name: item for item in nodes.facts(1.0)}

    assert (facts["a"].role, facts["a"].reason) == (Role.PRIMARY, "")
    assert (facts["b"].up, facts["b"].reason) == (False, "connection refused")
    assert [node.name for node in nodes] == ["a", "b"]


# Nodes that take no new connections


def close(nodes: NodeSet, name: str, now: float) -> None:
    nodes.due(now)
    nodes.failed(name, "too many connections", now, refused=True)
    nodes.check_invariants()


def test_a_node_that_takes_no_new_connections_is_what_it_was() -> None:
    nodes = well(a=1, b=1)
    close(nodes, "a", 1.0)

    assert chosen(nodes, "write") == "a"
    assert {chosen(nodes) for _ in range(4)} == {"b"}  # as long as there is another
    facts = nodes.facts(1.0)[0]
    assert (facts.up, facts.suspect, facts.role) == (True, True, Role.PRIMARY)
    assert facts.reason == "takes no new connections: too many connections"

    fail(nodes, "a", 2.0)

    assert not nodes.is_up(Node("a"))
    close(nodes, "a", 3.0)
    assert chosen(nodes, "write") == "a"


def test_a_standby_is_not_measured_by_a_primary_that_is_not_seen() -> None:
    nodes = well(a=1, b=1)
    cut_off = Probe(Role.STANDBY, lsn=100, timeline=1, age=9.0)
    nodes.due(1.0)
    nodes.probed("a", PRIMARY, 1.0)
    nodes.probed("b", cut_off, 1.0)
    assert nodes.state("b").lag == 0.0

    close(nodes, "a", 2.0)
    nodes.probed("b", cut_off, 2.0)

    assert nodes.state("b").lag == 9.0


def test_of_the_only_node_that_never_answered_a_refusal_tells_nothing() -> None:
    alone, two = make(a=1), make(a=1, b=1)
    close(alone, "a", 0.0)
    close(two, "a", 0.0)

    assert not alone.state("a").health.known
    assert refused(alone) == "a: takes no new connections: too many connections"
    assert two.state("a").health.known
    assert not two.is_up(Node("a"))


# Another database cluster behind the same address


def of(system: int, timeline: int, role: Role = Role.PRIMARY) -> Probe:
    return Probe(role, 100, timeline, streaming=True, system=system)


def answer(nodes: NodeSet, now: float, **probes: Probe) -> None:
    nodes.due(now)
    for name, probe in probes.items():
        nodes.probed(name, probe, now)
    nodes.check_invariants()


def test_a_new_cluster_begins_anew_where_the_old_one_is_gone() -> None:
    nodes = make(a=1, b=1)
    answer(nodes, 0.0, a=of(7, 2), b=of(7, 2, Role.STANDBY))
    fail(nodes, "b", 1.0)

    answer(nodes, 2.0, a=of(8, 1))

    assert chosen(nodes, "write", now=2.0) == "a"
    answer(nodes, 3.0, b=of(7, 2, Role.STANDBY))
    assert nodes.facts(3.0)[1].reason == "of another database cluster: 7, not 8"
    assert not nodes.suits("b", "read")
    answer(nodes, 4.0, b=of(8, 1, Role.STANDBY))
    assert nodes.suits("b", "read")


def test_the_only_node_may_have_an_older_timeline_with_other_data() -> None:
    nodes = make(a=1)
    answer(nodes, 0.0, a=of(7, 2))
    answer(nodes, 1.0, a=of(7, 1))
    assert "left behind on timeline 1 of 2" in refused(nodes)

    answer(nodes, 2.0, a=of(8, 1))

    assert chosen(nodes, "write") == "a"


def test_a_stranger_serves_nothing_while_one_of_the_old_cluster_is_up() -> None:
    nodes = make(a=1, b=1)
    answer(nodes, 0.0, a=of(7, 2), b=of(7, 2, Role.STANDBY))
    assert nodes.alarm("a") == ""

    answer(nodes, 1.0, a=of(8, 5))

    assert "a: of another database cluster: 8, not 7" in refused(nodes)
    assert {chosen(nodes) for _ in range(4)} == {"b"}
    assert nodes.alarm("a").startswith("node a is of another database cluster: 8")
    assert nodes.facts(1.0)[0].timeline == 0  # it outruns nobody
    answer(nodes, 2.0, b=of(7, 3))
    assert chosen(nodes, "write") == "b"

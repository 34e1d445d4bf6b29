from __future__ import annotations

from math import inf, nan
from typing import Any

import pytest

from falconas.broker.pool import MANIFESTS, TALLIES, UNLISTED_FOR, Pool, script_infos
from falconas.broker.quarantine import Suspect
from falconas.broker.records import Demand, LaneKey, ScriptInfo, Tally, Worker
from tests.unit.broker.desk import node, pending

A, B = LaneKey("a", "default", ""), LaneKey("b", "default", "")
READ = ScriptInfo("read")


def worker(name: bytes, lane: LaneKey = A, supervisor: bytes = b"s") -> Worker:
    return Worker(name, b"link " + name, supervisor, lane, {}, ready=True)


@pytest.fixture
def pool() -> Pool:
    pool = Pool()
    pool.learn("a", {"read": READ, "only_a": READ})
    pool.learn("b", {"read": READ, "only_b": ScriptInfo("only_b", error="bad")})
    return pool


def idle(pool: Pool, *names: bytes, lane: LaneKey = A) -> list[Worker]:
    workers = [worker(name, lane) for name in names]
    for now, one in enumerate(workers):
        pool.add(one)
        pool.set_idle(one, float(now))
    return workers


def busy(pool: Pool, one: Worker) -> None:
    pool.lanes[one.lane].idle.pop(one)


def test_the_least_recently_used_idle_worker_is_chosen(pool: Pool) -> None:
    first, second = idle(pool, b"1", b"2")
    key = pool.route("read")

    assert pool.choose(key) is first
    busy(pool, first)
    assert pool.choose(key) is second
    pool.set_idle(first, 5.0)
    assert pool.choose(key) is second
    busy(pool, first)
    busy(pool, second)
    assert pool.choose(key) is None


def test_a_worker_that_is_idle_already_keeps_its_place(pool: Pool) -> None:
    first, second = idle(pool, b"1", b"2")

    pool.set_idle(first, 9.0)

    assert pool.choose(pool.route("read")) is first
    assert second.ready


def test_the_order_holds_across_lanes(pool: Pool) -> None:
    old, young = worker(b"1", B), worker(b"2", A)
    for one, since in ((young, 2.0), (old, 1.0)):
        pool.add(one)
        pool.set_idle(one, since)

    assert pool.choose(pool.route("read")) is old
    assert pool.choose(pool.route("only_a")) is young
    busy(pool, old)
    assert pool.choose(pool.route("read")) is young


def test_a_script_that_does_not_load_is_routed_nowhere(pool: Pool) -> None:
    idle(pool, b"1", lane=B)

    assert pool.route("only_b") == frozenset()
    assert pool.route("only_a") == frozenset()
    assert pool.route("read") == {B}
    assert pool.route("read") is pool.route("read")


def test_routes_follow_lanes(pool: Pool) -> None:
    (one,) = idle(pool, b"1")
    assert pool.route("read") == {A}
    other = worker(b"2", B)
    assert pool.add(other)
    assert not pool.add(worker(b"3", B))
    assert pool.route("read") == {A, B}

    assert pool.remove(one)

    assert pool.route("read") == {B}
    assert not pool.remove(other)


def test_a_lane_may_be_there_before_its_manifest() -> None:
    pool = Pool()
    idle(pool, b"1")
    assert pool.route("read") == frozenset()

    assert pool.learn("a", {"read": READ})

    assert pool.route("read") == {A}
    assert not pool.learn("a", {})
    assert pool.route("read") == {A}


def test_who_is_not_ready_or_has_work_is_not_idle(pool: Pool) -> None:
    one, other = idle(pool, b"1", b"2")
    pool.set_ready(one, False)
    pool.set_idle(one, 3.0)
    busy(pool, other)
    other.hands[b"1"] = pending()
    pool.set_idle(other, 3.0)

    assert pool.choose(pool.route("read")) is None
    assert pool.is_served(pool.route("read"))
    pool.set_ready(other, False)
    assert not pool.is_served(pool.route("read"))
    pool.set_ready(other, True)
    assert pool.is_served(pool.route("read"))


def test_workers_are_found_by_connection_uuid_and_supervisor(pool: Pool) -> None:
    one, other = worker(b"1"), worker(b"2", supervisor=b"t")
    pool.add(one)
    pool.add(other)

    pool.rebind(one, b"new link")

    assert pool.by_identity == {b"new link": one, b"link 2": other}
    assert pool.of_supervisor(b"t") == [other]


def test_a_worker_is_missing_when_it_was_left_out_twice_in_a_row(pool: Pool) -> None:
    one, other = idle(pool, b"1", b"2")
    theirs, both = one.supervisor, [one.uuid, other.uuid]

    lists = [both, [other.uuid], both, [other.uuid], [], [one.uuid]]

    missing = [pool.missing(theirs, alive, now) for now, alive in enumerate(lists)]
    assert missing == [[], [], [], [], [one], [other]]
    assert pool.missing(b"nobody".ljust(16, b"."), [], 9.0) == []


def test_two_lists_of_one_moment_are_as_one(pool: Pool) -> None:
    (one,) = idle(pool, b"1")

    assert pool.missing(one.supervisor, [], 10.0) == []
    assert pool.missing(one.supervisor, [], 10.4) == []
    assert pool.missing(one.supervisor, [], 10.0 + UNLISTED_FOR) == [one]


def test_the_dead_are_not_missed(pool: Pool) -> None:
    (one,) = idle(pool, b"1")
    one.dead = True

    assert [pool.missing(one.supervisor, [], now) for now in (1.0, 2.0)] == [[], []]


def test_a_script_that_crashes_too_often_is_routed_to_its_other_version(
    pool: Pool,
) -> None:
    (one,) = idle(pool, b"1")
    (other,) = idle(pool, b"2", lane=B)
    assert pool.route("read") == {one.lane, other.lane}
    for now in (1.0, 2.0):
        assert not pool.crashed(Suspect("a", "read"), now)

    assert pool.crashed(Suspect("a", "read"), 3.0)

    assert pool.choose(pool.route("read")) is other
    assert not pool.is_quarantined("read")
    pool.remove(other)
    assert not pool.is_quarantined("read")  # for b, the newer one, may come back
    pool.learn("a", {})
    assert pool.is_quarantined("read")
    assert not pool.is_quarantined("only_b")  # it does not load
    assert pool.choose(pool.route("only_a")) is one

    assert not pool.pardon({"b"})
    assert pool.pardon({"a", "b"})

    assert not pool.is_quarantined("read")
    assert pool.choose(pool.route("read")) is one


def test_a_sound_new_version_of_a_script_counts(pool: Pool) -> None:
    newer = ScriptInfo("read", idempotent=True)
    pool.learn("c", {"read": newer, "bad": ScriptInfo("bad", error="old")})
    pool.learn("d", {"read": ScriptInfo("read", error="?"), "bad": READ})
    pool.learn("e", {"bad": ScriptInfo("bad", error="new")})
    pool.learn("f", {"worse": ScriptInfo("worse", error="older")})
    pool.learn("g", {"worse": ScriptInfo("worse", error="newer")})

    assert pool.info("read") is newer
    assert pool.info("bad") is READ
    assert pool.info("worse") == ScriptInfo("worse", error="newer")
    assert pool.info("nothing") is None


def test_old_manifests_are_forgotten_unless_in_use(pool: Pool) -> None:
    idle(pool, b"1", lane=A)
    for number in range(2 * MANIFESTS):
        pool.learn(f"m{number}", {"new": ScriptInfo("new", budget=float(number))})

    assert len(pool.manifests) == MANIFESTS
    assert "a" in pool.manifests
    assert "b" not in pool.manifests
    assert pool.longest_budget == 2.0 * MANIFESTS - 1


@pytest.mark.parametrize(
    "manifest",
    [None, [], {}, {"scripts": []}, {"scripts": {1: {}}}, {"scripts": {"a": 1}}],
)
def test_what_is_no_manifest_is_refused(manifest: Any) -> None:
    with pytest.raises(ValueError, match="scripts"):
        script_infos(manifest)


@pytest.mark.parametrize(
    ("budget", "seconds"),
    [
        (2, 2.0),
        (0.5, 0.5),
        *[(wrong, None) for wrong in (None, "2", True, 0, -1.0, nan, inf)],
    ],
)
def test_a_manifests_budget_is_a_positive_number(
    budget: Any, seconds: float | None
) -> None:
    infos = script_infos({"scripts": {"a": {"budget": budget, "idempotent": 1}}})

    assert infos["a"] == ScriptInfo("a", idempotent=False, budget=seconds)


def test_a_manifest_says_what_does_not_load() -> None:
    entry = {"idempotent": True, "error": "SyntaxError"}

    infos = script_infos({"scripts": {"a": entry}})

    assert infos["a"] == ScriptInfo("a", idempotent=True, error="SyntaxError")


@pytest.mark.parametrize(
    ("entry", "info"),
    [
        ({"access": "read"}, ScriptInfo("a", access="read")),
        ({"access": "write", "group": None}, ScriptInfo("a")),
        ({"access": 1, "group": 1, "max_lag": "1"}, ScriptInfo("a")),
        ({"max_lag": 0}, ScriptInfo("a", max_lag=0.0)),
        ({"max_lag": -1.0}, ScriptInfo("a")),
        ({"group": "g", "max_lag": 2}, ScriptInfo("a", group="g", max_lag=2.0)),
    ],
)
def test_a_manifest_says_where_a_script_may_run(
    entry: dict[str, Any], info: ScriptInfo
) -> None:
    assert script_infos({"scripts": {"a": entry}})["a"] == info


def test_a_script_runs_in_its_group_or_in_any(pool: Pool) -> None:
    bound = ScriptInfo("bound", group="reports")
    pool.learn("c", {"bound": bound, "free": ScriptInfo("free")})
    one, other = LaneKey("c", "reports", "n1"), LaneKey("c", "default", "n1")
    idle(pool, b"1", lane=one)
    idle(pool, b"2", lane=other)

    assert pool.route("bound") == {one}
    assert pool.route("free") == {one, other}


def test_routes_follow_what_is_known_of_nodes(pool: Pool) -> None:
    fresh = ScriptInfo("fresh", access="read", max_lag=1.0)
    pool.learn("c", {"write": ScriptInfo("write"), "fresh": fresh})
    n1, n2 = LaneKey("c", "default", "n1"), LaneKey("c", "default", "n2")
    idle(pool, b"1", lane=n1)
    idle(pool, b"2", lane=n2)
    assert pool.route("write") == {n1, n2}
    assert pool.route("fresh") == frozenset()

    pool.nodes.hear(b"s", [node("n1", "primary"), node("n2", lag=1.5)])
    assert pool.regrade()

    assert pool.route("write") == pool.route("fresh") == {n1}
    pool.nodes.hear(b"s", [node("n1", "primary"), node("n2", lag=1.4)])
    assert not pool.regrade()
    pool.nodes.hear(b"s", [node("n1", "primary"), node("n2", lag=1.0)])
    assert pool.regrade()
    assert pool.route("fresh") == {n1, n2}


def test_a_lag_that_a_new_script_minds_counts_from_then_on(pool: Pool) -> None:
    pool.nodes.hear(b"s", [node("n1", lag=1.5)])
    pool.regrade()

    pool.learn("c", {"fresh": ScriptInfo("fresh", access="read", max_lag=1.0)})

    assert not pool.regrade()
    pool.nodes.hear(b"s", [node("n1", lag=0.5)])
    assert pool.regrade()


def test_a_demand_narrows_the_route(pool: Pool) -> None:
    n1, n2 = LaneKey("a", "default", "n1"), LaneKey("a", "default", "n2")
    pool.learn("a", {})
    idle(pool, b"1", lane=n1)
    idle(pool, b"2", lane=n2)
    pool.manifests["a"]["read"] = ScriptInfo("read", access="read")
    pool.nodes.hear(b"s", [node("n1", "primary"), node("n2", lsn=10)])
    pool.regrade()
    request = pending(extras={"min_lsn": {"main": 11}})
    assert pool.key_of(request) == {n1, n2}

    request.demand = Demand.REPLAYED
    assert pool.key_of(request) == {n1}
    request.extras["min_lsn"]["main"] = 10
    assert pool.key_of(request) == {n1, n2}
    request.demand = Demand.PRIMARY
    assert pool.key_of(request) == {n1}
    assert pool.objections(request) == (
        "n1: no worker is ready there; n2: not the primary"
    )


def test_of_nodes_count_those_of_the_databases_where_workers_are(pool: Pool) -> None:
    idle(pool, b"1", lane=A._replace(node="n1"))
    shard = node("s1", database="shard")
    pool.nodes.hear(b"s", [node("n1"), node("n2"), shard])
    pool.regrade()

    request = pending(script="only_a")

    assert pool.objections(request) == "n1: a standby; n2: a standby"


def test_why_nobody_is_ready_on_a_node_and_whose_nodes_these_are(pool: Pool) -> None:
    reports = LaneKey("r", "reports", "n2")
    pool.learn("r", {"sum": ScriptInfo("sum", access="read", group="reports")})
    one, other = idle(pool, b"1", b"2", lane=reports)
    for unready in (one, other):
        pool.set_ready(unready, False)
    pool.nodes.hear(b"s", [node("n1", "primary"), node("n2")])
    pool.regrade()
    request = pending(script="sum")
    absent = "n1: it has no worker of group reports; "
    assert pool.objections(request) == f"{absent}n2: no worker is ready there"

    other.facts = {"reason": 'no database connection: role "nope" does not exist'}

    assert pool.objections(request) == (
        f"{absent}n2: no worker is ready there: no database connection:"
        ' role "nope" does not exist'
    )


def test_nothing_speaks_against_nodes_of_which_nothing_is_known(pool: Pool) -> None:
    idle(pool, b"1")
    assert pool.objections(pending()) == ""
    pool.nodes.hear(b"s", [node("n1")])
    assert pool.objections(pending(script="nothing")) == ""


def test_a_node_keeps_the_figures_of_workers_that_are_gone(pool: Pool) -> None:
    for number in range(TALLIES + 2):
        lane = A._replace(node=f"n{number % (TALLIES + 1)}")
        (one,) = idle(pool, b"%d" % number, lane=lane)
        one.served, one.errors = 3, 1
        pool.remove(one)

    assert len(pool.tallies) == TALLIES
    assert pool.tallies["n0"] == Tally(3, 1)  # forgotten, and seen again
    (one,) = idle(pool, b"1", lane=A._replace(node="n0"))
    one.served = 1
    pool.remove(one)
    assert pool.tallies["n0"] == Tally(4, 1)

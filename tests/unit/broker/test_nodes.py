from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from falconas.broker.nodes import (
    DOUBT,
    NOWHERE,
    REASON_LIMIT,
    REPORTED,
    Facts,
    Nodes,
    is_min_lsn,
    objection,
    shortcoming,
)
from falconas.broker.records import Demand, ScriptInfo
from tests.unit.broker.desk import node
from tests.unit.broker.views import View, Views

WRITE, READ = ScriptInfo("write"), ScriptInfo("read", access="read")
FRESH = ScriptInfo("fresh", access="read", max_lag=2.0)
ASTRAY = Facts("main", "standby", lsn=99, reason="it follows n1", astray=True)
ONE, OTHER = b"S" * 16, b"T" * 16


def known(*entries: list[Any]) -> Nodes:
    nodes = Nodes()
    nodes.hear(ONE, [*entries])
    return nodes


# What suits


@pytest.mark.parametrize(
    ("facts", "write", "read", "fresh"),
    [
        (None, "", "", "its lag is not known"),
        (Facts("main", "primary"), "", "", ""),
        (Facts("main", "standby", lag=2.0), "a standby", "", ""),
        (
            Facts("main", "standby", lag=2.5),
            "a standby",
            "",
            "2.5 s behind, 2 s are allowed",
        ),
        (Facts("main", "standby"), "a standby", "", "its lag is not known"),
        (ASTRAY, "a standby", "", "it follows n1"),
        (Facts("main"), "its role is not known", "", "its lag is not known"),
        (Facts("main", reason="why"), "why", "", "its lag is not known"),
        (Facts("main", "primary", up=False), "down", "down", "down"),
        (
            Facts("main", "standby", up=False, reason="refused"),
            "down: refused",
            "down: refused",
            "down: refused",
        ),
    ],
)
def test_what_speaks_against_a_node(
    facts: Facts | None, write: str, read: str, fresh: str
) -> None:
    assert [objection(facts, i) for i in (WRITE, READ, FRESH)] == [write, read, fresh]


@pytest.mark.parametrize(
    ("facts", "comparable", "replayed", "primary"),
    [
        (None, True, False, False),
        (Facts("main", "primary", lsn=0), True, True, True),
        (Facts("main", "standby", lsn=20), True, True, False),
        (Facts("main", "standby", lsn=19), True, False, False),
        (Facts("main", "standby", lsn=NOWHERE), True, False, False),
        (Facts("shard", "standby", lsn=0), True, True, False),
        (Facts("shard", "standby", lsn=NOWHERE), True, False, False),
        (ASTRAY, False, False, False),
        (ASTRAY._replace(database="shard"), True, True, False),
    ],
)
def test_what_is_demanded_has_to_be_known(
    facts: Facts | None, comparable: bool, replayed: bool, primary: bool
) -> None:
    met = [not shortcoming(facts, demand, {"main": 20}) for demand in Demand]

    assert met == [True, comparable, replayed, primary]


def test_a_demand_without_a_position_asks_for_any_known_one() -> None:
    assert not shortcoming(Facts("main", "standby", lsn=0), Demand.REPLAYED, None)


@pytest.mark.parametrize("value", [{}, {"main": 0}, {"a": 1, "b": 2**64 - 1}])
def test_positions_by_database(value: Any) -> None:
    assert is_min_lsn(value)


@pytest.mark.parametrize(
    "value", [None, [], 1, "0/0", {"a": -1}, {"a": True}, {"a": 1.0}, {1: 1}]
)
def test_what_is_no_position(value: Any) -> None:
    assert not is_min_lsn(value)


# Reports


def test_nothing_is_known_until_somebody_reports() -> None:
    nodes = Nodes()
    assert nodes.facts == {}

    assert nodes.hear(ONE, [node("n1", "primary", lsn=7, timeline=3, reason="r")])

    assert nodes.facts == {"n1": Facts("main", "primary", True, 0.0, 7, 3, "r")}


def test_the_same_again_is_no_news() -> None:
    nodes = known(node("n1"), node("n2"))

    assert not nodes.hear(ONE, [node("n1"), node("n2")])
    assert nodes.hear(ONE, [node("n1"), node("n2", lsn=11)])


def test_a_node_that_is_no_longer_listed_is_forgotten() -> None:
    nodes = known(node("n1"), node("n2"))

    assert nodes.hear(ONE, [node("n2")])

    assert [*nodes.facts] == ["n2"]
    assert nodes.hear(ONE, [])
    assert nodes.facts == {}


def test_a_node_is_down_when_all_say_so() -> None:
    nodes = known(node("n1", up=False, reason="cable"))
    nodes.hear(OTHER, [node("n1")])

    assert nodes.facts["n1"].up
    assert not nodes.hear(ONE, [node("n1", up=False, reason="cable")])
    assert nodes.facts["n1"].up
    assert nodes.hear(OTHER, [node("n1", up=False, reason="dead")])
    assert nodes.facts["n1"].reason == "dead"


def test_of_those_who_say_up_the_newest_counts() -> None:
    nodes = known(node("n1", lag=1.0))
    nodes.hear(OTHER, [node("n1", lag=2.0)])
    assert nodes.facts["n1"].lag == 2.0

    nodes.hear(ONE, [node("n1", lag=3.0)])

    assert nodes.facts["n1"].lag == 3.0


def test_who_is_gone_has_said_nothing() -> None:
    nodes = known(node("n1", "primary"))
    nodes.hear(OTHER, [node("n1", up=False)])

    assert nodes.forget(ONE)
    assert not nodes.facts["n1"].up
    assert nodes.forget(OTHER)
    assert nodes.facts == {}
    assert not nodes.forget(OTHER)


@pytest.mark.parametrize("said", [None, 1, "n1", {"n1": 1}])
def test_what_is_no_report_changes_nothing(said: Any) -> None:
    nodes = known(node("n1"))

    assert not nodes.hear(ONE, said)

    assert "n1" in nodes.facts


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        [],
        ["n1", "main", "primary", True, None, 1, 1],
        [1, "main", "primary", True, None, 1, 1, ""],
        ["", "main", "primary", True, None, 1, 1, ""],
        ["n" * 300, "main", "primary", True, None, 1, 1, ""],
        ["n1", None, "primary", True, None, 1, 1, ""],
        ["n1", "main", "primary", 1, None, 1, 1, ""],
    ],
)
def test_an_entry_that_cannot_be_read_is_left_out(wrong: Any) -> None:
    assert [*known(wrong, node("n2")).facts] == ["n2"]


def test_of_an_entry_counts_what_can_be_read() -> None:
    nodes = known(["n1", "main", ["x"], True, "0", "1", None, 5, "more to come"])

    assert nodes.facts["n1"] == Facts("main")


@pytest.mark.parametrize("lag", [float("nan"), float("inf"), -1.0, True])
def test_a_lag_that_is_no_duration_is_unknown(lag: Any) -> None:
    assert known(node("n1", lag=lag)).facts["n1"].lag is None


def test_a_report_is_bounded() -> None:
    entries = [node(f"n{number}", reason="x" * 999) for number in range(999)]

    nodes = known(*entries)

    assert len(nodes.facts) == REPORTED
    assert len(nodes.facts["n1"].reason) == REASON_LIMIT


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_no_report_does_harm(said: Any) -> None:
    nodes = known(node("n1", "primary"))

    nodes.hear(ONE, said)
    nodes.hear(
        ONE, [said, [said] * 8, ["n1", "main", said, True, said, said, said, said]]
    )

    assert nodes.facts["n1"].up
    assert "n1" in nodes.grades([1.0])


# Primaries


def test_a_primary_on_an_older_timeline_serves_nothing() -> None:
    nodes = known(node("n1", "primary", timeline=1), node("n2", "primary", timeline=2))

    assert objection(nodes.facts["n1"], READ) == (
        "down: a primary left behind on timeline 1 of 2"
    )
    assert not objection(nodes.facts["n2"], WRITE)


def test_it_stays_left_behind_while_the_newer_one_is_down() -> None:
    nodes = known(
        node("n1", "primary", timeline=1), node("n2", "primary", up=False, timeline=2)
    )

    assert objection(nodes.facts["n1"], WRITE)


def test_of_two_on_one_timeline_neither_gets_writes() -> None:
    nodes = known(node("n1", "primary", timeline=2), node("n2", "primary", timeline=2))

    assert objection(nodes.facts["n1"], WRITE) == (
        "a primary on the same timeline as n2"
    )
    assert objection(nodes.facts["n2"], WRITE)
    assert not objection(nodes.facts["n1"], READ)


def test_one_of_them_that_is_down_is_no_rival() -> None:
    nodes = known(
        node("n1", "primary", timeline=2), node("n2", "primary", up=False, timeline=2)
    )

    assert not objection(nodes.facts["n1"], WRITE)
    assert nodes.facts["n2"].reason == ""


def test_each_database_has_a_primary() -> None:
    nodes = known(
        node("n1", "primary", timeline=1),
        node("s1", "primary", timeline=9, database="shard"),
    )

    assert not objection(nodes.facts["n1"], WRITE)
    assert not objection(nodes.facts["s1"], WRITE)


# Standbys that follow nobody, or somebody else


def test_a_standby_on_an_older_timeline_is_astray() -> None:
    nodes = known(
        node("n2", "primary", lsn=100, timeline=2),
        node("n3", lsn=900, timeline=1),
        node("n4", timeline=2),
        node("n5", timeline=0),
        node("s1", timeline=1, database="shard"),
    )

    facts = nodes.facts["n3"]
    assert (facts.up, facts.lag, facts.lsn, facts.timeline) == (True, None, 900, 1)
    assert not objection(facts, READ)
    assert objection(facts, FRESH) == "it follows timeline 1 of 2"
    assert shortcoming(facts, Demand.COMPARABLE, {"main": 50})
    assert [name for name, facts in nodes.facts.items() if facts.astray] == ["n3", "n5"]
    assert nodes.facts["n5"].reason == "it follows timeline unknown of 2"


def test_what_its_supervisor_says_of_it_goes_before() -> None:
    nodes = known(
        node("n2", "primary", timeline=2), node("n3", timeline=1, reason="follows n1")
    )

    assert objection(nodes.facts["n3"], FRESH) == "follows n1"


def test_a_standby_that_caught_up_is_astray_no_more() -> None:
    nodes = known(node("n2", "primary", timeline=2), node("n3", lag=1.0, timeline=1))
    before = nodes.grades([])

    nodes.hear(
        ONE, [node("n2", "primary", timeline=2), node("n3", lag=1.0, timeline=2)]
    )

    assert not nodes.facts["n3"].astray
    assert nodes.facts["n3"].lag == 1.0
    assert nodes.grades([]) != before


def test_a_primary_that_a_standby_has_outrun_was_left_behind() -> None:
    nodes = known(node("n1", "primary", timeline=1), node("n3", timeline=2))

    assert "left behind on timeline 1 of 2" in objection(nodes.facts["n1"], WRITE)


# Doubts


def test_a_doubted_node_is_no_primary_and_nowhere() -> None:
    nodes = known(node("n1", "primary", lsn=99))

    nodes.doubt("n1", "it refused", 10.0)

    facts = nodes.facts["n1"]
    assert facts == Facts("main", "unknown", True, None, NOWHERE, 0, "it refused")
    assert objection(facts, WRITE) == "it refused"
    assert not objection(facts, READ)
    assert shortcoming(facts, Demand.REPLAYED, {"main": 0})


def test_a_newer_report_resolves_a_doubt() -> None:
    nodes = known(node("n1", "primary"), node("n2"))
    nodes.doubt("n1", "it refused", 10.0)

    assert not nodes.hear(OTHER, [node("n3")][:0])
    assert nodes.hear(ONE, [node("n2")])
    assert nodes.facts["n1"].role == "unknown"
    assert nodes.hear(OTHER, [node("n1", "primary")])

    assert nodes.facts["n1"].role == "primary"


def test_the_same_report_as_before_resolves_it_too() -> None:
    nodes = known(node("n1", "primary"))
    nodes.doubt("n1", "it refused", 10.0)

    assert nodes.hear(ONE, [node("n1", "primary")])

    assert nodes.facts["n1"].role == "primary"


def test_a_doubt_of_a_node_that_nobody_reports_ends() -> None:
    nodes = Nodes()
    nodes.doubt("bare", "it refused", 10.0)
    assert objection(nodes.facts["bare"], WRITE) == "it refused"

    assert not nodes.sweep(10.0 + DOUBT - 0.1)
    assert nodes.sweep(10.0 + DOUBT)

    assert nodes.facts == {}


# Grades


@pytest.mark.parametrize(
    ("before", "after", "differs"),
    [
        (node("n1"), node("n1", lsn=99), False),
        (node("n1", lag=0.0), node("n1", lag=1.0), False),
        (node("n1", lag=1.0), node("n1", lag=1.1), True),
        (node("n1", lag=2.0), node("n1", lag=5.0), True),
        (node("n1", lag=5.0), node("n1", lag=6.0), False),
        (node("n1", lag=0.5), node("n1", lag=None), True),
        (node("n1"), node("n1", up=False), True),
        (node("n1"), node("n1", "primary"), True),
        (node("n1"), node("n1", "unknown"), False),
    ],
)
def test_a_grade_changes_where_a_route_may(
    before: list[Any], after: list[Any], differs: bool
) -> None:
    max_lags = [1.0, 3.0]

    grades = [known(said).grades(max_lags) for said in (before, after)]

    assert (grades[0] != grades[1]) == differs


FACTS = st.builds(
    Facts,
    st.sampled_from(["main", "shard"]),
    st.sampled_from(["primary", "standby", "unknown"]),
    st.booleans(),
    st.none() | st.sampled_from([0.0, 0.5, 1.0, 1.5, 2.0, 9.0]),
    st.integers(-1, 3),
)


@given(FACTS, FACTS, st.sets(st.sampled_from([0.5, 1.0, 2.0])))
def test_one_grade_is_one_answer_to_each_script(
    one: Facts, other: Facts, max_lags: set[float]
) -> None:
    nodes = Nodes()
    nodes.facts = {"one": one, "other": other}
    grades = nodes.grades(sorted(max_lags))
    scripts = [WRITE, READ]
    scripts += [ScriptInfo("r", access="read", max_lag=lag) for lag in max_lags]

    answers = [[not objection(facts, s) for s in scripts] for facts in (one, other)]

    assert answers[0] == answers[1] or grades["one"] != grades["other"]


VIEW = st.builds(
    View,
    st.sampled_from(["primary", "standby"]),
    st.booleans(),
    st.none() | st.sampled_from([0.0, 1.0]),
    st.integers(0, 3),
    st.integers(0, 2),
)
SAID = st.dictionaries(st.sampled_from(["n1", "n2", "n3"]), VIEW)


@given(st.lists(st.tuples(st.sampled_from([b"1", b"2", b"3"]), SAID | st.none())))
def test_what_is_believed_follows_the_reports(
    said: list[tuple[bytes, dict[str, View] | None]],
) -> None:
    """Compare with a model that looks through all reports for each question."""
    nodes, views, present = Nodes(), Views(), set[bytes]()
    for supervisor, report in said:
        before = nodes.facts
        if report is None:
            present.discard(supervisor)
            views.forget(present)
            news = nodes.forget(supervisor)
        else:
            present.add(supervisor)
            entries = [view.entry(name) for name, view in report.items()]
            views.hear(supervisor, entries)
            news = nodes.hear(supervisor, entries)

        held = views.believed(present)
        assert {n: f.up for n, f in nodes.facts.items()} == {
            n: v.up for n, v in held.items()
        }
        for name, view in held.items():
            facts = nodes.facts[name]
            assert (facts.lag, facts.lsn) == (view.lag, view.lsn)
            rivals = "same timeline" in facts.reason
            assert rivals or facts.role == view.role
        assert news or before == nodes.facts

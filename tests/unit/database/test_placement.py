from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from falconas.database.health import PROBATION
from falconas.database.nodes import Node, NodeSet
from falconas.database.placement import Group, Placement, apportion, place
from tests.unit.database.world import PRIMARY, STANDBY, fail, recover, well

weights = st.dictionaries(
    st.sampled_from("abcdef"), st.integers(1, 20).map(float), min_size=1
)


def spread(placement: Placement) -> dict[str, int]:
    return dict(Counter(placement.nodes))


@given(
    weights,
    st.integers(0, 64),
    st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 9)),
)
def test_parts_are_within_one_of_the_exact_share(
    given_weights: dict[str, float], count: int, stay: dict[str, int]
) -> None:
    parts = apportion(count, given_weights, stay)

    assert sum(parts.values()) == count
    for name, weight in given_weights.items():
        exact = count * weight / sum(given_weights.values())
        assert abs(parts[name] - exact) < 1


def test_workers_are_spread_by_weight() -> None:
    found = place(Group("all", 8), [], well(a=1, b=1, c=2), 0.0)

    assert spread(found) == {"a": 2, "b": 2, "c": 4}
    assert (found.moved, found.notes) == (list(range(8)), [])


def test_the_picture() -> None:
    """Script1 on two processes at node 1, Script2 on two at node 2."""
    nodes = well(n1=1, n2=1)

    first = place(Group("Script1", 2, nodes=("n1",)), [], nodes, 0.0)
    second = place(Group("Script2", 2, nodes=("n2",)), [], nodes, 0.0)

    assert (first.nodes, second.nodes) == (["n1", "n1"], ["n2", "n2"])


def test_nobody_moves_who_is_where_somebody_has_to_be() -> None:
    nodes = well(a=1, b=1)

    found = place(Group("all", 4), ["b", "b", "b", None], nodes, 0.0)

    assert found.nodes == ["b", "b", "a", "a"]
    assert found.moved == [2, 3]


def test_of_two_equal_divisions_the_present_one_stays() -> None:
    nodes = well(a=1, b=1)

    for here in (["a", "b", "b"], ["a", "a", "b"]):
        assert place(Group("all", 3), here, nodes, 0.0).moved == []


def test_the_primary_has_its_share_where_scripts_write() -> None:
    nodes = well(a=1, b=3, c=3)

    found = place(Group("all", 8, writes=0.5), [], nodes, 0.0)

    assert spread(found) == {"a": 4, "b": 2, "c": 2}


def test_a_group_that_only_writes_is_at_the_primary_and_that_is_said() -> None:
    nodes = well(a=1, b=1)

    found = place(Group("w", 4, writes=1.0), [], nodes, 0.0)

    assert spread(found) == {"a": 4}
    assert found.notes == ["group w only writes: its standbys have no work for workers"]


def test_what_cannot_write_is_said() -> None:
    nodes = well(a=1, b=1)
    elsewhere = place(Group("w", 2, nodes=("b",), writes=0.5), [], nodes, 0.0)
    fail(nodes, "a", 1.0)
    nowhere = place(Group("w", 2, writes=0.5), [], nodes, 1.0)

    assert elsewhere.notes == ["group w writes, and the primary a is not of its nodes"]
    assert nowhere.notes == ["group w writes, and there is no primary"]


def test_a_group_that_only_writes_waits_where_it_is_for_a_primary() -> None:
    nodes = well(a=1, b=1, c=1)
    here = place(Group("w", 3, writes=1.0), [], nodes, 0.0).nodes
    fail(nodes, "a", 1.0)

    lost = place(Group("w", 3, writes=1.0), here, nodes, 1.0)
    again = place(Group("w", 3, writes=1.0), lost.nodes, nodes, 1.0)

    assert "a" not in lost.nodes
    assert again.moved == []


def test_workers_leave_a_dead_node_at_once_and_return_after_the_probation() -> None:
    nodes = well(a=1, b=1)
    group = Group("all", 4)
    here = place(group, [], nodes, 0.0).nodes
    fail(nodes, "b", 10.0)

    away = place(group, here, nodes, 10.0)
    recover(nodes, "b", 11.0)
    waiting = place(group, away.nodes, nodes, 11.0)
    back = place(group, waiting.nodes, nodes, 11.0 + PROBATION)

    assert spread(away) == {"a": 4}
    assert len(away.moved) == 2
    assert waiting.moved == []
    assert (spread(back), len(back.moved)) == ({"a": 2, "b": 2}, 2)


def test_one_on_probation_is_used_where_no_other_is_up() -> None:
    nodes = well(a=1, b=1)
    group = Group("all", 2)
    fail(nodes, "b", 1.0)
    recover(nodes, "b", 2.0)
    fail(nodes, "a", 3.0)

    assert spread(place(group, ["a", "a"], nodes, 3.0)) == {"b": 2}


@pytest.mark.parametrize(("writes", "there"), [(0.0, 0), (0.5, 2), (1.0, 4)])
def test_a_primary_on_probation_has_what_the_writes_need(
    writes: float, there: int
) -> None:
    nodes = well(a=1, b=1)
    fail(nodes, "b", 1.0)
    fail(nodes, "a", 2.0)
    recover(nodes, "a", 100.0, probation=50.0)
    recover(nodes, "b", 100.0, probe=PRIMARY._replace(timeline=2))

    found = place(Group("all", 4, writes=writes), ["a"] * 4, nodes, 101.0)

    assert spread(found).get("b", 0) == there


def test_a_node_that_comes_and_goes_moves_nobody_while_it_does() -> None:
    nodes = well(a=1, b=1)
    group = Group("all", 4)
    here, moves, now = place(group, [], nodes, 0.0).nodes, 0, 10.0
    for _ in range(20):
        fail(nodes, "b", now)
        found = place(group, here, nodes, now)
        here, moves, now = found.nodes, moves + len(found.moved), now + 1
        recover(nodes, "b", now)
        found = place(group, here, nodes, now)
        here, moves, now = found.nodes, moves + len(found.moved), now + 3

    assert moves == 2  # away from it, once


def test_when_all_are_down_everybody_stays() -> None:
    nodes = well(a=1, b=1)
    fail(nodes, "a", 1.0)
    fail(nodes, "b", 1.0)

    found = place(Group("all", 3), ["a", "a", None], nodes, 1.0)

    assert found.nodes[:2] == ["a", "a"]
    assert found.moved == [2]


def test_promotion_moves_only_what_the_writes_need() -> None:
    nodes = well(a=1, b=1, c=1)
    group = Group("all", 6, writes=0.5)
    here = place(group, [], nodes, 0.0).nodes
    assert spread(place(group, here, nodes, 0.0)) == {"a": 3, "b": 2, "c": 1}
    fail(nodes, "a", 1.0)
    nodes.probed("b", PRIMARY._replace(timeline=2), 1.0)

    found = place(group, here, nodes, 1.0)

    assert spread(found) == {"b": 3, "c": 3}
    assert len(found.moved) == 3


@pytest.mark.parametrize("group", [Group("all", 2, nodes=("x",)), Group("all", 2, "x")])
def test_a_group_without_a_node_is_placed_nowhere(group: Group) -> None:
    found = place(group, ["a", None], well(a=1), 0.0)

    assert found == Placement([], [], ["group all has no node"])


def test_workers_of_a_node_that_has_gone_move() -> None:
    nodes = well(a=1, b=1)
    nodes.update([Node("b")])

    found = place(Group("all", 2), ["a", "b"], nodes, 0.0)

    assert (found.nodes, found.moved) == (["b", "b"], [0])


@given(weights, st.integers(0, 40), st.data())
def test_moves_are_as_few_as_possible_and_settle_at_once(
    given_weights: dict[str, float], workers: int, data: st.DataObject
) -> None:
    nodes = well(**given_weights)
    group = Group("all", workers, writes=data.draw(st.sampled_from([0.0, 0.3, 1.0])))
    here = data.draw(
        st.lists(
            st.none() | st.sampled_from(sorted(given_weights)),
            min_size=workers,
            max_size=workers,
        )
    )

    found = place(group, here, nodes, 0.0)

    kept = sum((Counter(here) & Counter(found.nodes)).values())
    assert len(found.moved) == workers - kept
    assert place(group, found.nodes, nodes, 0.0).moved == []


@given(weights, st.integers(1, 20), st.data())
def test_nobody_is_on_a_node_known_dead_while_another_suits(
    given_weights: dict[str, float], workers: int, data: st.DataObject
) -> None:
    names = sorted(given_weights)
    dead = data.draw(st.sets(st.sampled_from(names)))
    assume(len(dead) < len(names))
    nodes: NodeSet = well(**given_weights)
    group = Group("all", workers)
    here = place(group, [], nodes, 0.0).nodes
    for name in dead:
        fail(nodes, name, 1.0)

    away = place(group, here, nodes, 1.0)
    assert not dead & set(away.nodes)

    for name in dead:
        first = next(iter(given_weights))
        recover(nodes, name, 2.0, probe=PRIMARY if name == first else STANDBY)
    back = place(group, away.nodes, nodes, 1000.0)
    shares = apportion(workers, given_weights, Counter(away.nodes))
    assert Counter(back.nodes) == Counter(+Counter(shares))


def test_other_databases_are_other_nodes() -> None:
    nodes = NodeSet([Node("a"), Node("x", database="other")], random=lambda: 1.0)
    nodes.probed("a", PRIMARY, 0.0)
    nodes.probed("x", PRIMARY, 0.0)

    assert place(Group("g", 1, database="other"), [], nodes, 0.0).nodes == ["x"]


def close(nodes: NodeSet, name: str) -> None:
    nodes.failed(name, "too many connections", 1.0, refused=True)


def test_a_node_that_takes_no_new_connections_keeps_who_is_there() -> None:
    nodes = well(a=1, b=1, c=1)
    close(nodes, "b")

    found = place(Group("all", 9), [*"bbaaa", None, None, None, None], nodes, 1.0)

    assert spread(found) == {"a": 4, "b": 2, "c": 3}
    assert found.nodes[:5] == [*"bbaaa"]
    assert place(Group("all", 9), found.nodes, nodes, 1.0).moved == []
    assert spread(place(Group("all", 3), [], nodes, 1.0)) in (
        {"a": 2, "c": 1},
        {"a": 1, "c": 2},
    )


def test_a_primary_that_takes_no_new_connections_may_have_what_writes_need() -> None:
    nodes = well(a=1, b=1)
    close(nodes, "a")

    found = place(Group("all", 4, writes=0.25), [], nodes, 1.0)

    assert spread(found) == {"a": 1, "b": 3}


def test_where_no_node_takes_new_connections_all_are_tried() -> None:
    nodes = well(a=1, b=1)
    close(nodes, "a")
    close(nodes, "b")

    assert spread(place(Group("all", 4), [], nodes, 1.0)) == {"a": 2, "b": 2}

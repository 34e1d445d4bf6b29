from __future__ import annotations

from math import inf

from falconas.database.nodes import Node, NodeSet, Probe, Refusal, Role
from falconas.database.standing import LASTING, Database
from falconas.database.topology import SURE
from tests.unit.database.world import PRIMARY, STANDBY, fail, make, recover, well

NEW = Probe(Role.PRIMARY, 110, timeline=2)


def grown(*positions: tuple[float, int]) -> Database:
    database = Database()
    database.positions.extend(positions)
    return database


def fresh(nodes: NodeSet, name: str, now: float = 1.5) -> dict[str, str]:
    """Return what speaks against reads on a node: plain, of no age, of a position."""
    wishes = {"plain": {}, "max_lag": {"max_lag": 9.0}, "min_lsn": {"min_lsn": 1}}
    found = {
        wish: nodes.refusal("read", now=now, among=[name], **limits)  # type: ignore[arg-type]
        for wish, limits in wishes.items()
    }
    return {wish: no.reason for wish, no in found.items() if no is not None}


def failed_over() -> NodeSet:
    """Return nodes of which a is dead and b was promoted; c replayed more than b."""
    nodes = well(a=1, b=1, c=1)
    fail(nodes, "a", 1.0)
    nodes.probed("b", NEW, 1.0)
    nodes.probed("c", STANDBY._replace(lsn=500), 1.0)
    nodes.check_invariants()
    return nodes


# Lag


def test_a_standby_at_the_primarys_position_is_up_to_date() -> None:
    database = grown((0.0, 10), (1.0, 20))

    assert database.lag(Probe(Role.STANDBY, 20, age=500.0), 1.5) == 0


def test_the_lag_counts_from_when_the_primary_was_surely_not_beyond() -> None:
    database = grown((0.0, 10), (1.0, 20), (2.0, 30))

    assert database.lag(Probe(Role.STANDBY, 25), 2.5) == 1.5
    assert database.lag(Probe(Role.STANDBY, 10), 2.5) == 2.5


def test_a_standby_cut_off_from_its_primary_does_not_pass_for_up_to_date() -> None:
    database = grown((0.0, 10), (1.0, 20))

    assert database.lag(Probe(Role.STANDBY, 5, streaming=True), 1.5) == inf
    assert database.lag(Probe(Role.STANDBY, 5, age=7.0, streaming=True), 1.5) == 7.0


def test_the_age_of_the_last_transaction_bounds_the_lag() -> None:
    database = grown((0.0, 10), (5.0, 20))

    assert database.lag(Probe(Role.STANDBY, 19, age=0.1), 5.0) == 0.1
    assert database.lag(Probe(Role.STANDBY, 19, age=-3.0), 5.0) == 0.0  # clocks differ


def test_without_a_primary_one_that_streams_is_believed() -> None:
    assert Database().lag(Probe(Role.STANDBY, 5, streaming=True), 1.0) == 0
    assert Database().lag(Probe(Role.STANDBY, 5), 1.0) == inf


def test_a_primary_is_never_behind() -> None:
    assert grown((0.0, 10)).lag(Probe(Role.PRIMARY, 5), 9.0) == 0


def test_a_newer_timeline_begins_a_new_history() -> None:
    nodes = failed_over()

    nodes.probed("c", STANDBY._replace(lsn=115, timeline=2, age=None), 3.0)

    assert nodes.state("c").lag == 0.0  # as far as b was at 1.0, where it was seen last
    nodes.probed("b", NEW._replace(lsn=120), 4.0)
    nodes.probed("c", STANDBY._replace(lsn=115, timeline=2, age=None), 4.5)
    assert nodes.state("c").lag == 3.5


# Standbys that do not follow the primary


def test_a_standby_on_an_older_timeline_shows_nobody_knows_what() -> None:
    nodes = failed_over()

    why = "c: it follows timeline 1, the primary b is on 2"
    assert fresh(nodes, "c") == {"max_lag": why, "min_lsn": why}
    found = nodes.choose("read", now=1.5, in_use={}, min_lsn=1)
    assert found == Node("b")
    facts = nodes.facts(1.5)[2]
    assert (facts.up, facts.lag, facts.lsn, facts.timeline) == (True, None, 500, 1)
    assert facts.reason == why.removeprefix("c: ")


def test_one_whose_timeline_cannot_be_told_is_not_trusted() -> None:
    nodes = make(a=1, b=1)
    recover(nodes, "a", 1.0, probe=PRIMARY)
    recover(nodes, "b", 1.0, probe=STANDBY._replace(timeline=0))

    why = "b: it follows timeline unknown, the primary a is on 1"
    assert fresh(nodes, "b") == {"max_lag": why, "min_lsn": why}


def test_it_counts_again_when_it_follows() -> None:
    nodes = failed_over()

    nodes.probed("c", STANDBY._replace(lsn=500, timeline=2), 2.0)

    assert fresh(nodes, "c") == {}
    assert nodes.facts(2.0)[2].reason == ""


def test_without_a_primary_it_is_said_who_was_seen_on_the_newest_timeline() -> None:
    nodes = failed_over()
    fail(nodes, "b", 2.0)

    assert fresh(nodes, "c", 2.0)["max_lag"] == ("c: it follows timeline 1, b is on 2")


def test_a_standby_tells_of_a_newer_timeline_too() -> None:
    """The primary it follows was not seen: the one that was is left behind."""
    nodes = make(a=1, b=1)
    recover(nodes, "a", 0.0, probe=PRIMARY)
    recover(nodes, "b", 0.0, probe=STANDBY._replace(timeline=2))

    assert nodes.refusal("write", now=0.0) == Refusal(
        "a: a primary left behind on timeline 1 of 2; b: a standby"
    )
    assert "(b is on 2)" in nodes.alarm("a")


def again(nodes: NodeSet, now: float, primary: int, standby: int) -> None:
    """Probe both: a, which has come so far, and then b."""
    assert nodes.due(now) == ["a", "b"]
    nodes.probed("a", PRIMARY._replace(lsn=primary), now + 0.1)
    nodes.probed("b", STANDBY._replace(lsn=standby), now + 0.2)
    nodes.check_invariants()


def test_a_standby_beyond_its_primary_has_what_that_has_not() -> None:
    nodes = well(a=1, b=1)
    again(nodes, 1.0, 100, 150)
    assert fresh(nodes, "b") == {}  # the primary may have come so far since
    again(nodes, 3.0, 120, 150)

    why = "b: it has replayed what the primary a does not have"
    assert fresh(nodes, "b", 3.5) == {"max_lag": why, "min_lsn": why}
    assert nodes.facts(3.5)[1].timeline == 0
    again(nodes, 5.0, 150, 150)
    assert fresh(nodes, "b", 5.5) == {}


def test_once_it_is_sure_the_primarys_progress_changes_nothing() -> None:
    nodes = well(a=1, b=1)
    for number in range(SURE + 1):
        again(nodes, 2.0 + 2 * number, 100, 150)

    again(nodes, 40.0, 900, 900)

    assert set(fresh(nodes, "b", 41.0)) == {"max_lag", "min_lsn"}


# The survey


def test_nobody_writes_until_each_node_was_asked() -> None:
    """The first primary that answers may be one that was left behind."""
    nodes = make(a=1, b=1, c=1)
    recover(nodes, "a", 0.0, probe=PRIMARY)
    fail(nodes, "c", 0.0)

    assert nodes.primary() is None
    assert nodes.refusal("write", now=0.0, among=["a"]) == Refusal(
        "a: a primary, but b may be a newer one"
    )
    assert nodes.refusal("read", now=0.0) is None
    assert nodes.facts(0.0)[0].reason == "a primary, but b may be a newer one"
    fail(nodes, "b", 0.1)

    assert nodes.choose("write", now=0.1, in_use={}) == Node("a")


def test_a_node_that_joins_later_stops_nobody() -> None:
    nodes = well(a=1)
    nodes.update([Node("a"), Node("b")])

    assert nodes.primary() == Node("a")


def test_one_that_leaves_unasked_is_not_waited_for() -> None:
    nodes = make(a=1, b=1)
    recover(nodes, "a", 0.0, probe=PRIMARY)
    nodes.update([Node("a")])

    assert nodes.primary() == Node("a")


# Alarms


def test_sound_nodes_and_dead_ones_are_no_alarm() -> None:
    nodes = failed_over()

    assert [nodes.alarm(name) for name in ("a", "b", "x")] == ["", "", ""]


def test_a_primary_left_behind_is_an_alarm() -> None:
    nodes = failed_over()
    recover(nodes, "a", 5.0, probe=PRIMARY)

    assert nodes.alarm("a") == (
        "node a is a primary left behind on timeline 1 (b is on 2): it gets no work;"
        " make it a standby again (pg_rewind) or stop it"
    )


def test_equal_primaries_are_one_alarm() -> None:
    nodes = well(a=1, b=1, c=1)
    for name in "bc":
        nodes.probed(name, PRIMARY, 1.0)

    assert nodes.alarm("a").startswith(
        "nodes a, b, c are primaries on the same timeline: none of them gets writes;"
    )
    assert nodes.alarm("b") == nodes.alarm("c") == ""
    assert nodes.facts(1.0)[1].reason == "a primary on the same timeline as a, c"


def test_a_standby_that_needs_a_moment_to_follow_is_no_alarm() -> None:
    nodes = failed_over()
    for number in range(2, LASTING):
        nodes.probed("c", STANDBY, 1.0 + number)
    assert nodes.alarm("c") == ""

    nodes.probed("c", STANDBY._replace(timeline=2), 9.0)
    for number in range(9):
        nodes.probed("c", STANDBY._replace(timeline=2), 10.0 + number)
    assert nodes.alarm("c") == ""


def test_one_that_never_follows_is() -> None:
    nodes = failed_over()
    for number in range(LASTING):
        nodes.probed("c", STANDBY._replace(lsn=500), 2.0 + number)

    assert nodes.alarm("c") == (
        "node c does not follow the primary: it follows timeline 1, the primary b is"
        " on 2; it gets only reads that may be old; make it a standby again"
        " (pg_rewind); if it does follow, grant pg_monitor to our user"
    )

from __future__ import annotations

from math import inf

from falconas.database.health import PROBATION
from falconas.database.nodes import Node, Role
from falconas.database.placement import Group
from falconas.database.standing import LASTING
from falconas.worker.places import Place, Places
from falconas.worker.roster import START_WAIT, Farewell, Note, Roster
from tests.unit.database.world import PRIMARY, STANDBY, fail, make, recover, well

ALL = Group("all", 4)


def empty(roster: Roster) -> Places:
    """Return places with nobody there."""
    sizes = {name: group.workers for name, group in roster.groups.items()}
    return Places(sizes, roster.guests, lambda: 1.0)


def live(places: Places, index: int, node: str, group: str = "all") -> Place:
    """Have a worker on a node."""
    place = places[index]
    place.settle(bytes([index + 1]), group, node, 0.0)
    place.pid = index + 7
    return place


def told(roster: Roster, now: float) -> list[str]:
    """Return the news of this moment."""
    roster.look(now)
    roster.assign(empty(roster), now)
    return [note.text for note in roster.take_notes()]


# The start


def test_a_group_waits_until_all_its_nodes_are_probed_or_3_s() -> None:
    nodes = make(n1=1, n2=1, n3=1)
    roster = Roster([ALL, Group("some", 2, nodes=("n1", "n2"))], nodes)
    places = empty(roster)
    roster.look(10.0)
    assert roster.assign(places, 10.0) == {}
    recover(nodes, "n1", 10.0, probe=PRIMARY)
    fail(nodes, "n2", 10.5)
    roster.look(10.5)
    assert roster.assign(places, 10.5) == {"some": ["n1", "n1"]}
    assert roster.wake_at() == 10.0 + START_WAIT
    roster.look(13.0)
    assert roster.assign(places, 13.0)["all"] == ["n1"] * 4
    assert roster.wake_at() == inf


def test_once_started_a_new_node_holds_nobody_up() -> None:
    roster = Roster([ALL], well(n1=1, n2=1))
    assert roster.assign(empty(roster), 0.0) == {"all": ["n1", "n1", "n2", "n2"]}
    roster.nodes.update([Node("n1"), Node("n2"), Node("n3")])
    assert roster.assign(empty(roster), 0.0) == {"all": ["n1", "n1", "n2", "n2"]}


def test_a_single_node_is_not_waited_for() -> None:
    roster = Roster([Group("g", 1)], make(n1=1), discovers=True)
    roster.look(0.0)
    assert roster.assign(empty(roster), 0.0) == {"g": ["n1"]}


def test_a_group_without_a_node_waits_for_one_and_that_is_said() -> None:
    roster = Roster([ALL], well(n1=1, n2=1), discovers=True)
    roster.choose("all", ())
    assert "group all has no node" not in told(roster, 10.0)
    assert roster.assign(empty(roster), 10.0) == {}
    assert told(roster, 10.0 + START_WAIT) == ["group all has no node"]
    assert told(roster, 20.0) == []
    roster.choose("all", ("n2",))
    assert roster.assign(empty(roster), 20.0) == {"all": ["n2"] * 4}
    roster.choose("all", ())
    places = empty(roster)
    worker = live(places, 0, "n2")
    roster.look(21.0)
    assert roster.assign(places, 21.0) == {}
    assert roster.farewells(places) == []
    assert worker.target == ""  # whatever its age, there is no place for another
    assert roster.take_notes() == [Note("group all has no node", alarm=True)]


# Room


def test_there_is_room_for_those_who_can_leave() -> None:
    groups = [ALL, Group("one", 7, nodes=("n1",))]
    assert Roster(groups, make(n1=1, n2=1)).guests == 4
    assert Roster(groups, make(n1=1, n2=1), discovers=True).guests == 11


# Who is to be where


def test_those_who_have_replacements_count_where_these_are() -> None:
    roster = Roster([ALL], well(n1=1, n2=1))
    places = empty(roster)
    old = [live(places, index, "n1") for index in range(4)]
    live(places, 4, "n2").replaces = 3
    assert roster.assign(places, 0.0) == {"all": []}
    assert [place.target for place in old] == ["n1", "n1", "n2", "n2"]
    assert places.under_way("all") == 1


def test_the_worn_and_the_old_are_moved_before_others() -> None:
    roster = Roster([ALL], well(n1=1, n2=1))
    places = empty(roster)
    workers = [live(places, index, "n1") for index in range(4)]
    workers[0].worn = "it is old"
    for index in (2, 3):
        workers[index].generation = 2
    roster.assign(places, 0.0)
    assert [place.target for place in workers] == ["n2", "n2", "n1", "n1"]


def test_who_is_being_replaced_is_moved_last() -> None:
    """Its successor is on its way to where it is."""
    roster = Roster([ALL], well(n1=1, n2=1))
    places = empty(roster)
    workers = [live(places, index, "n1") for index in range(3)]
    workers.append(live(places, 3, "n2"))
    live(places, 4, "n1").replaces = 2
    roster.assign(places, 0.0)
    assert [place.target for place in workers] == ["n1", "n2", "n1", "n2"]


def test_the_primary_has_what_the_scripts_need() -> None:
    roster = Roster([ALL], well(n1=1, n2=1))
    roster.writes("all", 0.75)
    assert roster.assign(empty(roster), 0.0) == {"all": ["n1", "n1", "n1", "n2"]}


# Who is to leave


def test_who_is_on_a_node_that_is_down_leaves() -> None:
    nodes = well(n1=1, n2=1)
    roster = Roster([ALL], nodes)
    places = empty(roster)
    live(places, 0, "n1")
    leaving = live(places, 1, "n2")
    assert roster.farewells(places) == []
    fail(nodes, "n2", 1.0)
    why = "n2 is down: connection refused"
    assert roster.farewells(places) == [(leaving, Farewell(why, hard=False))]
    nodes.failed("n2", "no answer", 2.0, silent=True)
    why = "n2 is down: no answer"
    assert roster.farewell("all", "n2") == Farewell(why, hard=True)
    fail(nodes, "n1", 2.0)
    assert roster.farewells(places) == []


def test_who_is_being_spawned_leaves_when_there_is_a_process() -> None:
    nodes = well(n1=1, n2=1)
    roster = Roster([ALL], nodes)
    places = empty(roster)
    worker = live(places, 0, "n2")
    worker.pid = 0
    fail(nodes, "n2", 1.0)
    assert roster.farewells(places) == []
    worker.pid = 1
    assert [place for place, _ in roster.farewells(places)] == [worker]


def test_who_is_on_a_primary_that_was_left_behind_leaves() -> None:
    nodes = well(n1=1, n2=1)
    nodes.probed("n2", PRIMARY._replace(timeline=2), 1.0)
    why = "n1 was left behind by a failover"
    assert Roster([ALL], nodes).farewell("all", "n1") == Farewell(why, hard=False)


def test_who_is_on_a_node_that_is_gone_or_not_the_groups_any_more_leaves() -> None:
    roster = Roster([ALL], well(n1=1, n2=1))
    assert roster.farewell("all", "n3") == Farewell("n3 is gone", hard=False)
    roster.choose("all", ("n2",))
    gone = Farewell("n1 is not a node of group all any more", hard=False)
    assert roster.farewell("all", "n1") == gone


def test_a_node_that_was_not_probed_yet_is_waited_for() -> None:
    nodes = well(n1=1)
    nodes.update([Node("n1"), Node("n2")])
    assert Roster([ALL], nodes).farewell("all", "n2") is None


def test_a_node_whose_role_is_in_doubt_keeps_its_workers() -> None:
    nodes = well(n1=1, n2=1)
    nodes.refused_write("n1", 1.0)
    assert not nodes.suits("n1", "read")
    assert Roster([ALL], nodes).farewell("all", "n1") is None


# News


def test_a_primary_that_was_left_behind_is_no_node_that_is_up() -> None:
    nodes = well(n1=1, n2=1)
    fail(nodes, "n1", 1.0)
    roster = Roster([ALL], nodes)
    told(roster, 1.0)
    nodes.probed("n2", PRIMARY._replace(timeline=2), 2.0)
    told(roster, 2.0)
    recover(nodes, "n1", 3.0, probe=PRIMARY)
    roster.look(3.0)
    warning = (
        "node n1 is a primary left behind on timeline 1 (n2 is on 2): it gets no work;"
        " make it a standby again (pg_rewind) or stop it"
    )
    assert roster.take_notes() == [Note(warning)]
    recover(nodes, "n1", 4.0, probe=PRIMARY)
    assert told(roster, 4.0) == []
    fail(nodes, "n1", 5.0)
    recover(nodes, "n1", 6.0, probe=STANDBY._replace(timeline=2))
    assert told(roster, 6.0)[-1] == "node n1 is a standby now"


def test_two_primaries_on_one_timeline_are_said_once() -> None:
    nodes = well(n1=1, n2=1)
    roster = Roster([ALL], nodes)
    told(roster, 0.0)
    nodes.probed("n2", PRIMARY, 1.0)
    roster.look(1.0)
    first, second = roster.take_notes()
    assert first.alarm
    assert first.text.startswith("nodes n1, n2 are primaries on the same timeline")
    assert second == Note("node n2 is the primary now", alarm=False)
    recover(nodes, "n1", 2.0, probe=PRIMARY)
    recover(nodes, "n2", 2.0, probe=PRIMARY)
    roster.look(2.0)
    assert roster.take_notes() == []


def test_a_standby_that_does_not_follow_is_said_once_and_so_is_its_return() -> None:
    nodes = well(n1=1, n2=1, n3=1)
    roster = Roster([ALL], nodes)
    fail(nodes, "n1", 1.0)
    recover(nodes, "n2", 1.0, probe=PRIMARY._replace(timeline=2))
    told(roster, 1.0)
    said = []
    for number in range(2 * LASTING):
        recover(nodes, "n3", 2.0 + number)
        roster.look(2.0 + number)
        said.extend(roster.take_notes())
    (warning,) = said
    assert warning.alarm
    assert warning.text.startswith("node n3 does not follow the primary: ")
    recover(nodes, "n3", 30.0, probe=STANDBY._replace(timeline=2))
    roster.look(30.0)
    again = Note("node n3 follows its primary again", alarm=False)
    assert roster.take_notes() == [again]


def test_what_becomes_of_nodes_is_said_once() -> None:
    nodes = make(n1=1, n2=1)
    roster = Roster([ALL], nodes)
    assert told(roster, 0.0) == []
    recover(nodes, "n1", 0.0, probe=PRIMARY)
    fail(nodes, "n2", 0.0)
    told_first = ["node n1 is up (primary)", "node n2 is down: connection refused"]
    assert told(roster, 0.0) == told_first
    fail(nodes, "n2", 1.0)
    recover(nodes, "n1", 1.0, probe=PRIMARY)
    assert told(roster, 1.0) == []
    recover(nodes, "n2", 2.0)
    assert told(roster, 2.0) == ["node n2 is up (standby)"]
    fail(nodes, "n1", 3.0)
    recover(nodes, "n2", 3.0, probe=PRIMARY._replace(timeline=2))
    news = ["node n1 is down: connection refused", "node n2 is the primary now"]
    assert told(roster, 3.0) == news
    recover(nodes, "n2", 4.0)
    assert told(roster, 4.0) == ["node n2 is a standby now"]


def test_a_doubt_about_a_role_is_no_news() -> None:
    nodes = well(n1=1, n2=1)
    roster = Roster([ALL], nodes)
    told(roster, 0.0)
    nodes.refused_write("n1", 1.0)
    assert told(roster, 1.0) == []
    assert nodes.state("n1").role is Role.UNKNOWN
    recover(nodes, "n1", 2.0, probe=PRIMARY)
    assert told(roster, 2.0) == []


def test_a_node_that_is_gone_is_news() -> None:
    roster = Roster([ALL], well(n1=1, n2=1))
    told(roster, 0.0)
    roster.nodes.update([Node("n1")])
    assert told(roster, 1.0) == ["node n2 is gone"]
    assert told(roster, 2.0) == []


def test_what_placement_has_to_say_is_said_when_it_becomes_true() -> None:
    nodes = well(n1=1, n2=1)
    roster = Roster([Group("w", 2, writes=0.5)], nodes)
    told(roster, 0.0)
    fail(nodes, "n1", 1.0)
    assert "group w writes, and there is no primary" in told(roster, 1.0)
    assert told(roster, 2.0) == []
    recover(nodes, "n1", 3.0, probe=PRIMARY)
    told(roster, 3.0)
    fail(nodes, "n1", 4.0)
    assert "group w writes, and there is no primary" in told(roster, 4.0)


def test_a_worker_is_moved_for_what_happened_to_the_node() -> None:
    nodes = well(n1=1, n2=1)
    roster = Roster([ALL], nodes)
    places = empty(roster)
    told(roster, 0.0)
    assert roster.reason("n2") == "it belongs to n2"
    fail(nodes, "n2", 1.0)
    roster.look(1.0)
    for index in range(4):
        live(places, index, "n1")
    recover(nodes, "n2", 2.0)
    roster.look(2.0)
    roster.assign(places, 2.0)
    assert roster.wake_at() == 2.0 + PROBATION
    roster.look(2.0 + PROBATION)
    roster.assign(places, 2.0 + PROBATION)
    assert roster.reason("n2") == "n2 is back"
    for index in (0, 1):
        live(places, index, "n2")
    roster.assign(places, 2.0 + PROBATION)
    assert roster.reason("n2") == "it belongs to n2"
    nodes.probed("n2", PRIMARY._replace(timeline=2), 10.0)
    roster.look(10.0)
    assert roster.reason("n2") == "n2 is the primary now"


def test_a_node_found_later_is_up_when_it_was_probed() -> None:
    nodes = well(n1=1)
    roster = Roster([ALL], nodes, discovers=True)
    told(roster, 0.0)
    nodes.update([Node("n1"), Node("n2")])
    assert told(roster, 1.0) == []
    nodes.probed("n2", STANDBY, 2.0)
    roster.look(2.0)
    assert roster.take_notes() == [Note("node n2 is up (standby)", alarm=False)]
    assert roster.reason("n2") == "n2 is up"


def test_a_worker_makes_its_node_suspect_if_there_still_is_one() -> None:
    nodes = well(n1=1, n2=1)
    roster = Roster([ALL], nodes)
    roster.doubt("n2", "lost", 1.0)
    roster.doubt("n3", "lost", 1.0)
    assert [state.health.suspect for state in nodes.members()] == [False, True]


def test_who_is_connected_stays_where_nobody_else_gets_a_connection() -> None:
    nodes = well(n1=1, n2=1)
    roster = Roster([ALL], nodes)
    places = empty(roster)
    told(roster, 0.0)
    for index, node in enumerate(("n1", "n1", "n2", "n2")):
        live(places, index, node)
    nodes.failed("n1", "too many connections", 1.0, refused=True)
    assert told(roster, 1.0) == [
        "node n1 takes no new connections: too many connections"
    ]
    assert told(roster, 2.0) == []
    assert roster.farewells(places) == []
    nodes.failed("n1", "connection refused", 3.0)
    assert "node n1 is down: connection refused" in told(roster, 3.0)


def test_of_an_only_node_it_is_said_that_it_takes_no_connections() -> None:
    roster = Roster([Group("g", 1)], make(n1=1))
    roster.nodes.failed("n1", "wrong password", 0.0, refused=True)
    assert told(roster, 0.0) == ["node n1 takes no new connections: wrong password"]
    roster.nodes.probed("n1", PRIMARY, 1.0)
    assert told(roster, 1.0) == ["node n1 is up (primary)"]


def test_other_data_behind_the_same_address_is_said() -> None:
    roster = Roster([Group("g", 1)], make(n1=1))
    roster.nodes.probed("n1", PRIMARY._replace(system=7), 0.0)
    told(roster, 0.0)
    roster.nodes.probed("n1", PRIMARY._replace(system=8), 1.0)
    assert told(roster, 1.0) == ["node n1 has another cluster's data now"]
    assert told(roster, 2.0) == []

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falconas.database.lending import Lending, Ticket, Wish
from falconas.database.nodes import NoAnswer, Node, NodeSet
from falconas.errors import ResourceExhausted, Started
from tests.unit.database.world import PRIMARY, STANDBY, fail, recover, well

READ, WRITE = Wish("read"), Wish("write")


class Borrower(Ticket):
    """One who notes that he was served."""

    def __init__(self, wish: Wish) -> None:
        self.calls = 0
        super().__init__(wish, self.called)

    def called(self) -> None:
        self.calls += 1


def lending(max_size: int = 2, max_waiting: int = 10) -> Lending:
    made = Lending(well(a=1, b=1), max_size, max_waiting)
    made.opened = {"a", "b"}
    return made


def ask(lend: Lending, wish: Wish, now: float = 0.5) -> Borrower:
    borrower = Borrower(wish)
    assert lend.ask(borrower, now) == (borrower.name is not None)
    return borrower


def test_a_wish_is_checked() -> None:
    assert Wish.of("read", 1.0, "0/10") == Wish("read", 1.0, 16)
    with pytest.raises(ValueError, match='"read" or "write", not \'both\''):
        Wish.of("both", None, None)


def test_loans_are_counted_and_never_more_than_there_is_room_for() -> None:
    lend = lending()

    found = [ask(lend, READ).name for _ in range(4)]

    assert sorted(name or "" for name in found) == ["a", "a", "b", "b"]
    assert ask(lend, READ).name is None
    assert lend.waiting == 1


def test_those_who_wait_are_served_in_their_order() -> None:
    lend = lending(max_size=1)
    assert ask(lend, WRITE).name == "a"
    first, second = ask(lend, WRITE), ask(lend, WRITE)

    lend.give_back("a")
    lend.serve(0.6)

    assert (first.name, first.calls, second.name) == ("a", 1, None)
    assert lend.waiting == 1


def test_one_who_comes_later_overtakes_only_those_whom_nothing_suits() -> None:
    lend = lending(max_size=1)
    ask(lend, WRITE)
    writer = ask(lend, WRITE)

    reader = ask(lend, READ)
    assert (reader.name, writer.name) == ("b", None)
    lend.give_back("a")

    late = ask(lend, WRITE)
    assert (writer.name, late.name) == ("a", None)


def test_too_many_are_refused_at_once() -> None:
    lend = lending(max_size=1, max_waiting=1)
    ask(lend, WRITE)
    ask(lend, WRITE)

    with pytest.raises(
        ResourceExhausted, match=r"1 are waiting.*a: 1 of 1 in use"
    ) as it:
        ask(lend, WRITE)

    assert (it.value.retry_safe, lend.refused) == (True, 1)


def test_one_who_withdraws_gives_back_what_he_was_given_meanwhile() -> None:
    lend = lending(max_size=1)
    ask(lend, WRITE)
    waiting, other = ask(lend, WRITE), ask(lend, WRITE)
    lend.withdraw(other)
    assert lend.waiting == 1
    lend.give_back("a")
    lend.serve(0.6)
    assert waiting.name == "a"

    lend.withdraw(waiting)

    assert lend.counts["a"].in_use == 0
    assert ask(lend, WRITE).name == "a"


def test_a_node_that_is_not_open_yet_lends_nothing() -> None:
    lend = lending()
    lend.opened = {"b"}

    assert ask(lend, WRITE).name is None
    lend.opened.add("a")
    lend.serve(0.6)
    assert lend.waiting == 0


def test_the_error_says_what_kept_one_waiting() -> None:
    lend = lending(max_size=1)
    ask(lend, WRITE)

    busy = lend.too_late(WRITE, 1.25, 0.6)
    fail(lend.nodes, "a", 1.0)
    gone = lend.too_late(WRITE, 1.0, 1.0)

    assert busy.message == (
        "no connection within 1.2 s: a: 1 of 1 in use; b: 0 of 1 in use"
    )
    assert gone.message == (
        "no connection within 1.0 s: no node suits a write:"
        " a: connection refused; b: a standby"
    )
    assert (gone.started, gone.retry_safe) == (Started.NO, True)


def test_the_error_says_why_no_connection_is_made() -> None:
    lend = lending(max_size=1)
    lend.heard("b", 'role "nope" does not exist')
    lend.heard("gone", "no matter")

    assert lend.too_late(READ, 1.0, 0.5).message == (
        "no connection within 1.0 s: a: 0 of 1 in use; b: 0 of 1 in use, and no other"
        ' is made: role "nope" does not exist'
    )
    nodes = lend.statistics(0.5)["nodes"]
    assert nodes["b"]["reason"] == 'role "nope" does not exist'
    lend.heard("b", "")
    assert lend.reason(READ, 0.5) == "a: 0 of 1 in use; b: 0 of 1 in use"


def test_what_is_to_be_opened_and_closed_follows_the_probes() -> None:
    lend = lending()
    lend.opened = {"a"}
    assert lend.outdated() == (["b"], [])
    lend.nodes.due(5.0)

    lend.answered("a", NoAnswer("refused"), 5.0)
    lend.answered("b", STANDBY, 5.0)

    assert lend.outdated() == (["b"], ["a"])
    recover(lend.nodes, "a", 6.0, probe=PRIMARY)
    assert lend.outdated() == (["b"], [])


def test_an_operator_hears_once_of_what_he_should_do() -> None:
    lend = lending()
    lend.nodes.due(5.0)
    promoted = PRIMARY._replace(timeline=2)

    (alarm,) = lend.answered("b", promoted, 5.0)
    assert alarm.startswith("node a is a primary left behind on timeline 1 (b is on 2)")
    assert lend.answered("a", PRIMARY, 5.1) == []

    assert lend.answered("a", STANDBY._replace(timeline=2), 5.2) == []
    (again,) = lend.answered("a", PRIMARY, 5.3)
    assert again == alarm


def test_statistics_are_plain_values() -> None:
    lend = lending()
    ask(lend, WRITE)

    found = lend.statistics(0.5)

    assert (found["waiting"], found["refused"]) == (0, 0)
    node = found["nodes"]["a"]
    assert (node["role"], node["up"], node["in_use"]) == ("primary", True, 1)
    assert found["nodes"]["b"]["lag"] == 0.0


@given(st.lists(st.tuples(st.sampled_from(["read", "write", "back"]), st.booleans())))
def test_no_loan_is_lost_or_given_twice(steps: list[tuple[str, bool]]) -> None:
    lend = lending(max_size=2, max_waiting=3)
    borrowers: list[Borrower] = []
    for step, first in steps:
        if step == "back":
            having = [item for item in borrowers if item.name]
            if having:
                gone = having[0 if first else -1]
                borrowers.remove(gone)
                lend.give_back(gone.name or "")
                lend.serve(0.5)
        elif lend.waiting < 3:
            borrowers.append(ask(lend, Wish(step)))
        given_now = [item.name for item in borrowers if item.name]
        for name in "ab":
            assert given_now.count(name) == lend.counts[name].in_use <= 2
        waiting = [item for item in borrowers if not item.name]
        assert len(waiting) == lend.waiting
        assert not (waiting and any(w.wish == READ for w in waiting)) or (
            len(given_now) == 4
        )


def test_nodes_come_and_go_while_loans_go_on() -> None:
    lend = lending(max_size=1)
    borrower = ask(lend, WRITE)
    waiting = ask(lend, WRITE)

    change = lend.update([Node("b"), Node("c")])

    assert (change.come, change.gone) == (["c"], ["a"])
    assert lend.opened == {"b"}
    assert lend.reason(WRITE, 0.5) == (
        "no node suits a write: b: a standby; c: not probed yet"
    )
    assert list(lend.statistics(0.5)["nodes"]) == ["b", "c"]
    lend.answered("c", PRIMARY, 0.6)
    assert lend.outdated() == (["c"], [])
    lend.opened.add("c")
    lend.serve(0.6)
    assert waiting.name == "c"
    assert borrower.name == "a"
    lend.give_back("a")
    lend.update([Node("c")])
    assert list(lend.counts) == ["c"]


def test_the_counts_of_a_node_that_returns_meanwhile_are_still_right() -> None:
    lend = lending(max_size=1)
    ask(lend, WRITE)
    lend.update([Node("b")])
    lend.update([Node("a"), Node("b")])

    assert lend.counts["a"].in_use == 1
    lend.give_back("a")
    assert lend.counts["a"].in_use == 0


def test_only_the_chosen_ones_are_lent_and_all_are_watched() -> None:
    lend = Lending(well(a=1, b=1, c=1), 1, 9, choose=lambda _: ["b"])
    assert lend.outdated() == (["b"], [])
    lend.opened.add("b")

    assert ask(lend, READ).name == "b"
    assert ask(lend, READ).name is None
    assert lend.reason(READ, 0.5) == "b: 1 of 1 in use"
    assert lend.reason(WRITE, 0.5) == "no node suits a write: b: a standby"
    lend.answered("a", PRIMARY._replace(lsn=200), 5.0)
    assert "b: 5.0 s behind" in lend.reason(Wish("read", max_lag=1.0), 5.0)


def test_without_any_node_it_says_so() -> None:
    lend = Lending(NodeSet([], random=float), 1, 9)

    assert lend.reason(READ, 0.0) == "no node suits a read: no node is known"

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falconas.database.health import Health
from falconas.database.topology import (
    FRESH,
    Database,
    Node,
    Probe,
    Role,
    State,
    lsn_number,
    lsn_text,
)

STANDBY = Role.STANDBY


def grown(*positions: tuple[float, int]) -> Database:
    database = Database()
    database.positions.extend(positions)
    return database


@given(st.integers(0, 2**64 - 1))
def test_positions_are_written_and_read_as_postgresql_does(lsn: int) -> None:
    assert lsn_number(lsn_text(lsn)) == lsn_number(lsn) == lsn


def test_a_position_looks_like_postgresqls() -> None:
    assert lsn_text(0x1_0A00_0028) == "1/A000028"


@pytest.mark.parametrize("text", ["", "12", "x/1", "1/", "0/-5", "1/2/3"])
def test_what_is_no_position_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="0/3000148"):
        lsn_number(text)


@pytest.mark.parametrize("weight", [-1.0, inf, float("nan")])
def test_a_weight_is_a_number_from_0_up(weight: float) -> None:
    with pytest.raises(ValueError, match="weight of a"):
        Node("a", weight=weight)


def test_a_node_has_a_name_and_hides_its_dsn() -> None:
    with pytest.raises(ValueError, match="name"):
        Node("")
    assert "secret" not in repr(Node("a", "password=secret"))


def test_a_standby_at_the_primarys_position_is_up_to_date() -> None:
    database = grown((0.0, 10), (1.0, 20))

    assert database.lag(Probe(STANDBY, 20, age=500.0), 1.5) == 0


def test_the_lag_counts_from_when_the_primary_was_surely_not_beyond() -> None:
    database = grown((0.0, 10), (1.0, 20), (2.0, 30))

    assert database.lag(Probe(STANDBY, 25), 2.5) == 1.5
    assert database.lag(Probe(STANDBY, 10), 2.5) == 2.5


def test_a_standby_cut_off_from_its_primary_does_not_pass_for_up_to_date() -> None:
    database = grown((0.0, 10), (1.0, 20))

    assert database.lag(Probe(STANDBY, 5, streaming=True), 1.5) == inf
    assert database.lag(Probe(STANDBY, 5, age=7.0, streaming=True), 1.5) == 7.0


def test_the_age_of_the_last_transaction_bounds_the_lag() -> None:
    database = grown((0.0, 10), (5.0, 20))

    assert database.lag(Probe(STANDBY, 19, age=0.1), 5.0) == 0.1
    assert database.lag(Probe(STANDBY, 19, age=-3.0), 5.0) == 0.0  # clocks differ


def test_without_a_primary_one_that_streams_is_believed() -> None:
    assert Database().lag(Probe(STANDBY, 5, streaming=True), 1.0) == 0
    assert Database().lag(Probe(STANDBY, 5), 1.0) == inf


def test_a_primary_is_never_behind() -> None:
    assert grown((0.0, 10)).lag(Probe(Role.PRIMARY, 5), 9.0) == 0


def test_a_newer_timeline_begins_a_new_history() -> None:
    database = grown((0.0, 10))
    database.advanced(2)
    assert (database.timeline, list(database.positions)) == (2, [])

    database.positions.append((1.0, 20))
    database.advanced(1)

    assert (database.timeline, len(database.positions)) == (2, 1)


def test_old_facts_count_with_their_age() -> None:
    state = State(Node("a"), Health(1.0, float))
    state.probed(Probe(STANDBY), 10.0)
    state.lag = 0.5

    assert state.lag_at(10.0 + FRESH) == 0.5
    assert state.lag_at(20.0) == 10.5
    state.role = Role.PRIMARY
    assert state.lag_at(20.0) == 0.0


def test_facts_tell_what_is_known() -> None:
    state = State(Node("a", weight=2.0), Health(1.0, float))
    assert state.facts(0.0, "no").lag is None
    state.probed(Probe(STANDBY, 7, latency=0.1), 10.0)
    state.lag = 0.5

    facts = state.facts(10.0, "why")

    assert (facts.name, facts.role, facts.up, facts.lsn) == ("a", STANDBY, True, 7)
    assert (facts.lag, facts.share, facts.reason) == (0.5, 1.0, "why")
    assert state.weight_at(10.0) == 2.0

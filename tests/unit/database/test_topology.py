from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falconas.database.health import Health
from falconas.database.topology import (
    FRESH,
    SURE,
    Node,
    Probe,
    Role,
    State,
    lsn_number,
    lsn_text,
)

STANDBY = Role.STANDBY


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


def test_old_facts_count_with_their_age() -> None:
    state = State(Node("a"), Health(1.0, float))
    state.probed(Probe(STANDBY), 10.0)
    state.lag = 0.5

    assert state.lag_at(10.0 + FRESH) == 0.5
    assert state.lag_at(20.0) == 10.5
    state.role = Role.PRIMARY
    assert state.lag_at(20.0) == 0.0


# What a standby follows


def standby(*probes: Probe) -> State:
    """Return what is known after these answers, one each second."""
    state = State(Node("a"), Health(1.0, float))
    for now, probe in enumerate(probes):
        state.probed(probe, float(now))
    return state


def test_what_a_standby_once_followed_it_still_follows() -> None:
    state = standby(Probe(STANDBY, 7, timeline=2), Probe(STANDBY, 7, timeline=1))

    assert state.timeline == 2


@pytest.mark.parametrize(
    "probe", [Probe(STANDBY, 6, timeline=1), Probe(Role.PRIMARY, 9, timeline=1)]
)
def test_one_with_other_data_may_follow_another(probe: Probe) -> None:
    assert standby(Probe(STANDBY, 7, timeline=2), probe).timeline == 1


def test_one_that_was_down_may_have_been_made_anew() -> None:
    state = standby(Probe(STANDBY, 7, timeline=2))
    state.beyond = SURE
    state.health.failed("gone", 1.0)

    state.probed(Probe(STANDBY, 9, timeline=1), 2.0)

    assert (state.timeline, state.beyond) == (1, 0)


# Standbys beyond their primary


def test_a_standby_beyond_the_primary_at_a_later_time_has_another_history() -> None:
    state = standby(Probe(STANDBY, 50, timeline=1))
    for _ in range(SURE):
        state.compared(49, asked_at=0.5)
    assert state.beyond == SURE

    state.compared(60, asked_at=0.6)

    assert state.beyond == SURE  # for good


def test_one_proof_may_be_an_accident() -> None:
    state = standby(Probe(STANDBY, 50, timeline=1))
    state.compared(49, asked_at=0.5)
    assert state.beyond == 1

    state.compared(50, asked_at=0.6)

    assert state.beyond == 0


def test_what_a_standby_replayed_since_the_primary_was_asked_proves_nothing() -> None:
    state = standby(Probe(STANDBY, 50, timeline=1), Probe(STANDBY, 90, timeline=1))

    state.compared(50, asked_at=0.9)
    assert state.beyond == 0

    state.compared(49, asked_at=0.9)  # it was beyond that before
    assert state.beyond == 1


def test_who_is_no_standby_is_not_compared() -> None:
    state = State(Node("a"), Health(1.0, float))
    state.compared(0, asked_at=1.0)
    state.probed(Probe(Role.PRIMARY, 50, timeline=1), 0.0)
    state.compared(49, asked_at=1.0)

    assert state.beyond == 0

"""What a request costs does not grow unnoticed, nor with the number of others."""

from __future__ import annotations

import pytest

from tests.guard import counts, syscalls, table

ROWS = table.read()
KERNEL = sorted(name for name in ROWS if name.startswith("syscalls."))
BYTECODE = sorted(ROWS.keys() - set(KERNEL))
LOOK = "python -m tests.guard --look"
HOW = (
    "If that is what it has to cost: python -m tests.guard --update\n"
    f"Else see what it is made of: {LOOK} direct.calls, {LOOK} queued.calls"
    f" or {LOOK} syscalls.broker, before and after the change"
)

other_python = pytest.mark.skipif(
    table.python() != table.VERSION,
    reason=f"counted with Python {table.python()}, others count otherwise",
)


@pytest.fixture(scope="module")
def counted() -> dict[str, float]:
    return counts.measured()


@pytest.fixture(scope="module")
def entered() -> dict[str, float]:
    if obstacle := syscalls.obstacle():
        pytest.skip(obstacle)  # says what strace lacks here
    return syscalls.of_a_request()


def check(name: str, now: float) -> None:
    row = ROWS[name]
    text = f"{name} is {now}, was {row['seen']}, may be {row['ceiling']}.\n{HOW}"
    assert now <= row["ceiling"], text


@other_python
@pytest.mark.parametrize("name", BYTECODE)
def test_counts_stay_below_their_ceilings(name: str, counted: dict[str, float]) -> None:
    check(name, counted[name])


@pytest.mark.parametrize("name", KERNEL)
def test_system_calls_stay_below_their_ceilings(
    name: str, entered: dict[str, float]
) -> None:
    check(name, entered[name])


@other_python
def test_all_that_is_counted_has_its_row(counted: dict[str, float]) -> None:
    assert sorted(counted) == BYTECODE
    assert KERNEL == ["syscalls.broker", "syscalls.worker"]


@other_python
def test_a_request_is_counted_whole() -> None:
    """Each way through the broker has its part in what is counted."""
    found = counts.calls(counts.warm(counts.SCENARIOS["queued"]))

    for name in (
        "headers.decode",
        "headers.encode",
        "core.BrokerCore.request",
        "core.BrokerCore.reply",
        "backlog.Queue.push",
        "backlog.Queue.pop",
        "flow.Flow.dispatch",
        "flow.Flow.finish",
    ):
        assert found[name] >= counts.STEPS, name

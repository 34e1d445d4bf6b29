from __future__ import annotations

import pytest

from tests.unit.broker.machine import campaign

RUNS = 300


def test_machine() -> None:
    campaign(RUNS)


@pytest.mark.campaign
def test_machine_at_length() -> None:
    campaign(20_000)

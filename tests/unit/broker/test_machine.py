from __future__ import annotations

from contextlib import closing

import pytest

from tests.unit.broker.foundry import BATCHES, outcomes, sound
from tests.unit.broker.machine import campaign


def test_machine() -> None:
    """What finds the planted bugs finds none here."""
    with closing(outcomes(map(sound, range(BATCHES)))) as made:
        wrong = [outcome.said for outcome in made if outcome.found is not False]

    assert not wrong, wrong[0]


@pytest.mark.campaign
def test_machine_at_length() -> None:
    campaign(20_000, BATCHES)

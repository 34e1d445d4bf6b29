"""Are the tests able to fail? Planted bugs (tests/mutants) must be found.

Each patch says what is wrong and who finds it: the machine, by runs that the sound
core passes, or a test file where the rule is one of order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.unit.broker.foundry import (
    PATCHES,
    ROOT,
    Outcome,
    Trial,
    finder,
    outcomes,
    plant,
    planted,
)


@pytest.fixture(scope="module")
def outcome_of(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[Path], Outcome]]:
    """Look for all bugs that were asked for."""
    calls = [getattr(item, "callspec", None) for item in request.session.items]
    wanted = [c.params["patch"] for c in calls if c and "patch" in c.params]
    folder = tmp_path_factory.mktemp("planted")
    trials = [planted(patch, folder / patch.stem) for patch in wanted]
    known: dict[Path, Outcome] = {}

    with closing(outcomes(trials)) as made:

        def of(patch: Path) -> Outcome:
            while patch not in known:
                known[wanted[len(known)]] = next(made)
            return known[patch]

        yield of


@pytest.mark.parametrize("patch", PATCHES, ids=lambda path: str(path.stem))
def test_planted_bug_is_found(
    patch: Path, outcome_of: Callable[[Path], Outcome]
) -> None:
    outcome = outcome_of(patch)

    assert outcome.found, outcome.said


def test_there_are_bugs_of_many_kinds() -> None:
    assert len(PATCHES) >= 12


def test_what_finds_them_finds_nothing_in_sound_code() -> None:
    """The machine's part of that is `test_machine`."""
    files = {finder(patch.read_text())[0] for patch in PATCHES} - {"machine"}

    with closing(outcomes([Trial(str(ROOT), min(files), [])])) as made:
        assert [outcome.found for outcome in made] == [False]


def test_a_patch_that_no_longer_applies_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text("a\nc\n")
    patch = "--- a/module.py\n+++ b/module.py\n@@ -1 +1 @@\n-b\n+c\n"

    with pytest.raises(AssertionError, match="no longer applies"):
        plant(patch, tmp_path)

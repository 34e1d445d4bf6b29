"""Are the tests able to fail? Planted bugs (tests/mutants) must be found.

Each patch says what is wrong and who finds it: the machine, with the same seeds that
the sound core passes, or a test file where the rule is one of order.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.unit.broker.test_machine import RUNS

ROOT = Path(__file__).parents[3]
PATCHES = sorted((ROOT / "tests/mutants").glob("*.patch"))
MACHINE = f"from tests.unit.broker.machine import campaign; campaign({RUNS})"
TESTS = "import pytest, sys; sys.exit(pytest.main(sys.argv[1:]))"
OPTIONS = ["-q", "-x", "-p", "no:cacheprovider", "--rootdir", str(ROOT)]


def plant(patch: str, tree: Path) -> None:
    """Apply a unified diff; its lines must be there, exactly once."""
    name = re.search(r"^\+\+\+ b/(\S+)$", patch, re.MULTILINE)
    assert name, "not a unified diff"
    path = tree / name[1]
    source = path.read_text()
    hunks = re.split(r"^@@.*@@.*\n", patch, flags=re.MULTILINE)[1:]
    assert hunks, "not a unified diff"
    for hunk in hunks:
        lines = hunk.splitlines(keepends=True)
        old = "".join(line[1:] for line in lines if line[0] != "+")
        new = "".join(line[1:] for line in lines if line[0] != "-")
        assert source.count(old) == 1, f"no longer applies:\n{hunk}"
        source = source.replace(old, new)
    path.write_text(source)


def command(finder: str) -> list[str]:
    look = "import falconas; print(falconas.__file__); "
    if finder == "machine":
        return [sys.executable, "-P", "-c", look + MACHINE]
    path = str(Path(__file__).parent / finder)
    return [sys.executable, "-P", "-c", look + TESTS, *OPTIONS, path]


def search(finder: str, tree: Path) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join(map(str, (tree, ROOT)))
    environ = {**os.environ, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"}
    environ["PYTHONHASHSEED"] = "0"  # the order of sets decides what a run meets
    return subprocess.run(
        command(finder),
        env=environ,
        cwd=tree,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def searches(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[Path, Future[None]]]:
    """Look for all bugs that were asked for, on all cores."""
    sound = tmp_path_factory.mktemp("sound")
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "falconas", sound / "falconas", ignore=ignore)
    calls = [getattr(item, "callspec", None) for item in request.session.items]
    wanted = [c.params["patch"] for c in calls if c and "patch" in c.params]
    trees = {patch: tmp_path_factory.mktemp(patch.stem) for patch in wanted}
    with ThreadPoolExecutor(os.cpu_count()) as cores:
        yield {p: cores.submit(look_for, p, sound, trees[p]) for p in wanted}
        cores.shutdown(cancel_futures=True)


def look_for(patch: Path, sound: Path, tree: Path) -> None:
    shutil.copytree(sound, tree, dirs_exist_ok=True)
    text = patch.read_text()
    plant(text, tree)
    finder = re.search(r"^Found by: (\S+)$", text, re.MULTILINE)
    assert finder, "the patch does not say who finds it"

    found = search(finder[1], tree)

    assert found.returncode == 1, found.stdout + found.stderr
    assert found.stdout.startswith(str(tree)), "not the planted code ran"


@pytest.mark.parametrize("patch", PATCHES, ids=lambda path: str(path.stem))
def test_planted_bug_is_found(patch: Path, searches: dict[Path, Future[None]]) -> None:
    searches[patch].result()


def test_there_are_bugs_of_many_kinds() -> None:
    assert len(PATCHES) >= 12


def test_a_patch_that_no_longer_applies_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text("a\nc\n")
    patch = "--- a/module.py\n+++ b/module.py\n@@ -1 +1 @@\n-b\n+c\n"

    with pytest.raises(AssertionError, match="no longer applies"):
        plant(patch, tmp_path)

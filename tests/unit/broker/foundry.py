"""Runs the machine, or a test file, on copies of the code that may be wrong.

One interpreter, whose sets have the same order each time, imports what is not under
test; each trial is a fork of it and imports its own copy of falconas. So a trial costs
little more than the runs until the bug shows, and what the sound code passes is
exactly what a wrong one is tried with.

The machine's runs come in batches, each from a seed of its own. A patch names the one
that finds it soonest, which is tried first. That is only a hint: after a change of the
machine or of the core all the others may have to be tried as well, which takes longer.
`python -m tests.unit.broker.foundry` writes them anew into the patches.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import hypothesis.stateful  # noqa: F401  # once, for all forks
import pytest
from hypothesis.errors import Flaky, HypothesisException

ROOT = Path(__file__).parents[3]
HERE = Path(__file__).parent
PATCHES = sorted((ROOT / "tests/mutants").glob("*.patch"))
FOUND_BY = re.compile(r"^Found by: (\S+?)(?:, seed (\d+))?$", re.MULTILINE)
BATCHES = 12
RUNS = 26  # of each batch
OPTIONS = [
    *("-q", "-x", "--noconftest", "-p", "no:cacheprovider", "--rootdir", str(ROOT)),
    # Hypothesis is there already.
    *("-W", "ignore:Module already imported:pytest.PytestAssertRewriteWarning"),
]


class Trial(NamedTuple):
    """What to run on which code; `seeds` are the machine's, in this order."""

    tree: str
    finder: str
    seeds: list[int]


class Outcome(NamedTuple):
    """Whether something was wrong, what was said, and how many runs that took."""

    found: bool | None  # None: the trial failed
    said: str
    seed: int
    runs: int


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
    for compiled in path.parent.glob(f"__pycache__/{path.stem}.*"):
        compiled.unlink()


def finder(patch: str) -> tuple[str, list[int]]:
    """Return who finds a bug, and the machine's seeds, the promising one first."""
    named = FOUND_BY.search(patch)
    assert named, "the patch does not say who finds it"
    first = [int(named[2])] if named[2] else []
    return named[1], first + [seed for seed in range(BATCHES) if seed not in first]


def planted(patch: Path, tree: Path) -> Trial:
    """Return the trial of a copy of the code with a bug, made in `tree`."""
    unfinished = shutil.ignore_patterns("*.pyc.*")  # by whoever compiles them now
    shutil.copytree(ROOT / "falconas", tree / "falconas", ignore=unfinished)
    text = patch.read_text()
    plant(text, tree)
    return Trial(str(tree), *finder(text))


def sound(seed: int) -> Trial:
    """Return the trial of the code as it is."""
    return Trial(str(ROOT), "machine", [seed])


def outcomes(trials: Iterable[Trial]) -> Generator[Outcome, None, None]:
    """Make the trials, on all cores, and return their outcomes in this order."""
    with subprocess.Popen(
        [sys.executable, "-P", __file__, "serve"],
        env={**os.environ, "PYTHONHASHSEED": "0"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin
        assert process.stdout
        with process.stdin:
            json.dump(list(trials), process.stdin)
        try:
            for line in process.stdout:
                yield Outcome(*json.loads(line))
        finally:
            process.terminate()


class TooLong(BaseException):
    """Another batch found it sooner."""


# Inside: one interpreter, and a fork of it for each trial


def serve() -> None:
    signal.signal(signal.SIGTERM, give_up)
    trials = json.load(sys.stdin)
    fork = multiprocessing.get_context("fork")
    with fork.Pool(os.cpu_count(), maxtasksperchild=1) as pool:
        for outcome in pool.imap(attempt, trials):
            print(json.dumps(outcome), flush=True)
        # Just to leave would terminate it, which hangs if it forks just then.
        pool.close()
        pool.join()


def give_up(*_: object) -> None:
    """End the forks as well."""
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(1)


def attempt(trial: list[Any]) -> Outcome:
    """Make a trial; this process is of no use afterwards."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    tree, who, seeds = trial
    sys.path[:0] = [tree, str(ROOT)]
    with tempfile.TemporaryFile("w+") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
        try:
            place = str(importlib.import_module("falconas").__file__)
            assert place.startswith(tree), f"not its code, but {place}"
            if who in {"machine", "hint"}:
                found, seed, runs = run_machine(seeds, soonest=who == "hint")
            else:
                found, seed, runs = run(who), -1, 0
        except BaseException:
            traceback.print_exc()
            found, seed, runs = None, -1, 0
        sys.stdout.flush()
        sys.stderr.flush()
        output.seek(0)
        return Outcome(found, output.read(), seed, runs)


def run_machine(seeds: list[int], *, soonest: bool = False) -> tuple[bool, int, int]:
    """Run batches until one finds something; or find out which does so soonest."""
    module = importlib.import_module("tests.unit.broker.machine")
    begun: list[Any] = []
    best, found = sys.maxsize, -1

    class Counted(module.BrokerMachine):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            begun.append(self)
            if len(begun) >= best:
                raise TooLong
            super().__init__()

    for seed in seeds:
        begun.clear()
        try:
            module.campaign(RUNS, seed, Counted)
        except (Exception, TooLong) as error:
            if len(begun) >= best:
                continue
            # Flaky: what the bug does cannot even be repeated.
            if isinstance(error, HypothesisException) and not isinstance(error, Flaky):
                raise
            traceback.print_exc()
            best, found = len(begun), seed
            if not soonest:
                break
    return found >= 0, found, best


def run(name: str) -> bool:
    """Tell whether a test file finds something."""
    done = pytest.main([*OPTIONS, str(HERE / name)])
    assert done in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED}, "did not run"
    return done == pytest.ExitCode.TESTS_FAILED


def hint() -> None:
    """Write into each patch which seed finds it soonest."""
    with tempfile.TemporaryDirectory() as folder:
        trials = [planted(patch, Path(folder) / patch.stem) for patch in PATCHES]
        theirs = [t._replace(finder="hint") for t in trials if t.finder == "machine"]
        for trial, outcome in zip(theirs, outcomes(theirs), strict=True):
            patch = ROOT / "tests/mutants" / f"{Path(trial.tree).stem}.patch"
            print(f"{patch.stem}: seed {outcome.seed}, {outcome.runs} runs", flush=True)
            if not outcome.found:
                print(f"{patch.stem}: not found\n{outcome.said}")
                continue
            named = f"Found by: machine, seed {outcome.seed}"
            patch.write_text(FOUND_BY.sub(named, patch.read_text()))


if __name__ == "__main__":
    serve() if sys.argv[1:] == ["serve"] else hint()

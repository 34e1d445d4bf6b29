"""`make demo`, as its user sees it; at the size that the tests can afford."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.stack import COMMAND, is_alive

ROOT = Path(__file__).parents[2]
PATIENCE = 120.0


def demo(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environ = {k: v for k, v in os.environ.items() if not k.startswith("FALCONAS_")}
    return subprocess.run(
        [COMMAND, "demo", *arguments],
        cwd=folder,
        env=environ,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Any:
    (tmp_path / "workers").symlink_to(ROOT / "workers")
    yield tmp_path
    demo(tmp_path, "--clean")
    assert not (tmp_path / ".falconas").exists()


def test_the_demo_shows_every_script_and_leaves_nothing_running(folder: Path) -> None:
    done = demo(folder)

    assert done.returncode == 0, done.stderr
    for line in (
        "[6/6] calling scripts",
        "--- falconas call customer_overview customer_id=370 limit=3",
        "Customer#000000370",
        "sum_base_price",
        "percent_by_month",
        "INVALID_ARGUMENT: ",
        "All is stopped again",
    ):
        assert line in done.stdout
    assert " on node main" in done.stdout
    assert not processes_of(folder)

    # Kept data, a running demo, and writes that do not touch the template.
    done = demo(folder, "--keep")
    assert done.returncode == 0, done.stderr
    assert "go on running" in done.stdout
    assert "count:   15" in done.stdout
    pids = [
        int(pid) for pid in json.loads((folder / ".falconas/demo.json").read_text())
    ]
    assert len(pids) == 2
    assert all(map(is_alive, pids))

    assert demo(folder, "--stop").stdout == "stopped\n"
    assert not any(map(is_alive, pids))
    assert not processes_of(folder)
    assert demo(folder, "--stop").stdout == "nothing was running\n"


def test_the_demo_says_where_it_can_run(tmp_path: Path) -> None:
    done = demo(tmp_path)

    assert done.returncode == 3
    assert "run the demo in a checkout" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def processes_of(folder: Path) -> list[str]:
    """Return the processes whose command line names the folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in line:
            found.append(line)
    return found

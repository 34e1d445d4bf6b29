"""The table of what was seen, and of what may not be passed."""

from __future__ import annotations

import json
import sys
from math import ceil
from pathlib import Path

PATH = Path(__file__).with_name("ceilings.json")
VERSION = "{}.{}".format(*sys.version_info)

Rows = dict[str, dict[str, float]]


def python() -> str:
    """Return the version whose calls and instructions the table has."""
    version: str = json.loads(PATH.read_text())["python"]
    return version


def read() -> Rows:
    """Return `seen` and `ceiling` by name."""
    rows: Rows = json.loads(PATH.read_text())["counts"] if PATH.exists() else {}
    return rows


def write(rows: Rows) -> None:
    """Replace the table."""
    content = {"python": VERSION, "counts": rows}
    PATH.write_text(json.dumps(content, indent=1) + "\n")


def row(name: str, seen: float) -> dict[str, float]:
    """Return what was seen, and the ceiling that follows from it."""
    return {"seen": seen, "ceiling": ceiling(name, seen)}


def ceiling(name: str, seen: float) -> float:
    """Return what a count may be at most: more where chance has a part in it.

    What grows with the number of others may cost a fifth more; blocks of memory that
    a run of thousands of requests leaves are none of theirs.
    """
    if name.startswith(("growth.", "growth_of_news.")):
        return 1.2
    if name.endswith(".blocks_grown"):
        return 100
    return ceil(seen * (1.5 if name.startswith("syscalls.") else 1.1))

"""`python -m bench [PART ...]`: measure, print tables, keep single figures."""

from __future__ import annotations

import sys
from pathlib import Path

from bench import memory, overhead, respawn
from falconas.cli.table import render

FIGURES = Path(".falconas/bench/overhead.json")
WIDTH = 100


def show_overhead() -> None:
    figures = overhead.run()
    print(render(overhead.table(figures), WIDTH))
    overhead.save(figures, FIGURES)
    print(f"\nus: microseconds of CPU (broker) or of waiting (p50, p99); {FIGURES}")


def show_respawn() -> None:
    print(render(respawn.table(respawn.run()), WIDTH))


def show_memory() -> None:
    print(render(memory.run(), WIDTH))


PARTS = {"overhead": show_overhead, "respawn": show_respawn, "memory": show_memory}


def main() -> None:
    wanted = sys.argv[1:] or list(PARTS)
    unknown = [name for name in wanted if name not in PARTS]
    if unknown:
        sys.exit(f"no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    for name in wanted:
        print(f"{name}\n")
        PARTS[name]()
        print()


if __name__ == "__main__":
    main()

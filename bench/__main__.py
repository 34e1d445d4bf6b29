"""`python -m bench`: measure, print the medians and their ratios, keep the figures."""

from __future__ import annotations

from pathlib import Path

from bench import overhead
from falconas.cli.table import render

FIGURES = Path(".falconas/bench/overhead.json")


def main() -> None:
    figures = overhead.run()
    print(render(overhead.table(figures), 100))
    overhead.save(figures, FIGURES)
    print(f"\nus: microseconds of CPU (broker) or of waiting (p50, p99); {FIGURES}")


if __name__ == "__main__":
    main()

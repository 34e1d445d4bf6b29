"""`python -m bench [PART ...]`: measure, print tables, keep single figures."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from bench import growth, memory, models, overhead, plot, respawn
from bench.stack import ROOT
from falconas.cli.table import render

KEPT = Path(".falconas/bench")
FIGURES = KEPT / "overhead.json"
MODELS = KEPT / "models.json"
GROWTH = KEPT / "growth.json"
WIDTH = 100
BLOCK = re.compile(r"(?<=<!-- models -->\n).*?(?=<!-- end -->)", re.DOTALL)


def show_overhead() -> None:
    figures = overhead.run()
    print(render(overhead.table(figures), WIDTH))
    overhead.save(figures, FIGURES)
    print(f"\nus: microseconds of CPU (broker) or of waiting (p50, p99); {FIGURES}")


def show_respawn() -> None:
    print(render(respawn.table(respawn.run()), WIDTH))


def show_memory() -> None:
    print(render(memory.run(), WIDTH))


def show_models() -> None:
    missing = models.missing()
    if missing:
        how = f"{sys.executable} -m pip install -e '.[bench]'"
        print(f"skipped: {', '.join(missing)} not installed; {how}")
        return
    samples = models.run(int(os.environ.get("ROUNDS", models.ROUNDS)))
    models.save(samples, MODELS)
    figures = models.figures(samples)
    picture = MODELS.with_suffix(".svg")
    picture.write_text(plot.svg(figures))
    print(f"{models.markdown(figures)}\n{MODELS}, {picture}")


def show_growth() -> None:
    figures = growth.run()
    print(render(growth.table(figures), WIDTH + 10))
    growth.save(figures, GROWTH)


def publish() -> None:
    """Put the kept figures of the models into the documents."""
    figures = models.figures(models.read(MODELS))
    (ROOT / "docs/models.svg").write_text(plot.svg(figures))
    page = ROOT / "docs/performance.md"
    text, count = BLOCK.subn(f"\n{models.markdown(figures)}\n", page.read_text())
    assert count == 1, f"{page} has no place for the figures"
    page.write_text(text)


PARTS = {
    "overhead": show_overhead,
    "respawn": show_respawn,
    "memory": show_memory,
    "models": show_models,
    "growth": show_growth,
}


def main() -> None:
    wanted = sys.argv[1:] or list(PARTS)
    parts = PARTS | {"publish": publish}
    unknown = [name for name in wanted if name not in parts]
    if unknown:
        sys.exit(f"no part {', '.join(unknown)}; there are {', '.join(parts)}")
    for name in wanted:
        print(f"{name}\n")
        parts[name]()
        print()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)

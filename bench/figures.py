"""What the rounds come to: medians, ratios, tables."""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterable
from typing import NamedTuple

from bench.compare import Cell, Outcome, Sample
from bench.peers import PEERS
from bench.works import WORKS

ROLES = ("broker", "workers", "client", "database")
HEAD = (
    "| peer | outstanding | requests/s | ratio | p50 ms | p99 ms"
    " | CPU µs: broker | workers | client | database | all | switches | others |"
)
RULE = "|---|" + "---:|" * 12
BUSY = 0.25  # processors


class Figure(NamedTuple):
    """The medians of all rounds.

    Attributes:
        cpu: Microseconds for each request, by role.
        switches: Context switches for each request, of all.
        others: Processors that were used by what is not ours.
    """

    cell: Cell
    per_second: float
    p50_ms: float
    p99_ms: float
    cpu: dict[str, float]
    switches: float
    others: float

    @property
    def all_cpu(self) -> float:
        return sum(self.cpu.values())

    @property
    def server_cpu(self) -> float:
        return self.cpu.get("broker", 0.0) + self.cpu.get("workers", 0.0)


Figures = dict[Cell, Figure]


def figures(samples: Iterable[Sample]) -> Figures:
    """Put the rounds of each cell together."""
    rounds: dict[Cell, list[Sample]] = {}
    for sample in samples:
        rounds.setdefault(Cell(*sample[:3]), []).append(sample)
    return {cell: _figure(cell, mine) for cell, mine in rounds.items()}


def _figure(cell: Cell, rounds: list[Sample]) -> Figure:
    median = statistics.median
    return Figure(
        cell,
        median(s.requests / s.seconds for s in rounds),
        median(s.p50_ms for s in rounds),
        median(s.p99_ms for s in rounds),
        {
            role: median(s.cpu[role] / s.requests * 1e6 for s in rounds)
            for role in rounds[0].cpu
        },
        median(sum(s.switches.values()) / s.requests for s in rounds),
        median(s.others / s.seconds for s in rounds),
    )


def reference(found: Figures, work: str, outstanding: int) -> Figure | None:
    """Return what is compared with: the limit of what could be."""
    peer = "proxy" if WORKS[work].size else "direct-reset"
    count = (PEERS[peer].outstanding or (outstanding,))[0]
    return found.get(Cell(peer, work, count))


def markdown(outcome: Outcome) -> str:
    """Return a table for each work."""
    found = figures(outcome.samples)
    lines = []
    for name, work in WORKS.items():
        mine = [figure for cell, figure in found.items() if cell.work == name]
        if mine:
            lines += ["", f"**{work.title}**", "", HEAD, RULE]
            mine.sort(key=_place)
            lines += [_row(figure, found) for figure in mine]
    taken = (
        statistics.median(figure.others for figure in found.values()) if found else 0
    )
    if taken > BUSY:
        what = f"Others used {taken:.1f} of {os.cpu_count()} processors"
        lines += ["", f"{what}: do not rely on these figures, least on the rates."]
    for peer, why in outcome.skipped.items():
        lines += ["", f"{PEERS[peer].title} was not measured: {why}"]
    for label, why in outcome.failed.items():
        lines += ["", f"{label} failed: {why}"]
    return "\n".join(lines).strip() + "\n"


def _place(figure: Figure) -> tuple[bool, int, int]:
    cell = figure.cell
    fixed = bool(PEERS[cell.peer].outstanding)
    return fixed, cell.outstanding, list(PEERS).index(cell.peer)


def _row(figure: Figure, found: Figures) -> str:
    cell = figure.cell
    limit = reference(found, cell.work, cell.outstanding)
    cells = [
        PEERS[cell.peer].title,
        f"{cell.outstanding}",
        short(figure.per_second),
        short(figure.per_second / limit.per_second) if limit else "",
        short(figure.p50_ms),
        short(figure.p99_ms),
        *(short(figure.cpu[role]) if role in figure.cpu else "" for role in ROLES),
        short(figure.all_cpu),
        short(figure.switches),
        f"{figure.others:.1f}",
    ]
    return f"| {' | '.join(cells)} |"


def short(value: float) -> str:
    """Return three digits that count; all those before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"

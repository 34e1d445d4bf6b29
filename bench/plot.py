"""The three models as a picture: an SVG, written by hand, without a library."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from html import escape
from math import log10
from typing import NamedTuple

from bench.figures import Figure, Figures
from bench.works import WORKS

WIDTH, PLOT, HEIGHT = 980, 228, 150
LEFT, TOP, ACROSS, DOWN = 84, 112, 302, 206
STEPS = (1, 2, 5)
PIECES = {
    name: work
    for name, work in WORKS.items()
    if not work.size and name != "pipelined"  # which is not what the models are about
}
CLIENTS = (1, 8, 64)


class Line(NamedTuple):
    """How a model is drawn; the larger size of each is dashed."""

    title: str
    colour: str
    larger: bool


LINES = {
    f"{name}-{size}" if name != "falconas" or size == 4 else name: Line(
        title.format(size), colour, size in {4, 40}
    )
    for name, sizes, title, colour in (
        ("threads", (10, 40), "threads + NodePool: {} connections", "#5a8f29"),
        ("fastapi", (10, 40), "FastAPI + psycopg_pool: {} connections", "#d9730d"),
        ("falconas", (2, 4), "FalconAS: {} workers", "#0b6bcb"),
    )
    for size in sizes
}


class Row(NamedTuple):
    """What one row of the grid shows, and whether its scale is logarithmic."""

    title: str
    value: Callable[[Figure], float]
    logarithmic: bool


ROWS = (
    Row("requests/s", lambda f: f.per_second, False),
    Row("p99, ms", lambda f: f.p99_ms, True),
    Row("server CPU, µs a request", lambda f: f.server_cpu, False),
)


class Scale(NamedTuple):
    """From values to the height in a panel."""

    low: float
    high: float
    ticks: list[float]
    logarithmic: bool

    def y(self, value: float) -> float:
        """Return the distance from the panel's top."""
        if self.logarithmic:
            part = log10(value / self.low) / log10(self.high / self.low)
        else:
            part = value / self.high
        return HEIGHT * (1 - part)


def svg(figures: Figures) -> str:
    """Draw a grid: a column for each piece of work, a row for each figure."""
    height = TOP + DOWN * len(ROWS) - 6
    size = f'width="{WIDTH}" height="{height}"'
    font = 'font-family="sans-serif" font-size="12"'
    box = f'viewBox="0 0 {WIDTH} {height}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} {font} {box}>',
        f'<rect {size} fill="#fff"/>',
        *_legend(),
    ]
    for column, (piece, work) in enumerate(PIECES.items()):
        left = LEFT + ACROSS * column
        lines.append(text(left + PLOT / 2, TOP - 18, work.title, "middle", bold=True))
        for number, row in enumerate(ROWS):
            mine = [f for cell, f in figures.items() if cell.work == piece]
            top = TOP + DOWN * number
            lines += [f'<g transform="translate({left} {top})">', *_panel(row, mine)]
            if not column:
                x, y = 14 - LEFT, HEIGHT / 2
                turned = f' transform="rotate(-90 {x} {y})"'
                lines.append(text(x, y, row.title, "middle", more=turned))
            lines.append("</g>")
    return "\n".join([*lines, "</svg>"]) + "\n"


def _legend() -> Iterator[str]:
    for number, line in enumerate(LINES.values()):
        x, y = LEFT + ACROSS * (number // 2), 24 + 20 * (number % 2)
        yield _line([(x, y - 4), (x + 34, y - 4)], line)
        yield text(x + 42, y, line.title, "start")
    note = "across: clients, each with one request at a time"
    yield text(LEFT, 68, note, "start", more=' fill="#555"')


def _panel(row: Row, figures: list[Figure]) -> Iterator[str]:
    scale = _scale([row.value(f) for f in figures], logarithmic=row.logarithmic)
    for tick in scale.ticks:
        y = round(scale.y(tick), 1)
        yield f'<path d="M0 {y}H{PLOT}" stroke="#ddd"/>'
        yield text(-8, y + 4, f"{tick:,.10g}", "end")
    xs = {count: 24 + 90 * number for number, count in enumerate(CLIENTS)}
    for count, x in xs.items():
        yield text(x, HEIGHT + 18, f"{count}", "middle")
    for peer, line in LINES.items():
        points = [
            (float(xs[f.cell.outstanding]), round(scale.y(row.value(f)), 1))
            for f in figures
            if f.cell.peer == peer
        ]
        yield _line(points, line)


def _scale(values: list[float], *, logarithmic: bool) -> Scale:
    """Choose round ends and ticks."""
    if logarithmic:
        powers = range(int(log10(min(values)) // 1), int(log10(max(values)) // 1) + 2)
        ticks = [10.0**power for power in powers]
        return Scale(ticks[0], ticks[-1], ticks, logarithmic)
    rough = max(values) / 4
    power = 10.0 ** (log10(rough) // 1)
    step = next((s * power for s in STEPS if s * power >= rough), 10 * power)
    ticks = [step * number for number in range(int(-(-max(values) // step)) + 1)]
    return Scale(0.0, ticks[-1], ticks, logarithmic)


def _line(points: list[tuple[float, float]], line: Line) -> str:
    """Draw a line with a mark at each point."""
    colour = line.colour
    dashes = ' stroke-dasharray="5 4"' if line.larger else ""
    way = " ".join(f"{x},{y}" for x, y in points)
    fill = "#fff" if line.larger else colour
    return (
        f'<polyline points="{way}" fill="none" stroke="{colour}"'
        f' stroke-width="2"{dashes}/>'
    ) + "".join(
        f'<circle cx="{x}" cy="{y}" r="3.5" fill="{fill}" stroke="{colour}"'
        ' stroke-width="1.5"/>'
        for x, y in points
    )


def text(
    x: float, y: float, words: str, anchor: str, *, bold: bool = False, more: str = ""
) -> str:
    """Return a text at a place."""
    weight = ' font-weight="bold"' if bold else ""
    return (
        f'<text x="{x}" y="{y}" text-anchor="{anchor}"{weight}{more}>'
        f"{escape(words)}</text>"
    )

"""The three models as a picture: an SVG, written by hand, without a library."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from html import escape
from math import log10
from typing import NamedTuple

from bench.models import CLIENTS, MODELS, TITLES, Figure

COLOURS = {"FalconAS": "#0b6bcb", "FastAPI": "#d9730d", "threads": "#5a8f29"}
WIDTH, PLOT, HEIGHT = 980, 228, 150
LEFT, TOP, ACROSS, DOWN = 84, 112, 302, 206
STEPS = (1, 2, 5)
WAYS = {
    "threads": "threads + NodePool: {} connections",
    "FastAPI": "FastAPI + psycopg_pool: {} connections",
    "FalconAS": "FalconAS: {} workers",
}


class Row(NamedTuple):
    """What one row of the grid shows, and whether its scale is logarithmic."""

    title: str
    value: Callable[[Figure], float]
    logarithmic: bool


ROWS = (
    Row("requests/s", lambda f: f.per_second, False),
    Row("p99, ms", lambda f: f.p99_ms, True),
    Row("server CPU, µs a request", lambda f: f.server_us, False),
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


def svg(figures: list[Figure]) -> str:
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
    for column, (piece, title) in enumerate(TITLES.items()):
        left = LEFT + ACROSS * column
        lines.append(_text(left + PLOT / 2, TOP - 18, title, "middle", bold=True))
        for number, row in enumerate(ROWS):
            mine = [figure for figure in figures if figure.piece == piece]
            top = TOP + DOWN * number
            lines += [f'<g transform="translate({left} {top})">', *_panel(row, mine)]
            if not column:
                x, y = 14 - LEFT, HEIGHT / 2
                turned = f' transform="rotate(-90 {x} {y})"'
                lines.append(_text(x, y, row.title, "middle", more=turned))
            lines.append("</g>")
    return "\n".join([*lines, "</svg>"]) + "\n"


def _legend() -> Iterator[str]:
    for number, (model, size) in enumerate(MODELS):
        x, y = LEFT + ACROSS * (number // 2), 24 + 20 * (number % 2)
        yield _line([(x, y - 4), (x + 34, y - 4)], model, size)
        yield _text(x + 42, y, WAYS[model].format(size), "start")
    note = "across: clients, each with one request at a time"
    yield _text(LEFT, 68, note, "start", more=' fill="#555"')


def _panel(row: Row, figures: list[Figure]) -> Iterator[str]:
    scale = _scale([row.value(f) for f in figures], logarithmic=row.logarithmic)
    for tick in scale.ticks:
        y = round(scale.y(tick), 1)
        yield f'<path d="M0 {y}H{PLOT}" stroke="#ddd"/>'
        yield _text(-8, y + 4, f"{tick:,.10g}", "end")
    xs = {count: 24 + 90 * number for number, count in enumerate(CLIENTS)}
    for count, x in xs.items():
        yield _text(x, HEIGHT + 18, f"{count}", "middle")
    for model, size in MODELS:
        points = [
            (float(xs[f.clients]), round(scale.y(row.value(f)), 1))
            for f in figures
            if (f.model, f.size) == (model, size)
        ]
        yield _line(points, model, size)


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


def _line(points: list[tuple[float, float]], model: str, size: int) -> str:
    """Draw a line with a mark at each point; the larger size of a model is dashed."""
    colour = COLOURS[model]
    larger = size == max(s for name, s in MODELS if name == model)
    dashes = ' stroke-dasharray="5 4"' if larger else ""
    way = " ".join(f"{x},{y}" for x, y in points)
    fill = "#fff" if larger else colour
    return (
        f'<polyline points="{way}" fill="none" stroke="{colour}"'
        f' stroke-width="2"{dashes}/>'
    ) + "".join(
        f'<circle cx="{x}" cy="{y}" r="3.5" fill="{fill}" stroke="{colour}"'
        ' stroke-width="1.5"/>'
        for x, y in points
    )


def _text(
    x: float, y: float, text: str, anchor: str, *, bold: bool = False, more: str = ""
) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return (
        f'<text x="{x}" y="{y}" text-anchor="{anchor}"{weight}{more}>'
        f"{escape(text)}</text>"
    )

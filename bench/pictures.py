"""The peers as a picture: bars of rates, a panel for each kind of request."""

from __future__ import annotations

from collections.abc import Iterator

from bench.figures import Figure, Figures, short
from bench.peers import PEERS
from bench.plot import text
from bench.works import WORKS

WIDTH, LABELS, BAR, STEP = 1040, 350, 560, 19
OURS, OTHERS = "#0b6bcb", "#9aa5b1"


def svg(found: Figures) -> str:
    """Draw the rate of each peer where most requests are on their way."""
    lines, y = [], 0
    for name, work in WORKS.items():
        rows = [
            figure
            for cell, figure in found.items()
            if cell.work == name
            and cell.outstanding
            in (PEERS[cell.peer].outstanding or work.outstanding[-1:])
        ]
        if rows:
            rows.sort(key=lambda figure: -figure.per_second)
            title = (
                f"{work.title}: requests/s, p99 ms; {work.outstanding[-1]} outstanding"
            )
            lines.append(text(12, y + 24, title, "start", bold=True))
            lines += _panel(rows, y + 34)
            y += 48 + STEP * len(rows)
    size = f'width="{WIDTH}" height="{y + 8}"'
    box = f'viewBox="0 0 {WIDTH} {y + 8}"'
    font = 'font-family="sans-serif" font-size="12"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} {font} {box}>'
    return "\n".join([head, f'<rect {size} fill="#fff"/>', *lines, "</svg>"]) + "\n"


def _panel(rows: list[Figure], top: int) -> Iterator[str]:
    most = rows[0].per_second
    for number, figure in enumerate(rows):
        y = top + STEP * number
        peer = figure.cell.peer
        colour = OURS if peer.startswith("falconas") else OTHERS
        width = round(BAR * figure.per_second / most, 1)
        yield text(LABELS - 8, y + 12, PEERS[peer].title, "end")
        yield (
            f'<rect x="{LABELS}" y="{y}" width="{width}" height="{STEP - 4}"'
            f' fill="{colour}"/>'
        )
        label = f"{short(figure.per_second)}; {short(figure.p99_ms)}"
        yield text(LABELS + width + 6, y + 12, label, "start")

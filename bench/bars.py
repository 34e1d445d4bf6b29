"""The bars that FalconAS is held to, by ratios within one run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from bench.compare import Cell
from bench.figures import Figure, Figures, short
from bench.peers import OTHER_SIZES, PEERS

OURS = ("falconas", "falconas-raw")
HEAD = "| bar | wanted | stretch | our client | raw DEALER | by CPU | |"
RULE = "|---|---:|---:|---:|---:|---:|---|"
ALL = "all"  # every other peer that has as many requests on their way


class Measure(NamedTuple):
    """What is compared; of some less is better."""

    title: str
    value: Callable[[Figure], float]
    less: bool = False


RATE = Measure("requests/s", lambda f: f.per_second)
BROKER = Measure("broker CPU", lambda f: f.cpu["broker"], less=True)
P50 = Measure("p50", lambda f: f.p50_ms, less=True)
P99 = Measure("p99", lambda f: f.p99_ms, less=True)


class Bar(NamedTuple):
    """What is wanted: ours divided by a peer's.

    The ratio that counts is that of the same load: the bare DEALER's beside
    `zmq.proxy`, our client's beside all others.
    """

    measure: Measure
    work: str
    outstanding: int
    peer: str
    wanted: float | None
    stretch: float | None = None


# What is usual, and the least that can be done without a broker.
THREADS = ("fastapi-40", "uvicorn")
ASYNCPG = ("fastapi-asyncpg-2", "asyncpg-2")
# As many processes as FalconAS has workers: told, though no bar asks for it.
TWO = "uvicorn-2"

BARS = (
    Bar(RATE, "echo", 64, "proxy", 0.5, 0.85),
    Bar(RATE, "echo", 64, "nats", 1.8),
    Bar(BROKER, "echo", 64, "proxy", 3.0, 1.5),
    Bar(BROKER, "echo", 64, "nats", 1.0),
    Bar(P50, "echo", 1, "proxy", 1.25, 1.05),
    Bar(RATE, "echo_1m", 16, "proxy", 0.9, 1.0),
    Bar(RATE, "one_row", 64, "direct-reset", 0.6, 0.85),
    *(Bar(RATE, "one_row", 64, peer, 3.5, 6.0) for peer in THREADS),
    *(Bar(RATE, "one_row", 64, peer, 1.5) for peer in ASYNCPG),
    Bar(RATE, "one_row", 64, TWO, None),
    Bar(RATE, "one_row", 64, "nats", None, 1.0),
    *(Bar(RATE, "gathered", 64, peer, 2.5) for peer in THREADS),
    *(Bar(RATE, "gathered", 64, peer, 1.1) for peer in ASYNCPG),
    Bar(RATE, "gathered", 64, TWO, None),
    Bar(RATE, "gathered", 64, "direct-reset", None, 0.9),
    *(Bar(RATE, "pipelined", 64, peer, None) for peer in (*THREADS, *ASYNCPG)),
    *(Bar(RATE, "aggregated", 64, peer, 1.5) for peer in THREADS),
    *(Bar(RATE, "aggregated", 64, peer, None) for peer in (TWO, ASYNCPG[0], "nats")),
    Bar(RATE, "aggregated", 64, "direct-reset", None, 0.95),
    Bar(P99, "one_row", 64, ALL, 1.0, 0.5),
)


def theirs(bar: Bar) -> list[Cell]:
    """Return what ours is compared with."""
    if bar.peer != ALL:
        fixed = PEERS[bar.peer].outstanding if bar.peer in PEERS else ()
        return [Cell(bar.peer, bar.work, (fixed or (bar.outstanding,))[0])]
    return [
        Cell(name, bar.work, bar.outstanding)
        for name, peer in PEERS.items()
        if bar.work in peer.works
        and not peer.outstanding
        and name not in OTHER_SIZES
        and not name.startswith("falconas")
    ]


def cells() -> list[Cell]:
    """Return what has to be measured for all bars."""
    wanted: dict[Cell, None] = {}
    for bar in BARS:
        mine = [Cell(name, bar.work, bar.outstanding) for name in OURS]
        for cell in [*mine, *theirs(bar)]:
            if cell.peer in PEERS and cell.work in PEERS[cell.peer].works:
                wanted[cell] = None
    return sorted(wanted, key=lambda cell: (cell[1:], list(PEERS).index(cell.peer)))


def ratio(bar: Bar, found: Figures, ours: str) -> float | None:
    """Return ours divided by the peer's, or by the best peer's; None if unknown."""
    mine = found.get(Cell(ours, bar.work, bar.outstanding))
    others = [found[cell] for cell in theirs(bar) if cell in found]
    if mine is None or not others:
        return None
    values = [bar.measure.value(each) for each in others]
    best = min(values) if bar.measure.less else max(values)
    return bar.measure.value(mine) / best


def rows(found: Figures) -> Iterator[list[str]]:
    """Return a row for each bar that can be told."""
    for bar in BARS:
        ratios = [ratio(bar, found, ours) for ours in OURS]
        counts = ratios[bar.peer == "proxy"]
        if counts is None:
            continue
        sign = "≤" if bar.measure.less else "≥"
        against = "the best peer" if bar.peer == ALL else PEERS[bar.peer].title
        yield [
            f"{bar.work} @{bar.outstanding}, {bar.measure.title} / {against}",
            *("" if n is None else f"{sign} {n:g}" for n in (bar.wanted, bar.stretch)),
            *("" if each is None else short(each) for each in ratios),
            by_cpu(bar, found),
            verdict(bar, counts),
        ]


def by_cpu(bar: Bar, found: Figures) -> str:
    """Return the ratio of rates that follows if both have all processors to themselves.

    What others on the machine do spoils the rates more than this.
    """
    mine = found.get(Cell(OURS[bar.peer == "proxy"], bar.work, bar.outstanding))
    other = found.get(theirs(bar)[0])
    if bar.measure is not RATE or mine is None or other is None:
        return ""
    return short(other.all_cpu / mine.all_cpu)


def verdict(bar: Bar, value: float) -> str:
    """Say whether the bar is met."""

    def meets(limit: float | None) -> bool:
        if limit is None:
            return False
        return value <= limit if bar.measure.less else value >= limit

    if meets(bar.stretch):
        return "met, stretch too"
    if bar.wanted is None:
        return "stretch not met" if bar.stretch is not None else "nothing is wanted"
    return "met" if meets(bar.wanted) else "**not met**"


def markdown(found: Figures) -> str:
    """Return the table of the bars."""
    lines = [f"| {' | '.join(row)} |" for row in rows(found)]
    return "\n".join([HEAD, RULE, *lines]) + "\n" if lines else ""

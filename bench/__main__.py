"""`python -m bench [PART ...]`: measure, print tables, keep single figures."""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from bench import bars, compare, figures, growth, memory, pictures, plot, respawn, tail
from bench.peers import MODELS, PEERS
from bench.stack import ROOT
from bench.works import WORKS
from falconas.cli.table import render

FIGURES = Path(".falconas/bench")
DRAWN = {
    "models": plot.svg,
    "peers": pictures.svg,
    "full": pictures.svg,
    "some": pictures.svg,
}
PAGES = {"performance.md": ("models", "peers"), "performance-all.md": ("full",)}
WIDTH = 100
LEGEND = """\
Medians of the rounds. ratio: to zmq.proxy for echoes, else to two direct psycopg
loops with reset, if they were measured; CPU: microseconds for each request, by role;
switches: of all processes, for each request; others: processors that were used by
what does not belong to it.
"""


def show_peers(options: argparse.Namespace) -> None:
    chosen = options.peers or options.works or options.outstanding
    if chosen or options.full:
        cells = compare.grid(
            options.peers or PEERS, options.works or WORKS, options.outstanding or ()
        )
    else:
        cells = bars.cells()
    # What was chosen by name is not published by mistake.
    name = "some" if chosen else "full" if options.full else "peers"
    outcome = measured(cells, options, FIGURES / f"{name}.json")
    print(figures.markdown(outcome))
    print(LEGEND)
    print(bars.markdown(figures.figures(outcome.samples)))


def measured(
    cells: list[compare.Cell], options: argparse.Namespace, path: Path
) -> compare.Outcome:
    """Measure, and keep the single figures."""
    if not cells or options.rounds < 1:
        sys.exit("nothing to measure: no round, or no such work of such a peer")
    times = compare.Times(options.warm, options.seconds, options.rounds)
    outcome = compare.run(cells, times, options.nice)
    compare.save(outcome, path)
    picture = path.with_suffix(".svg")
    picture.write_text(DRAWN[path.stem](figures.figures(outcome.samples)))
    print(f"single figures: {path}, picture: {picture}\n")
    return outcome


def show_respawn(_: argparse.Namespace) -> None:
    print(render(respawn.table(respawn.run()), WIDTH))


def show_memory(_: argparse.Namespace) -> None:
    print(render(memory.run(), WIDTH))


def show_models(options: argparse.Namespace) -> None:
    cells = compare.grid(MODELS, list(plot.PIECES))
    outcome = measured(cells, options, FIGURES / "models.json")
    print(figures.markdown(outcome))


def show_growth(_: argparse.Namespace) -> None:
    found = growth.run()
    print(render(growth.table(found), WIDTH + 30))
    growth.save(found, FIGURES / "growth.json")


def show_tail(options: argparse.Namespace) -> None:
    print(render(tail.table(tail.run(options.rounds)), WIDTH + 10))


def block(name: str) -> re.Pattern[str]:
    """Return what finds the place of some figures in the document."""
    return re.compile(f"<!-- {name} -->\n.*?<!-- end -->", re.DOTALL)


def publish(_: argparse.Namespace) -> None:
    """Put the kept figures into the documents."""
    for page, names in PAGES.items():
        publish_on(ROOT / "docs" / page, names)


def publish_on(page: Path, names: Iterable[str]) -> None:
    """Put the figures that were kept under these names on one page."""
    text = page.read_text()
    for name in names:
        kept = FIGURES / f"{name}.json"
        if kept.exists():
            outcome = compare.load(kept)
            found = figures.figures(outcome.samples)
            text = put(text, name, figures.markdown(outcome))
            if name != "full":
                (ROOT / f"docs/{name}.svg").write_text(DRAWN[name](found))
            if name == "peers":
                text = put(text, "bars", bars.markdown(found))
    page.write_text(text)


def put(text: str, name: str, figures: str) -> str:
    """Replace some figures in a document."""
    complete = f"<!-- {name} -->\n\n{figures}\n<!-- end -->"
    text, count = block(name).subn(lambda _: complete, text)
    assert count == 1, f"the document has no place for {name}"
    return text


PARTS: dict[str, Callable[[argparse.Namespace], None]] = {
    "peers": show_peers,
    "respawn": show_respawn,
    "memory": show_memory,
    "models": show_models,
    "growth": show_growth,
    "tail": show_tail,
    "publish": publish,
}


HELP = {
    "peers": "the bars, 5 minutes",
    "respawn": "how soon a killed worker is replaced",
    "memory": "what a worker holds",
    "models": "threads, FastAPI and FalconAS, 6 minutes",
    "growth": "more workers, clients, requests, scripts, 12 minutes",
    "tail": "does it pay for work ahead",
    "publish": "put the figures that were kept into docs/performance*.md",
}
OUTSTANDING = {str(n): n for work in WORKS.values() for n in work.outstanding}


def among(names: dict[str, object]) -> Callable[[str], list[str]]:
    """Return what reads a list of names."""

    def read(text: str) -> list[str]:
        found = text.split(",")
        unknown = [name for name in found if name not in names]
        if unknown:
            raise argparse.ArgumentTypeError(
                f"no {', '.join(unknown)}; there are {', '.join(names)}"
            )
        return found

    return read


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        "python -m bench",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        epilog="What a call costs its client: python -m bench.client; what a request"
        " costs beside psycopg alone: python -m bench.session.",
    )
    made.add_argument(
        "parts",
        nargs="*",
        metavar="PART",
        help="; ".join(f"{name}: {text}" for name, text in HELP.items()),
    )
    made.add_argument(
        "--full", action="store_true", help="all peers and works, 25 minutes"
    )
    made.add_argument(
        "--peers", type=among({**PEERS}), help="some: " + ", ".join(PEERS)
    )
    made.add_argument(
        "--works",
        type=among({**WORKS}),
        help="what is asked for, some: "
        + "; ".join(f"{name}: {work.title}" for name, work in WORKS.items()),
    )
    made.add_argument(
        "--outstanding",
        type=lambda text: [int(each) for each in among({**OUTSTANDING})(text)],
        help="some of " + ", ".join(OUTSTANDING),
    )
    rounds = int(os.environ.get("ROUNDS") or 3)
    made.add_argument("--rounds", type=int, default=rounds, help="of each")
    made.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    made.add_argument("--warm", type=float, default=0.3, help="seconds before each")
    made.add_argument(
        "--nice",
        type=int,
        default=0,
        help="as root on a busy machine, -15: precedence over what else runs",
    )
    return made


def main() -> None:
    options = parser().parse_args()
    parts = options.parts or ["peers"]
    unknown = [name for name in parts if name not in PARTS]
    if unknown:
        sys.exit(f"no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends what was started
    for name in parts:
        print(f"{name}\n")
        PARTS[name](options)
        print()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)

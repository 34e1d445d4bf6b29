"""What the benchmark makes of its samples, and what it holds them to."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from bench import bars, compare, growth, pictures, plot, spent
from bench.__main__ import block, parser
from bench.compare import Cell, Sample, Times, grid
from bench.figures import figures, markdown
from bench.job import Job, Tally
from bench.peers import MODELS, PEERS
from bench.peers.base import Peer, Running
from bench.pieces import row, spread
from bench.stack import ROOT
from bench.works import DATABASE, WORKS, Mismatch, check, payload

CPU = {"broker": 0.02, "workers": 0.03, "client": 0.01, "database": 0.04}


def sample(cell: Cell, requests: int = 100, **more: Any) -> Sample:
    values: dict[str, Any] = {
        "requests": requests,
        "seconds": 1.0,
        "p50_ms": 1.0,
        "p99_ms": 10.0,
        "cpu": CPU,
        "switches": {"broker": 200},
        "others": 0.5,
    }
    return Sample(*cell, **{**values, **more})


def outcome(*samples: Sample) -> compare.Outcome:
    return compare.Outcome(list(samples), {}, {})


class TestPlan:
    def test_a_peer_is_asked_only_for_what_it_can(self) -> None:
        cells = grid()

        assert {cell.peer for cell in cells} == set(PEERS)
        assert all(cell.work in PEERS[cell.peer].works for cell in cells)

    def test_each_cell_is_measured_once_a_round(self) -> None:
        cells = grid()

        assert len(set(cells)) == len(cells)

    def test_a_peer_with_a_number_of_its_own_is_measured_once_for_each_work(
        self,
    ) -> None:
        cells = grid(["direct"], ["one_row"], [8, 64])

        assert cells == [Cell("direct", "one_row", 2)]

    def test_peers_take_turns(self) -> None:
        cells = grid(["falconas", "proxy"], ["echo"], [64])

        assert [cell.peer for cell in cells] == ["falconas", "proxy"]

    def test_everything_that_a_bar_needs_is_measured(self) -> None:
        cells = bars.cells()

        assert len(set(cells)) == len(cells)
        for bar in bars.BARS:
            assert set(bars.theirs(bar)) <= set(cells)
            assert Cell("falconas", bar.work, bar.outstanding) in cells

    def test_the_command_line_knows_the_peers(self) -> None:
        options = parser().parse_args(["--peers", "falconas,proxy", "--rounds", "1"])

        assert (options.peers, options.rounds) == (["falconas", "proxy"], 1)
        with pytest.raises(SystemExit):
            parser().parse_args(["--peers", "nobody"])


class TestFigures:
    CELL = Cell("falconas", "echo", 64)

    def test_the_median_of_the_rounds_counts(self) -> None:
        samples = [sample(self.CELL, count) for count in (100, 400, 200)]
        figure = figures(samples)[self.CELL]

        assert figure.per_second == 200
        assert figure.cpu["broker"] == pytest.approx(100)
        assert figure.all_cpu == pytest.approx(500)
        assert figure.switches == 1

    def test_a_row_names_the_ratio_to_the_reference(self) -> None:
        other = sample(Cell("proxy", "echo", 64), 400, cpu={"broker": 0.02})
        text = markdown(outcome(sample(self.CELL), other))

        assert (
            "| FalconAS | 64 | 100 | 0.25 | 1 | 10"
            " | 200 | 300 | 100 | 400 | 1,000 | 2 | 0.5 |" in text
        )

    def test_what_was_not_measured_is_said(self) -> None:
        said = compare.Outcome([], {"gearman": "no gearmand"}, {"nats echo @1": "lost"})
        text = markdown(said)

        assert f"{PEERS['gearman'].title} was not measured: no gearmand" in text
        assert "nats echo @1 failed: lost" in text

    def test_single_figures_are_kept(self, tmp_path: Path) -> None:
        path = tmp_path / "new" / "peers.json"
        kept = outcome(sample(self.CELL))
        compare.save(kept, path)

        assert compare.load(path) == kept


class TestBars:
    def test_beside_the_proxy_the_same_load_counts(self) -> None:
        ours, raw, proxy = (
            sample(Cell(peer, "echo", 64), count)
            for peer, count in (("falconas", 10), ("falconas-raw", 60), ("proxy", 100))
        )
        rate, *_ = bars.rows(figures([ours, raw, proxy]))

        assert rate[1:] == ["≥ 0.5", "≥ 0.85", "0.1", "0.6", "0.6", "met"]

    def test_less_is_better_of_times(self) -> None:
        def verdict(p99: float) -> str:
            ours = sample(Cell("falconas", "one_row", 64), p99_ms=p99)
            others = [
                sample(Cell(peer, "one_row", 64), p99_ms=theirs)
                for peer, theirs in (("nats", 20.0), ("grpc", 10.0))
            ]
            return [row[-1] for row in bars.rows(figures([ours, *others]))][-1]

        assert [verdict(p99) for p99 in (5.0, 9.0, 11.0)] == [
            "met, stretch too",
            "met",
            "**not met**",
        ]

    def test_without_the_peer_nothing_is_claimed(self) -> None:
        assert bars.markdown(figures([sample(Cell("falconas", "echo", 64))])) == ""


class TestChecks:
    def test_an_answer_to_another_request_is_refused(self) -> None:
        keys = spread(3)
        right: dict[str, Any] = {
            "one_row": row(3),
            "gathered": [{"id": key} for key in keys[:-1]] + [row(keys[-1])],
            "pipelined": [{"id": key} for key in keys[:-1]] + [row(keys[-1])],
            "aggregated": {"a": [4_000, 1, 1.0], "b": [6_000, 1, 1.0]},
        }
        wrong: dict[str, Any] = {
            "one_row": row(4),
            "gathered": right["gathered"][:-1],
            "pipelined": [*right["gathered"][:-1], row(4)],
            "aggregated": {"a": [9_999, 1, 1.0]},
        }
        assert right.keys() == DATABASE
        for work in DATABASE:
            check(work, 3, right[work])
            with pytest.raises(Mismatch):
                check(work, 3, wrong[work])

    def test_echoes_are_as_long_as_they_say_and_differ(self) -> None:
        for name, work in WORKS.items():
            if work.size:
                assert len(payload(name, 1)) == work.size
                assert payload(name, 1) != payload(name, 2)

    def test_what_ended_outside_the_time_does_not_count(self) -> None:
        tally = Tally()
        for begun, ended in ((0.0, 0.9), (0.9, 1.0), (1.0, 1.5), (1.5, 2.0)):
            tally.add(begun, ended)
        found = tally.figures(1.0, 2.0)

        assert (found["requests"], found["p99_ms"]) == (2, 500.0)
        with pytest.raises(Mismatch):
            tally.figures(3.0, 4.0)


class Liar(Peer):
    """Answers with what nobody asked for."""

    title = "liar"

    async def connect(self, _: str, count: int, __: AsyncExitStack) -> list[Any]:
        async def call(work: str, key: int) -> bytes:
            return payload(work, key + 1)

        return [call] * count


def test_a_wrong_answer_ends_the_load() -> None:
    pytest.importorskip("uvloop")
    with pytest.raises(ExceptionGroup) as caught:
        Liar().load(Job("", "echo", 2, 0.0, 0.1))

    assert caught.group_contains(Mismatch)


class TestMeasuring:
    def test_a_peer_that_is_missing_is_skipped_with_the_reason(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(PEERS["nats"], "missing", lambda: "no nats-server")
        with ExitStack() as stack, pytest.raises(RuntimeError, match="no nats-server"):
            compare.start("nats", tmp_path, "", stack)

    def test_a_load_generator_that_fails_says_why(self) -> None:
        nowhere = Running("nothing-of-this-kind://", {})
        with pytest.raises(RuntimeError, match="ZMQError"):
            compare.measure(
                Cell("proxy", "echo", 1), nowhere, os.getpid(), Times(0.0, 0.1)
            )

    def test_cpu_of_a_process_and_its_descendants_is_seen(self) -> None:
        burn = (
            "import time\nend = time.process_time() + 0.2\n"
            "while time.process_time() < end: pass\nprint()\ninput()"
        )
        shell = f'{sys.executable} -c "{burn}"; exit $?'
        with subprocess.Popen(
            ["/bin/sh", "-c", shell], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process:
            before = spent.read([process.pid])
            assert process.stdout
            process.stdout.readline()
            ran, switched = spent.between(before, spent.read([process.pid]))
            process.communicate(b"\n")

        assert ran >= 0.1
        assert switched > 0

    def test_a_process_that_came_and_went_is_not_forgotten(self) -> None:
        burn = "import time\nwhile time.process_time() < 0.2: pass"
        before = spent.read([os.getpid()])
        subprocess.run([sys.executable, "-c", burn], check=True)
        ran, _ = spent.between(before, spent.read([os.getpid()]))

        assert ran >= 0.15

    def test_a_thread_that_ended_is_not_forgotten(self) -> None:
        go, done = threading.Event(), threading.Event()

        def work() -> None:
            go.wait()
            sum(range(20_000_000))
            done.set()

        thread = threading.Thread(target=work)
        thread.start()
        before = spent.read([os.getpid()])
        go.set()
        done.wait()
        thread.join()
        ran, _ = spent.between(before, spent.read([os.getpid()]))

        assert ran > 0.05


class TestDocuments:
    def test_every_model_is_in_the_picture(self) -> None:
        cells = grid(MODELS, plot.PIECES)
        picture = ET.fromstring(plot.svg(figures(map(sample, cells))))

        marks = [each for each in picture.iter() if each.tag.endswith("circle")]
        assert len(marks) == 3 * len(cells) + 2 * len(MODELS)  # three rows, the legend

    def test_every_peer_is_in_the_picture(self) -> None:
        cells = grid(works=["one_row"], outstanding=[64])
        picture = ET.fromstring(pictures.svg(figures(map(sample, cells))))

        drawn = [each for each in picture.iter() if each.tag.endswith("rect")]
        assert len(drawn) == len(cells) + 1

    def test_there_is_a_place_for_the_figures(self) -> None:
        page = (ROOT / "docs/performance.md").read_text()

        for name in ("bars", "peers", "models"):
            assert len(block(name).findall(page)) == 1


class TestGrowth:
    def test_what_is_bare_is_compared_with_what_is_bare(self) -> None:
        def window(microseconds: float, idle: float = 0.0) -> growth.Window:
            return growth.Window(1.0, 1, (microseconds, 1.0), (idle, 0.0))

        def size(count: int, ours: float, bare: float) -> growth.Figures:
            windows, alone = [window(ours)], [window(bare + 5.0, 5.0)]
            return growth.Figures("clients", count, windows, alone, [1.0], [1.0])

        rows = growth.table([size(10, 79.0, 39.0), size(500, 95.0, 49.0)])

        assert [row["ratio"] for row in rows] == [1.0, 1.2]
        assert [row["bare_us"] for row in rows] == [40.0, 50.0]
        assert [row["bare_ratio"] for row in rows] == [1.0, 1.25]

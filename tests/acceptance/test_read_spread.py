"""Reads over three nodes and twelve workers: by weight, round what is slow or dead."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from falconas.database.cluster import EmbeddedCluster
from tests.acceptance.figures import quantile, show
from tests.acceptance.several import (
    Callers,
    Sample,
    SeveralNodes,
    shares,
    write_scripts,
)

WORKERS = 12
NODES = ("n1", "n2", "n3")
GRACE = 1.0
FULL = pytest.mark.campaign
SCRIPTS = {
    "nap": """
from falconas import script

@script(access="read")
def run(ctx, slow: str = "", seconds: float = 0.0):
    nap = seconds * 10 if ctx.node == slow else seconds
    ctx.db.execute("SELECT pg_sleep(%s)", [nap])
""",
}


@contextmanager
def serving(
    cluster: EmbeddedCluster,
    folder: Path,
    weights: Mapping[str, float],
    placed: Mapping[str, int],
) -> Iterator[SeveralNodes]:
    nodes = {
        name: {"dsn": cluster[name].dsn(), "weight": float(weight)}
        for name, weight in weights.items()
    }
    scripts = write_scripts(folder / "scripts", SCRIPTS)
    with SeveralNodes(folder, scripts, nodes) as stack:
        stack.start_broker()
        stack.start_workers(WORKERS)
        stack.await_placed(**placed)
        yield stack


def counts(samples: Iterable[Sample]) -> Counter[str]:
    return Counter(sample.node for sample in samples)


def times(samples: Iterable[Sample]) -> list[float]:
    return [sample.took for sample in samples]


@pytest.mark.parametrize(
    ("amount", "threads", "weights", "placed"),
    [
        pytest.param(240, 1, (1, 1, 2), (3, 3, 6), id="quick"),
        pytest.param(12_000, 4, (1, 1, 1), (4, 4, 4), id="alike", marks=FULL),
        pytest.param(12_000, 4, (1, 1, 2), (3, 3, 6), id="unlike", marks=FULL),
    ],
)
def test_reads_are_spread_by_weight(
    cluster: EmbeddedCluster,
    tmp_path: Path,
    amount: int,
    threads: int,
    weights: tuple[int, ...],
    placed: tuple[int, ...],
) -> None:
    wanted = dict(zip(NODES, weights, strict=True))
    workers = dict(zip(NODES, placed, strict=True))
    with serving(cluster, tmp_path, wanted, workers) as stack:
        frontend = stack.endpoints["frontend"]
        with Callers(frontend, "nap", threads, lambda: ({}, 30.0)) as callers:
            callers.await_calls(amount)
    assert not [sample for sample in callers.samples if sample.error]
    found = shares(counts(callers.samples))
    for name, weight in wanted.items():
        share = weight / sum(weights)
        assert 0.9 * share <= found[name] <= 1.1 * share, found
    show(f"reads by weight {weights}: {found}", all=times(callers.samples))


@pytest.mark.parametrize(
    "amount",
    [
        pytest.param(200, id="quick"),
        pytest.param(6_000, id="full", marks=FULL),
    ],
)
def test_a_slow_node_gets_less_and_slows_nobody_else(
    cluster: EmbeddedCluster, tmp_path: Path, amount: int
) -> None:
    params: dict[str, Any] = {"slow": "", "seconds": 0.03}
    with serving(
        cluster, tmp_path, dict.fromkeys(NODES, 1), dict.fromkeys(NODES, 4)
    ) as stack:
        frontend = stack.endpoints["frontend"]
        with Callers(frontend, "nap", WORKERS, lambda: (dict(params), 30.0)) as callers:
            callers.await_calls(amount)
            params["slow"] = "n2"
            callers.await_calls(amount)
    samples = callers.samples
    assert not [sample for sample in samples if sample.error]
    before = [sample for sample in samples if not sample.params["slow"]]
    after = [sample for sample in samples if sample.params["slow"]]
    found = shares(counts(after))
    # A tenth as many would be 1/21 instead of 1/3; on busy cores all are slow.
    assert 0 < found["n2"] < 0.2, found
    show(
        f"n2 ten times slower: {shares(counts(before))}, then {found}",
        before=times(s for s in before if s.node != "n2"),
        others=times(s for s in after if s.node != "n2"),
        slow=times(s for s in after if s.node == "n2"),
    )


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(["n3"], id="quick"),
        # Each time a node returns, it has to prove itself for twice as long.
        pytest.param(["n3", "n2"] * 3, id="full", marks=FULL),
    ],
)
def test_a_node_that_stands_still_lets_nobody_hang(
    cluster: EmbeddedCluster, tmp_path: Path, names: list[str]
) -> None:
    everywhere = dict.fromkeys(NODES, 4)
    dice = random.Random(1)
    # Some give up before the node is found out, the others are served elsewhere.
    budgets = [1.5, 15.0]
    normal, healed = [], []
    with serving(cluster, tmp_path, dict.fromkeys(NODES, 1), everywhere) as stack:

        def request() -> tuple[dict[str, Any], float]:
            return {"seconds": 0.005}, dice.choice(budgets)

        with Callers(stack.endpoints["frontend"], "nap", WORKERS, request) as callers:
            for name in names:
                first = len(callers.samples)
                callers.await_calls(200)
                usual = quantile(times(callers.samples[first:]), 0.99)
                paused = monotonic()
                cluster[name].pause()
                stack.await_placed(**{n: 6 * (n != name) for n in NODES})
                callers.await_calls(200)
                normal.append(usual)
                healed.append(_healed(callers.samples, paused, usual) - paused)
                cluster[name].resume()
                if len(names) > 1:
                    stack.await_placed(**everywhere)
    late = [s for s in callers.samples if s.took > s.budget + GRACE]
    assert not late
    errors = Counter(repr(s.error) for s in callers.samples if s.error)
    patient = [s for s in callers.samples if s.error and s.budget == max(budgets)]
    assert not patient, "reads are served elsewhere as long as there is time"
    what = f"{len(names)} times a node stood still, {len(callers.samples)} reads"
    show(f"{what}, none late, {dict(errors)}", usual=normal, healed=healed)


def _healed(samples: list[Sample], since: float, usual: float) -> float:
    """Return when the last call ended that took unusually long."""
    bound = max(3 * usual, usual + 0.1)
    slow = [s.ended for s in list(samples) if s.ended > since and s.took > bound]
    return max(slow, default=since)

"""What the benchmark of the models makes of its samples, and where that is put."""

from __future__ import annotations

from itertools import product
from xml.etree import ElementTree as ET

import pytest

from bench.__main__ import block
from bench.models import CLIENTS, MODELS, SECONDS, Sample, figures, markdown
from bench.plot import svg
from bench.stack import ROOT

CELLS = list(product(SECONDS, CLIENTS, MODELS))


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    """Two rounds: 100 requests in one second, then 300."""
    return [
        Sample(*model, piece, clients, 1.0, 0.04, 0.02, 0.01, [0.001 * clients] * count)
        for count in (100, 300)
        for piece, clients, model in CELLS
    ]


def test_rounds_are_put_together(samples: list[Sample]) -> None:
    found = figures(samples)

    assert [(f.piece, f.clients, (f.model, f.size)) for f in found] == CELLS
    assert {f.per_second for f in found} == {200.0}
    assert {round(f.server_us) for f in found} == {200}
    assert {(f.clients, round(f.p99_ms, 6)) for f in found} == {
        (count, float(count)) for count in CLIENTS
    }


def test_every_figure_has_its_row(samples: list[Sample]) -> None:
    lines = markdown(figures(samples)).splitlines()
    rows = [line for line in lines if " | " in line and "requests/s" not in line]

    assert len(rows) == len(CELLS)
    assert "| FalconAS, 4 | 8 | 200 | 8 | 8 | 200 | 100 | 50 |" in rows


def test_every_figure_is_in_the_picture(samples: list[Sample]) -> None:
    picture = ET.fromstring(svg(figures(samples)))

    marks = [each for each in picture.iter() if each.tag.endswith("circle")]
    assert len(marks) == 3 * len(CELLS) + 2 * len(MODELS)  # three rows, the legend


def test_the_document_has_a_place_for_them() -> None:
    page = (ROOT / "docs/performance.md").read_text()

    for name in ("bars", "peers", "models"):
        assert len(block(name).findall(page)) == 1

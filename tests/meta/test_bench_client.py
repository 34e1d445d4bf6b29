"""The measurement of the client measures."""

from __future__ import annotations

import pytest

from bench import client


def test_each_way_has_its_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "CALLS", 4 * client.OUTSTANDING)

    figures = client.run(list(client.WAYS), rounds=2)

    assert [figure.way for figure in figures] == 2 * list(client.WAYS)
    assert all(figure.callers > 0 < figure.libzmq for figure in figures)
    assert [figure.way for figure in figures if figure.io > 0] == (
        2 * ["submit", "threads", "single"]
    )
    rows = client.table(figures)
    assert [row["way"] for row in rows] == list(client.WAYS)
    assert all(0 < row["least"] <= row["total"] for row in rows)

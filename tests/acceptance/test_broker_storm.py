"""The broker dies by kill -9 under load; everybody comes back by themselves."""

from __future__ import annotations

from pathlib import Path
from time import monotonic

import pytest

from falconas.errors import Unavailable
from tests.acceptance.stack import Stack, wait_for
from tests.acceptance.storm import History, Load, make_scripts

WORKERS = 4
CLIENTS = 8


@pytest.mark.parametrize(
    "kills",
    [
        pytest.param(2, id="quick"),
        pytest.param(10, id="full", marks=pytest.mark.campaign),
    ],
)
def test_clients_and_workers_survive_the_broker(
    tmp_path: Path, tpch: str, kills: int
) -> None:
    witness = tmp_path / "witness"
    witness.touch()
    history = History(witness, tpch)
    lost_at: list[float] = []
    back_after: list[float] = []
    scripts = make_scripts(tmp_path)
    with Stack(tmp_path, tpch, scripts, FALCONAS_WITNESS=str(witness)) as stack:
        stack.start_broker()
        stack.start_workers(WORKERS)
        stack.await_workers(WORKERS)
        load = Load(history, stack.endpoints["frontend"], CLIENTS, 77 + kills, depth=4)
        with load:
            for _ in range(kills):
                load.await_calls(100)
                assert stack.broker is not None
                stack.broker.kill()
                lost_at.append(monotonic())
                stack.broker.wait()
                stack.start_broker()
                began = monotonic()
                stack.await_workers(WORKERS)
                _await_success(history, began)
                back_after.append(monotonic() - began)
        figures = history.check()
    answered = [
        v.ended - lost
        for v in history.verdicts
        for lost in lost_at
        if v.began < lost < v.ended
    ]
    print(
        f"\nbroker kills {kills}, {dict(figures)}; outstanding at a kill"
        f" {len(answered)}, answered after at most {max(answered):.3f} s;"
        f" all back {max(back_after):.3f} s after the start"
    )
    for verdict in history.verdicts:
        assert verdict.error is None or isinstance(verdict.error, Unavailable)


def _await_success(history: History, since: float) -> None:
    def succeeded() -> bool:
        latest = history.verdicts[-200:]
        return any(v.began > since and v.error is None for v in latest)

    wait_for(succeeded, "a first success")

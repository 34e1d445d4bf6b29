from __future__ import annotations

from typing import Any

import pytest

from falconas.cli.patience import patient


class FakeTimer:
    """A timer whose time has come as soon as it is started."""

    cancelled = 0

    def __init__(self, _: float, notice: Any) -> None:
        self.start = notice

    def cancel(self) -> None:
        type(self).cancelled += 1


class FakeClient:
    def __init__(self, **counters: int) -> None:
        self.counters = counters

    def stats(self) -> dict[str, int]:
        return self.counters


@pytest.mark.parametrize(
    ("counters", "notice"),
    [({}, "waiting for a broker at ipc://x\n"), ({"connected": 1}, "")],
)
def test_it_says_what_it_waits_for(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    counters: dict[str, int],
    notice: str,
) -> None:
    monkeypatch.setattr("falconas.cli.patience.Timer", FakeTimer)
    client: Any = FakeClient(**counters)
    before = FakeTimer.cancelled
    with patient(client, "ipc://x"):
        assert FakeTimer.cancelled == before
    assert FakeTimer.cancelled == before + 1
    assert capsys.readouterr().err == notice

from __future__ import annotations

from typing import Any

import pytest

from falconas.config import Settings, StartError


def test_the_settings_arrive_and_the_exit_code_returns(
    falconas: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    got: list[Settings] = []

    def main(settings: Settings) -> int:
        got.append(settings)
        return 7

    monkeypatch.setattr("falconas.broker.loop.main", main)
    assert (
        falconas("broker", "--frontend", "ipc://f", "--queue-bytes", "1KiB").code == 7
    )
    assert got[0].broker.frontend == "ipc://f"
    assert got[0].broker.queue_bytes == 1024


def test_what_cannot_start_is_code_3(
    falconas: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def main(_: Settings) -> int:
        raise StartError("tcp://127.0.0.1:1 is in use")

    monkeypatch.setattr("falconas.broker.loop.main", main)
    result = falconas("broker")
    assert result == (3, "", "falconas: cannot start: tcp://127.0.0.1:1 is in use\n")

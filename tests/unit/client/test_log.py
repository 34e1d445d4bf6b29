from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

from falconas.client import log

if TYPE_CHECKING:
    import pytest


def test_lines_are_of_the_client(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "falconas.client")
    log.debug("connected to %s", "there")
    log.warning("%d wrong", 2)
    log.failure("failed", ValueError("no"))
    lines = [(r.name, r.levelname, r.getMessage()) for r in caplog.records]
    assert lines == [
        ("falconas.client", "DEBUG", "connected to there"),
        ("falconas.client", "WARNING", "2 wrong"),
        ("falconas.client", "ERROR", "failed"),
    ]
    assert caplog.records[2].exc_info


def test_who_has_no_log_is_told_no_details(monkeypatch: pytest.MonkeyPatch) -> None:
    assert logging
    monkeypatch.delitem(sys.modules, "logging")
    log.debug("connected")
    assert "logging" not in sys.modules

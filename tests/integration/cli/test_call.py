"""Ctrl-C and SIGTERM of `falconas call`, a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from falconas.errors import Cancelled, Started
from falconas.protocol import Cancel, Request
from tests.integration.client.conftest import Broker

PATIENCE = 20.0


@pytest.fixture
def broker() -> Iterator[Broker]:
    broker = Broker()
    yield broker
    broker.stop()


@pytest.fixture
def caller(broker: Broker) -> Iterator[subprocess.Popen[str]]:
    environ = {k: v for k, v in os.environ.items() if not k.startswith("FALCONAS")}
    command = ["call", "echo", "--frontend", broker.endpoint]
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "falconas.cli", *command],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        process.kill()


@pytest.mark.parametrize(
    ("given", "code", "shown"), [(signal.SIGINT, 130, "\n"), (signal.SIGTERM, 143, "")]
)
def test_it_cancels_and_says_what_became_of_it(
    broker: Broker,
    caller: subprocess.Popen[str],
    given: signal.Signals,
    code: int,
    shown: str,
) -> None:
    request, _ = broker.expect(Request)
    caller.send_signal(given)
    cancel, _ = broker.expect(Cancel)
    assert cancel.id == request.id
    broker.refuse(cancel.id, Cancelled(started=Started.YES))
    out, err = caller.communicate(timeout=PATIENCE)
    assert (caller.returncode, out) == (code, "")
    assert err == f"{shown}falconas: interrupted: cancelled; it had started\n"


def test_ctrl_c_does_not_wait_long_for_a_silent_broker(
    broker: Broker, caller: subprocess.Popen[str]
) -> None:
    broker.expect(Request)
    caller.send_signal(signal.SIGINT)
    broker.expect(Cancel)
    _, err = caller.communicate(timeout=PATIENCE)
    assert caller.returncode == 130
    assert "cancelled; whether it had started is not known" in err


def test_a_second_ctrl_c_ends_it_at_once_and_the_cancel_has_left(
    broker: Broker, caller: subprocess.Popen[str]
) -> None:
    broker.expect(Request)
    caller.send_signal(signal.SIGINT)
    broker.expect(Cancel)
    caller.send_signal(signal.SIGINT)
    caller.communicate(timeout=PATIENCE)
    assert caller.returncode == 130

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from math import inf
from pathlib import Path
from time import monotonic_ns

import pytest

from falconas.systemd import Notifier


class Manager:
    """What systemd is to a service: a datagram socket."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address)
        self._socket.setblocking(False)

    def told(self) -> list[str]:
        """Return the messages that have come, each of them as it came."""
        found = []
        try:
            while True:
                found.append(self._socket.recv(4096).decode())
        except BlockingIOError:
            return found

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def address(tmp_path: Path) -> str:
    return str(tmp_path / "notify")


@pytest.fixture
def manager(address: str) -> Iterator[Manager]:
    manager = Manager(address)
    yield manager
    manager.close()


@pytest.fixture
def notifier(manager: Manager, address: str) -> Notifier:
    return Notifier({"NOTIFY_SOCKET": address})


def test_each_message_is_what_sd_notify_describes(
    notifier: Notifier, manager: Manager
) -> None:
    notifier.ready()
    notifier.status("4 workers")
    notifier.stopping()
    notifier.extend(12.5)

    assert manager.told() == [
        "READY=1",
        "STATUS=4 workers",
        "STOPPING=1",
        "EXTEND_TIMEOUT_USEC=12500000",
    ]


def test_a_reload_says_when_it_began(notifier: Notifier, manager: Manager) -> None:
    before = monotonic_ns() // 1000
    notifier.reloading()
    after = monotonic_ns() // 1000

    (message,) = manager.told()
    first, second = message.split("\n")
    assert first == "RELOADING=1"
    name, _, moment = second.partition("=")
    assert name == "MONOTONIC_USEC"
    assert before <= int(moment) <= after


def test_ready_may_carry_a_status(notifier: Notifier, manager: Manager) -> None:
    notifier.ready("serving")

    assert manager.told() == ["READY=1\nSTATUS=serving"]


def test_a_status_is_said_when_it_changes(notifier: Notifier, manager: Manager) -> None:
    notifier.ready("serving")
    for text in ("serving", "draining", "draining", "serving"):
        notifier.status(text)

    assert manager.told()[1:] == ["STATUS=draining", "STATUS=serving"]


def test_a_status_cannot_hold_another_assignment(
    notifier: Notifier, manager: Manager
) -> None:
    notifier.status("two\nMAINPID=1\nlines")
    notifier.status("x" * 5000)

    assert manager.told() == ["STATUS=two MAINPID=1 lines", "STATUS=" + "x" * 200]


def test_abstract_sockets_are_reached() -> None:
    name = f"falconas-test-{os.getpid()}"
    manager = Manager(f"\0{name}")
    try:
        Notifier({"NOTIFY_SOCKET": f"@{name}"}).ready()

        assert manager.told() == ["READY=1"]
    finally:
        manager.close()


@pytest.mark.parametrize("value", ["", "relative", "vsock:2:1234", "/no/such/socket"])
def test_nobody_who_listens_is_no_error(value: str) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": value})

    notifier.ready("x")
    notifier.reloading()
    notifier.stopping()


def test_without_a_manager_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    monkeypatch.setattr(socket, "socket", None)
    notifier = Notifier()

    notifier.ready("x")
    notifier.beat(5.0)

    assert notifier.wake_at() == inf


def test_a_manager_that_does_not_read_makes_nobody_wait(
    notifier: Notifier, manager: Manager
) -> None:
    for number in range(2000):  # more than a socket's buffer holds
        notifier.status(f"{number}")

    assert 0 < len(manager.told()) < 2000


@pytest.mark.parametrize("pid", [None, str(os.getpid())], ids=["any", "mine"])
def test_signs_of_life_come_at_half_of_the_interval(
    manager: Manager, address: str, pid: str | None
) -> None:
    environ = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "10000000"}
    notifier = Notifier(environ if pid is None else environ | {"WATCHDOG_PID": pid})

    assert notifier.wake_at() == -inf
    notifier.beat(100.0)
    assert (manager.told(), notifier.wake_at()) == (["WATCHDOG=1"], 105.0)
    notifier.beat(104.9)
    assert manager.told() == []
    notifier.beat(105.0)
    assert (manager.told(), notifier.wake_at()) == (["WATCHDOG=1"], 110.0)


@pytest.mark.parametrize(
    "environ",
    [
        {"WATCHDOG_USEC": "10000000", "WATCHDOG_PID": "1"},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "soon"},
        {},
    ],
)
def test_no_sign_of_life_where_none_is_awaited(
    manager: Manager, address: str, environ: dict[str, str]
) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": address, **environ})

    notifier.beat(100.0)

    assert (manager.told(), notifier.wake_at()) == ([], inf)

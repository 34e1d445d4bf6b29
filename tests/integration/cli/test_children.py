from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from falconas.cli.children import Children
from falconas.client.operator import Operator

PATIENCE = 20.0


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("FALCONAS")}
    ends = ("frontend", "backend", "control")
    own = {f"FALCONAS_BROKER__{e.upper()}": f"ipc://{tmp_path}/{e}" for e in ends}
    (tmp_path / "workers").mkdir()
    return kept | own | {"FALCONAS_WORKER__SCRIPTS": str(tmp_path / "workers")}


@pytest.fixture
def children(environ: dict[str, str]) -> Iterator[Children]:
    with Children(environ) as children:
        yield children


def bound(environ: dict[str, str]) -> Path:
    return Path(environ["FALCONAS_BROKER__CONTROL"].removeprefix("ipc://"))


def wait_bound(children: Children, environ: dict[str, str]) -> None:
    while not bound(environ).exists():
        assert children.wait(0.05) is None


def test_the_first_that_ends_is_named(
    children: Children, environ: dict[str, str]
) -> None:
    children.start("broker")
    wait_bound(children, environ)
    children.start("nonsense")
    assert children.wait(PATIENCE) == "nonsense"
    assert children.code("nonsense") == 2


def test_a_signal_reaches_its_command(
    children: Children, environ: dict[str, str]
) -> None:
    children.start("broker")
    wait_bound(children, environ)
    children.signal("broker", signal.SIGKILL)
    assert children.wait(PATIENCE) == "broker"
    assert children.code("broker") == -signal.SIGKILL
    children.signal("broker", signal.SIGHUP)


def test_stop_ends_them_in_order(
    children: Children, environ: dict[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    children.start("broker")
    wait_bound(children, environ)
    children.start("worker")
    operator = Operator(environ["FALCONAS_BROKER__CONTROL"])
    while not operator.inspect()["supervisors"]:
        assert children.wait(0.05) is None
    children.stop({"broker": PATIENCE, "worker": PATIENCE})
    assert (children.code("worker"), children.code("broker")) == (0, 0)
    log = capfd.readouterr().err
    assert log.rindex("SIGTERM: draining") > log.index('"event": "stopped"')


def test_what_does_not_end_is_killed(
    children: Children, environ: dict[str, str]
) -> None:
    children.start("broker")
    wait_bound(children, environ)
    children.stop({"broker": 0.0})
    # SIGTERM may come before its handler is there.
    assert children.code("broker") in (0, -signal.SIGKILL, -signal.SIGTERM)


def test_they_end_when_their_parent_is_killed(environ: dict[str, str]) -> None:
    code = (
        "import os, signal, sys\n"
        "from falconas.cli.children import Children\n"
        "children = Children(os.environ)\n"
        "children.start('broker')\n"
        "print(children._running['broker'].pid, flush=True)\n"
        "while not os.path.exists(sys.argv[1]): children.wait(0.05)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(bound(environ))],
        env=environ,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    with parent, parent.stdout:
        child = int(parent.stdout.readline())
        watched = os.pidfd_open(child)
        try:
            assert parent.wait(PATIENCE) == -signal.SIGKILL
            # Its descriptor is readable once it has ended.
            assert ended(watched), "the broker outlived its parent"
        finally:
            os.close(watched)


def ended(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(PATIENCE * 1000))

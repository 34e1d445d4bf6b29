"""A script that keeps killing its workers is not served any more; others are."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from falconas.client.sync import Client
from falconas.errors import FailedPrecondition, Started, Unavailable
from tests.acceptance.stack import PATIENCE, Stack, kill, wait_for

WORKERS = 2
CRASHES = 3
CRASH = "import ctypes\ndef run(ctx): ctypes.string_at(0)\n"
LEAVE = "import os\ndef run(ctx): os._exit(0)\n"
FINE = "def run(ctx): return 'fine'\n"
STUCK = """
import os, pathlib, time
def run(ctx, path: str):
    pathlib.Path(path).write_text(str(os.getpid()))
    time.sleep(3600)
"""


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    folder = tmp_path / "scripts"
    folder.mkdir()
    sources = {"crash": CRASH, "leave": LEAVE, "fine": FINE, "stuck": STUCK}
    for name, text in sources.items():
        (folder / f"{name}.py").write_text(text)
    return folder


def _crash(client: Client, script: str) -> None:
    with pytest.raises(Unavailable) as caught:
        client.call(script)
    assert caught.value.started is Started.YES


@pytest.mark.parametrize("script", ["crash", "leave"])
def test_a_script_that_crashes_is_quarantined_until_a_reload(
    tmp_path: Path, database: str, scripts: Path, script: str
) -> None:
    with Stack(tmp_path, database, scripts) as stack, stack.client() as client:
        stack.start_broker()
        supervisor = stack.start_workers(WORKERS)
        stack.await_workers(WORKERS)
        for _ in range(CRASHES):
            _crash(client, script)

        with pytest.raises(FailedPrecondition, match="reload") as caught:
            client.call(script)
        assert caught.value.started is Started.NO
        assert client.call("fine") == "fine"
        stack.await_workers(WORKERS)

        (scripts / f"{script}.py").write_text(FINE)
        supervisor.send_signal(signal.SIGHUP)
        wait_for(lambda: _answers(client, script), "the end of the quarantine")
        assert client.call("fine") == "fine"


def _answers(client: Client, script: str) -> bool:
    try:
        return bool(client.call(script) == "fine")
    except FailedPrecondition:
        return False


def test_somebody_elses_kill_is_not_the_scripts_fault(
    tmp_path: Path, database: str, scripts: Path
) -> None:
    note = tmp_path / "pid"
    with Stack(tmp_path, database, scripts) as stack, stack.client() as client:
        stack.start_broker()
        stack.start_workers(WORKERS)
        for _ in range(CRASHES + 1):
            stack.await_workers(WORKERS)
            note.unlink(missing_ok=True)
            call = client.submit("stuck", {"path": str(note)}, budget=PATIENCE)
            # A busy worker may not have begun: the script says itself who runs it.
            kill(int(wait_for(lambda: note.exists() and note.read_text(), "the pid")))
            with pytest.raises(Unavailable):
                call.result()

"""Who stops a shared server: the last user, or the guard of one that was killed."""

from __future__ import annotations

import fcntl
import os
import pwd
import re
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from falconas.database.sharing import Sharing

PATIENCE = 30.0

USER_OF_IT = """
import os, pwd, sys
from pathlib import Path
from falconas.database.sharing import Sharing
folder = Path(sys.argv[1])
stop = ["/bin/sh", "-c", f"echo stopped > '{folder}/stops'"]
sharing = Sharing(folder)
sharing.enter(pwd.getpwuid(os.geteuid()), stop)
print(sharing._guard.pid, flush=True)
sys.stdin.readline()
"""


class Server:
    """Counts how often it was stopped."""

    def __init__(self) -> None:
        self.stops = 0

    def stop(self) -> None:
        self.stops += 1


@pytest.fixture
def server() -> Server:
    return Server()


def entered(folder: Path) -> Sharing:
    sharing = Sharing(folder)
    sharing.enter(pwd.getpwuid(os.geteuid()), ["/bin/false"])
    return sharing


def test_the_last_user_stops_the_server(tmp_path: Path, server: Server) -> None:
    first, second = entered(tmp_path), entered(tmp_path)
    first.leave(server.stop)
    assert (first.entered, server.stops) == (False, 0)
    second.leave(server.stop)
    assert server.stops == 1
    second.leave(server.stop)
    assert server.stops == 1


def test_one_that_is_to_be_kept_is_not_stopped(tmp_path: Path, server: Server) -> None:
    user = entered(tmp_path)
    user.keep.touch()
    user.leave(server.stop)
    assert server.stops == 0
    Sharing(tmp_path).release(server.stop)
    assert server.stops == 1
    assert not user.keep.exists()


def test_release_leaves_the_stop_to_the_last_user(
    tmp_path: Path, server: Server
) -> None:
    user = entered(tmp_path)
    user.keep.touch()
    Sharing(tmp_path).release(server.stop)
    assert server.stops == 0
    user.leave(server.stop)
    assert server.stops == 1


def test_a_user_may_release(tmp_path: Path, server: Server) -> None:
    user = entered(tmp_path)
    user.keep.touch()
    user.release(server.stop)
    assert (user.entered, server.stops) == (False, 1)


def test_a_stop_that_fails_ends_the_use_all_the_same(tmp_path: Path) -> None:
    def stop() -> None:
        raise TimeoutError

    user = entered(tmp_path)
    with pytest.raises(TimeoutError):
        user.leave(stop)
    assert not user.entered


def test_nobody_enters_while_the_server_is_being_stopped(
    tmp_path: Path, server: Server
) -> None:
    def stop() -> None:
        server.stop()
        with (tmp_path / "users").open() as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)

    entered(tmp_path).leave(stop)
    assert server.stops == 1


def test_exclusive_keeps_others_out(tmp_path: Path) -> None:
    with (
        Sharing(tmp_path).exclusive(),
        (tmp_path / "lock").open() as other,
        pytest.raises(BlockingIOError),
    ):
        fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
    with (tmp_path / "lock").open() as other:
        fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)


def test_the_guard_of_a_killed_user_stops_the_server(tmp_path: Path) -> None:
    stops = fifo(tmp_path)
    kill_a_user(tmp_path)
    assert select.select([stops], [], [], PATIENCE)[0]
    assert os.read(stops, 100) == b"stopped\n"
    os.close(stops)


def test_the_guard_of_a_killed_user_waits_for_the_others(
    tmp_path: Path, server: Server
) -> None:
    stops = fifo(tmp_path)
    other = entered(tmp_path)
    await_block(kill_a_user(tmp_path))
    # From here on it may stop the server, before or after the last user does.
    other.leave(server.stop)
    assert select.select([stops], [], [], PATIENCE)[0]
    os.close(stops)


def fifo(folder: Path) -> int:
    os.mkfifo(folder / "stops")
    return os.open(folder / "stops", os.O_RDONLY | os.O_NONBLOCK)


def kill_a_user(folder: Path) -> int:
    """Return the process id of the guard that the user had."""
    with subprocess.Popen(
        [sys.executable, "-c", USER_OF_IT, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout
        guard = int(process.stdout.readline())
        process.kill()
    return guard


def await_block(pid: int) -> None:
    """Wait until a process waits for a lock."""
    waits = re.compile(rf"-> FLOCK +ADVISORY +WRITE {pid} ")
    give_up = time.monotonic() + PATIENCE
    while not waits.search(Path("/proc/locks").read_text()):
        assert Path(f"/proc/{pid}").exists(), "it did not wait"
        assert time.monotonic() < give_up
        os.sched_yield()

"""Who uses a server that several processes share, and who stops it at the end.

Each user holds a shared lock on the file `users`, which the kernel drops when the
process ends, however it ends. Each user also has a guard, a tiny process that waits
for the exclusive lock: it gets it when the last user is gone, and stops the server.
So `kill -9` leaves no server behind, and nobody stops one that others use.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from falconas.database.programs import environment

if TYPE_CHECKING:
    import pwd
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

__all__ = ["Sharing", "ending"]

# Standard input is the lock. Runs as we do, since nobody else may be able to run
# this interpreter; only the command runs as the server's account.
GUARD = """
import fcntl, os, sys
fcntl.flock(0, fcntl.LOCK_EX)
keep, uid, gid, *stop = sys.argv[1:]
if not os.path.exists(keep):
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(int(gid))
        os.setuid(int(uid))
    os.execv(stop[0], stop)
"""

# Ends the servers of the given data folders, also those that stand still.
END = """
pg_ctl=$1; shift
for data; do
    read -r pid < "$data/postmaster.pid" || continue
    test "$(readlink "/proc/$pid/cwd")" = "$data" || continue
    kill -CONT "$pid" $(cat "/proc/$pid/task/$pid/children")
    "$pg_ctl" stop -D "$data" -m immediate
done
"""


class Sharing:
    """One user's part in a server; its lock files are in the given folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._users: int | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    @property
    def entered(self) -> bool:
        """Whether this object is a user at present."""
        return self._users is not None

    @property
    def keep(self) -> Path:
        """The file whose presence says: run on when all users are gone."""
        return self.folder / "keep"

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Let one process at a time prepare, start or shut down the server."""
        with (self.folder / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def enter(self, account: pwd.struct_passwd, stop: Sequence[str]) -> None:
        """Become a user, with a guard that would run the command as the account."""
        self._users = os.open(self.folder / "users", os.O_RDWR | os.O_CREAT, 0o600)
        # Waits while a guard, or the last user, is stopping the server.
        fcntl.flock(self._users, fcntl.LOCK_SH)
        arguments = [str(self.keep), str(account.pw_uid), str(account.pw_gid), *stop]
        with (self.folder / "users").open("r+b") as lock:
            self._guard = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", GUARD, *arguments],
                cwd="/",
                env=environment(),
                stdin=lock,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # a Ctrl-C in the terminal is not for it
            )

    def leave(self, stop: Callable[[], None]) -> None:
        """Be a user no more; the last one stops the server, unless it is to be kept."""
        if self._users is None:
            return
        if self._guard is not None:
            self._guard.kill()
            self._guard.wait()
        try:
            if not self.keep.exists():
                _unless_used(self._users, stop)
        finally:
            os.close(self._users)
            self._users = self._guard = None

    def release(self, stop: Callable[[], None]) -> None:
        """Keep the server no longer: stop it, or leave that to its last user."""
        self.keep.unlink(missing_ok=True)
        if self.entered:
            self.leave(stop)
        elif self.folder.is_dir():
            with (self.folder / "users").open("a") as users:
                _unless_used(users.fileno(), stop)


def ending(pg_ctl: Path, folders: Iterable[Path]) -> list[str]:
    """Return a command that a guard ends several servers by; it needs none of us."""
    return ["/bin/sh", "-c", END, "end", str(pg_ctl), *map(str, folders)]


def _unless_used(users: int, stop: Callable[[], None]) -> None:
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    stop()

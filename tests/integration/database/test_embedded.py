"""The embedded server: starts, is shared, and never outlives its last user."""

from __future__ import annotations

import os
import pwd
import re
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from falconas.database.embedded import EmbeddedError, EmbeddedPostgres

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE = 30.0

# A process that uses the server in argv[1], does what is said, and waits for a line.
USER_OF_IT = """
import sys
from pathlib import Path
from falconas.database.embedded import EmbeddedPostgres
server = EmbeddedPostgres(Path(sys.argv[1]), durable=False)
server.start()
{action}
print(server.dsn(), flush=True)
sys.stdin.readline()
"""

# The same account under another number: it may read what we may, but is not root.
AS_USER = ("unshare", "--user", "--map-user=65534", "--map-group=65534")


def can_be_another_user() -> bool:
    try:
        return subprocess.run([*AS_USER, "true"], check=False).returncode == 0
    except FileNotFoundError:
        return False


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="about being root")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a cluster; each test starts it anew."""
    where = tmp_path_factory.mktemp("embedded") / "postgres"
    yield where
    EmbeddedPostgres(where).delete()


@pytest.fixture
def server(folder: Path) -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres(folder, durable=False) as running:
        yield running
    running.shutdown()


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everybody can enter, as below a usual home or /srv."""
    where = Path(tempfile.mkdtemp(prefix="open-", dir="/tmp"))
    where.chmod(0o755)
    yield where
    shutil.rmtree(where)


def test_it_answers_by_socket_and_by_tcp(server: EmbeddedPostgres) -> None:
    assert server.running
    for tcp in False, True:
        assert value(server.dsn(tcp=tcp), "SELECT 1") == 1


def test_conninfo_holds_no_password_and_only_we_can_read_it(
    server: EmbeddedPostgres,
) -> None:
    found = conninfo_to_dict(server.dsn(tcp=True))
    assert "password" not in found
    passfile = Path(str(found["passfile"]))
    assert stat.S_IMODE(passfile.stat().st_mode) == 0o600
    assert passfile.stat().st_uid == os.geteuid()


@pytest.mark.parametrize("password", ["", "postgres"])
def test_tcp_needs_the_password(server: EmbeddedPostgres, password: str) -> None:
    dsn = re.sub(r"passfile=\S+", "passfile=/dev/null", server.dsn(tcp=True))
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(dsn, password=password)


def test_it_listens_on_the_loopback_only(server: EmbeddedPostgres) -> None:
    assert value(server.dsn(), "SHOW listen_addresses") == "127.0.0.1"


def test_nobody_else_can_enter_data_and_socket(server: EmbeddedPostgres) -> None:
    run = Path(str(conninfo_to_dict(server.dsn())["host"]))
    for private in run, run.parent / "data":
        assert stat.S_IMODE(private.stat().st_mode) == 0o700


@as_root
def test_as_root_it_runs_as_nobody_and_opens_no_folder(folder: Path) -> None:
    before = {p: p.stat().st_mode for p in folder.parents}
    with EmbeddedPostgres(folder, durable=False) as server:
        owner = Path(f"/proc/{pid_of(server)}").stat().st_uid
    assert owner == pwd.getpwnam("nobody").pw_uid
    assert {p: p.stat().st_mode for p in folder.parents} == before


@as_root
def test_as_root_it_stays_in_a_folder_that_nobody_can_enter(open_folder: Path) -> None:
    with EmbeddedPostgres(open_folder / "postgres", durable=False) as server:
        host = conninfo_to_dict(server.dsn())["host"]
        assert host == str(open_folder / "postgres" / "run")
    server.delete()
    assert list(open_folder.iterdir()) == []


@as_root
@pytest.mark.skipif(not can_be_another_user(), reason="unshare is not permitted")
def test_it_runs_as_a_user(open_folder: Path) -> None:
    # So deep that no unix socket would fit below it.
    deep = open_folder / ("d" * 100) / "postgres"
    program = USER_OF_IT.format(action="") + "server.delete()"
    with subprocess.Popen(
        [*AS_USER, sys.executable, "-c", program, str(deep)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        host = Path(str(conninfo_to_dict(process.stdout.readline())["host"]))
        assert host.is_dir()
        assert not host.is_relative_to(open_folder)
        process.communicate("\n", timeout=PATIENCE)
    assert process.returncode == 0
    assert not host.parent.exists()
    assert not deep.exists()


def test_data_is_there_after_a_restart(folder: Path) -> None:
    with EmbeddedPostgres(folder) as server:
        dsn = server.create_database("kept")
        with psycopg.connect(dsn) as connection:
            connection.execute("CREATE TABLE t AS SELECT 42 AS n")
    assert not server.running
    with EmbeddedPostgres(folder) as server:
        assert value(server.dsn("kept"), "SELECT n FROM t") == 42
        server.drop_database("kept")


@pytest.mark.parametrize(("durable", "fsync"), [(True, "on"), (False, "off")])
def test_settings_are_those_asked_for(folder: Path, durable: bool, fsync: str) -> None:
    parameters = {"work_mem": "5MB", "cluster_name": r"it's \ here"}
    with EmbeddedPostgres(folder, durable=durable, parameters=parameters) as server:
        assert value(server.dsn(), "SHOW fsync") == fsync
        assert value(server.dsn(), "SHOW work_mem") == "5MB"
        assert value(server.dsn(), "SHOW cluster_name") == r"it's \ here"


def test_a_second_user_joins_and_the_last_one_stops_it(folder: Path) -> None:
    first = EmbeddedPostgres(folder, durable=False)
    second = EmbeddedPostgres(folder, durable=False)
    first.start()
    second.start()
    pid = pid_of(first)
    assert pid_of(second) == pid
    first.stop()
    assert second.running
    assert pid_of(second) == pid
    second.stop()
    assert not second.running


def test_users_that_start_at_once_share_one_server(folder: Path) -> None:
    servers = [EmbeddedPostgres(folder, durable=False) for _ in range(4)]
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(EmbeddedPostgres.start, servers))
        assert len({pid_of(server) for server in servers}) == 1
        list(threads.map(EmbeddedPostgres.stop, servers))
    assert not servers[0].running


def test_start_and_stop_may_be_called_twice(folder: Path) -> None:
    server = EmbeddedPostgres(folder, durable=False)
    server.start()
    server.start()
    server.stop()
    assert not server.running
    server.stop()


def test_it_stops_when_its_user_is_killed(folder: Path) -> None:
    with user_of(folder) as process:
        ended = watch(EmbeddedPostgres(folder))
        process.kill()
    assert ended()


def test_it_lives_while_another_user_does(folder: Path) -> None:
    with EmbeddedPostgres(folder, durable=False) as server:
        with user_of(folder) as process:
            process.kill()
        # Whoever would stop it needs this lock, which our use of it withholds.
        assert value(server.dsn(), "SELECT 1") == 1
        ended = watch(server)
    assert ended()


def test_a_kept_one_lives_until_it_is_shut_down(folder: Path) -> None:
    with user_of(folder, "server.keep()") as process:
        process.kill()
    server = EmbeddedPostgres(folder)
    assert value(server.dsn(), "SELECT 1") == 1
    with server:
        pass
    assert server.running
    server.shutdown()
    assert not server.running


def test_shutdown_leaves_a_server_to_those_who_use_it(folder: Path) -> None:
    with EmbeddedPostgres(folder, durable=False) as server:
        server.keep()
        EmbeddedPostgres(folder).shutdown()
        assert value(server.dsn(), "SELECT 1") == 1
    assert not server.running


def test_it_is_out_of_reach_for_a_terminals_ctrl_c(folder: Path) -> None:
    with user_of(folder) as process:
        session = os.getsid(process.pid)
        assert os.getsid(pid_of(EmbeddedPostgres(folder))) != session
        guards = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
        assert [os.getsid(int(pid)) for pid in guards.split()] != [session]
        ended = watch(EmbeddedPostgres(folder))
        process.kill()
    assert ended()


def test_it_starts_again_after_a_crash(folder: Path) -> None:
    with EmbeddedPostgres(folder, durable=False) as server:
        crashed = watch(server)
        os.kill(pid_of(server), signal.SIGKILL)
        assert crashed()
    with EmbeddedPostgres(folder, durable=False) as server:
        assert value(server.dsn(), "SELECT 1") == 1


def test_a_pid_file_that_names_another_process_is_stale(folder: Path) -> None:
    with EmbeddedPostgres(folder, durable=False) as server:
        data = Path(str(conninfo_to_dict(server.dsn())["host"])).parent / "data"
        lines = (data / "postmaster.pid").read_text().splitlines()
    (data / "postmaster.pid").write_text("\n".join([str(os.getppid()), *lines[1:]]))
    assert not server.running
    with server:
        assert value(server.dsn(), "SELECT 1") == 1


def test_an_initialisation_that_was_cut_off_is_begun_anew(open_folder: Path) -> None:
    (open_folder / "data.new").mkdir()
    (open_folder / "data.new" / "PG_VERSION").write_text("18")
    with EmbeddedPostgres(open_folder, durable=False) as server:
        assert value(server.dsn(), "SELECT 1") == 1
    server.shutdown()


def test_a_port_in_use_is_named(folder: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(EmbeddedError, match=f"port {port} is in use"):
            EmbeddedPostgres(folder, port=port).start()


def test_the_port_can_be_chosen(folder: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with EmbeddedPostgres(folder, port=port, durable=False) as server:
        assert conninfo_to_dict(server.dsn(tcp=True))["port"] == str(port)


def test_a_wrong_setting_ends_in_one_line(folder: Path) -> None:
    server = EmbeddedPostgres(folder, parameters={"work_memory": "5MB"})
    with pytest.raises(EmbeddedError, match=r"does not start: .*configur") as info:
        server.start()
    assert "\n" not in str(info.value)
    with EmbeddedPostgres(folder, durable=False) as working:
        assert working.running


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EmbeddedError, match=r"file/postgres: .*Not a directory"):
        EmbeddedPostgres(tmp_path / "file" / "postgres").start()


def test_without_a_server_there_is_no_conninfo(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedError, match="no PostgreSQL is running in"):
        EmbeddedPostgres(tmp_path).dsn()


def test_databases_are_made_from_templates_and_dropped_under_their_users(
    server: EmbeddedPostgres,
) -> None:
    with psycopg.connect(server.create_database("one")) as connection:
        connection.execute("CREATE TABLE t AS SELECT 1 AS n")
    copy = server.create_database("two", template="one")
    with psycopg.connect(copy) as user:
        server.drop_database("two")
        with pytest.raises(psycopg.OperationalError):
            user.execute("SELECT 1")
    server.drop_database("two")
    server.drop_database("one")
    names = sql.SQL("SELECT datname FROM pg_database WHERE datname IN ('one', 'two')")
    assert server.execute(names) == []


def test_delete_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    # A copy of the cluster saves making one.
    with EmbeddedPostgres(folder, durable=False) as server:
        home = Path(str(conninfo_to_dict(server.dsn())["host"])).parent
    target = tmp_path / "deleted"
    target.mkdir()
    place = Path(tempfile.mkdtemp(prefix="falconas-"))
    place.chmod(0o755)
    (target / "elsewhere").symlink_to(place)
    subprocess.run(["cp", "-a", home / "data", place / "data"], check=True)
    with user_of(target) as process:
        ended = watch(EmbeddedPostgres(target))
        EmbeddedPostgres(target).delete()
        assert ended()
        process.kill()
    assert not place.exists()
    assert not target.exists()


class user_of(subprocess.Popen[str]):  # noqa: N801 - reads like a function
    """A process that uses the server; running when this returns."""

    def __init__(self, folder: Path, action: str = "") -> None:
        super().__init__(
            [sys.executable, "-c", USER_OF_IT.format(action=action), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.stdout
        assert "host=" in self.stdout.readline()


class watch:  # noqa: N801 - reads like a function
    """Wait for the end of a server's process."""

    def __init__(self, server: EmbeddedPostgres) -> None:
        self.handle = os.pidfd_open(pid_of(server))

    def __call__(self) -> bool:
        try:
            return bool(select.select([self.handle], [], [], PATIENCE)[0])
        finally:
            os.close(self.handle)


def pid_of(server: EmbeddedPostgres) -> int:
    postmaster = server._server.postmaster()
    assert postmaster
    return postmaster.pid


def value(dsn: str, query: str) -> object:
    with psycopg.connect(dsn) as connection:
        row = connection.execute(query.encode()).fetchone()
    assert row
    return row[0]

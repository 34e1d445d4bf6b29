"""What a server's files say; the rest is in the tests of those who use it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

from falconas.database import server as module
from falconas.database.programs import Programs
from falconas.database.server import Server, free_port


@pytest.fixture
def server(tmp_path: Path) -> Server:
    return Server(Programs(tmp_path), {"cluster_name": r"it's \ here"}, place="n1")


def test_a_port_is_none_that_an_outgoing_connection_may_take() -> None:
    first = int(module.EPHEMERAL.read_text().split()[0])
    assert all(module.FIRST_PORT <= free_port() < first for _ in range(20))


def test_where_all_ports_are_the_kernels_it_takes_one_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "range").write_text("1024\t65535\n")
    monkeypatch.setattr(module, "EPHEMERAL", tmp_path / "range")
    assert free_port() > 1024


def test_servers_of_one_home_share_sockets_and_password_only(tmp_path: Path) -> None:
    one, two = (Server(Programs(tmp_path), {}, place=name) for name in ("n1", "n2"))
    assert one.sockets == two.sockets
    assert one.passfile == two.passfile
    assert len({one.data, two.data, one.log, two.log}) == 4


def test_its_configuration_can_be_read_by_its_account_whatever_our_umask(
    server: Server,
) -> None:
    server.folder.mkdir()
    before = os.umask(0o077)
    try:
        path = server.configure(15000)
    finally:
        os.umask(before)
    text = path.read_text()
    assert "port = '15000'" in text
    assert r"cluster_name = 'it''s \\ here'" in text
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o644
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o755


@pytest.fixture
def pid_file(server: Server) -> Path:
    server.data.mkdir(parents=True)
    return server.data / "postmaster.pid"


@pytest.mark.parametrize("status", ["ready", "standby", "starting", "stopping"])
def test_it_says_what_its_process_says(
    server: Server, pid_file: Path, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(server.data)  # as its process would be
    lines = [str(os.getpid()), "", "", "15000", "", "", "", f"{status}  "]
    pid_file.write_text("\n".join(lines))
    found = server.postmaster()
    assert found == (os.getpid(), 15000, status in {"ready", "standby"})


@pytest.mark.parametrize(
    "text",
    ["", "x\n", "1\n2\n3\n4\n5\n", f"{os.getpid()}\n\n\n1"],
    ids=["empty", "no number", "nobody", "someone else"],
)
def test_without_its_process_it_has_no_postmaster(
    server: Server, pid_file: Path, text: str
) -> None:
    assert server.postmaster() is None
    pid_file.write_text(text)
    assert server.postmaster() is None


def test_a_conninfo_holds_no_password(server: Server) -> None:
    assert "password" not in conninfo_to_dict(server.conninfo(1, "d", tcp=True))
    assert conninfo_to_dict(server.conninfo(1, "d", tcp=False)) == {
        "host": str(server.sockets),
        "port": "1",
        "user": "postgres",
        "dbname": "d",
    }

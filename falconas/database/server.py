"""One PostgreSQL server: its folders, its configuration and its process.

Who uses it, and for how long, is for others to say: `embedded` for one server that
processes share, `cluster` for several that replicate. Of its home (see `programs`) it
takes

    data/    its files                 run/    unix socket and server.log, mode 0700
    conf/    written at each start     pgpass  password for TCP, mode 0600

and where several servers share a home, data/ and conf/ lie in a place of their own.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shlex
import shutil
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from falconas.database.programs import EmbeddedError, Programs

__all__ = ["HOST", "UNDURABLE", "USER", "Postmaster", "Server", "free_port", "is_free"]

USER = "postgres"
HOST = "127.0.0.1"
PATIENCE = 60.0
POLL_INTERVAL = 0.05
READY = {"ready", "standby"}
PORT_ATTEMPTS = 5
FIRST_PORT = 10_000
EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")

HBA = """\
local all         all              peer map=falconas
local replication all              peer map=falconas
host  all         all 127.0.0.1/32 scram-sha-256
host  replication all 127.0.0.1/32 scram-sha-256
"""

SETTINGS = {
    "listen_addresses": HOST,
    "password_encryption": "scram-sha-256",
    "unix_socket_permissions": "0700",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "jit": "off",  # costs more than it gains on short queries
}
PLACES = {"port", "unix_socket_directories", "hba_file", "ident_file"}
# Survives the crash of any process, not that of the machine.
UNDURABLE = {"fsync": "off", "full_page_writes": "off"}


class Postmaster(NamedTuple):
    """What a server says about itself in `postmaster.pid`."""

    pid: int
    port: int
    ready: bool


class Server:
    """One PostgreSQL server.

    Args:
        programs: The programs that it consists of, and its home.
        settings: Of postgresql.conf, besides those that every server here has.
        place: Name of its part of the home; empty where it has that for itself.
        port: TCP port on 127.0.0.1; 0 takes a free one at each start.
    """

    def __init__(
        self,
        programs: Programs,
        settings: Mapping[str, str],
        *,
        place: str = "",
        port: int = 0,
    ) -> None:
        self.programs = programs
        self.settings = {**SETTINGS, **settings}
        self.place = place
        self.port = port

    @property
    def folder(self) -> Path:
        """Where data/ and conf/ are."""
        return self.programs.home / self.place

    @property
    def data(self) -> Path:
        """Its files."""
        return self.folder / "data"

    @property
    def sockets(self) -> Path:
        """Where its unix socket is."""
        return self.programs.home / "run"

    @property
    def log(self) -> Path:
        """What the server writes about itself."""
        return self.sockets / f"{self.place or 'server'}.log"

    @property
    def passfile(self) -> Path:
        """The password for TCP, which only our account can read."""
        return self.programs.home / "pgpass"

    def postmaster(self) -> Postmaster | None:
        """Read who serves the data folder; None if that process is gone."""
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
            pid, port = int(lines[0]), int(lines[3])
            # The number may have been given to another process since.
            if Path(f"/proc/{pid}/cwd").readlink() != self.data:
                return None
        except (OSError, ValueError, IndexError):
            return None
        return Postmaster(pid, port, "".join(lines[7:8]).strip() in READY)

    def recall(self) -> None:
        """Take port and settings from the conf/ that its last start has written."""
        try:
            text = (self.folder / "conf" / "postgresql.conf").read_text()
        except OSError:
            return
        found = {}
        for line in text.splitlines():
            name, is_setting, value = line.partition(" = ")
            if is_setting:
                found[name] = value[1:-1].replace("''", "'").replace("\\\\", "\\")
        self.port = int(found["port"])
        self.settings = {k: v for k, v in found.items() if k not in PLACES}

    def serving(self) -> bool:
        """Wait for a server that starts or stops, and tell whether one is there."""
        give_up = time.monotonic() + PATIENCE
        while (postmaster := self.postmaster()) is not None:
            if postmaster.ready:
                return True
            if time.monotonic() > give_up:
                raise EmbeddedError(
                    f"PostgreSQL neither starts nor stops, see {self.log}"
                )
            time.sleep(POLL_INTERVAL)
        return False

    def initialise(self, *options: str) -> None:
        """Make the files beside their place, so that half of them is never found.

        Args:
            options: Further ones for `initdb`.
        """
        self.passfile.unlink(missing_ok=True)
        fresh = self.fresh_folder()
        self.programs.run(
            "initdb",
            *("--pgdata", fresh, "--username", USER, "--auth", "reject"),
            *("--encoding", "UTF8", "--locale", "C", "--no-sync"),
            *("--locale-provider", "builtin", "--builtin-locale", "C.UTF-8"),
            *options,
        )
        fresh.rename(self.data)

    def fresh_folder(self) -> Path:
        """Make an empty folder that becomes data/ when it is renamed."""
        name = Path(self.place, "data.new")
        shutil.rmtree(self.programs.home / name, ignore_errors=True)
        return self.programs.make_folder(str(name))

    def boot(self) -> None:
        """Start it, as nobody else serves its data folder.

        Raises:
            EmbeddedError: It does not start; the message says why in one line.
        """
        # A killed server leaves its locks, which a zombie's number keeps valid.
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        self.programs.make_folder("run")
        for _ in range(PORT_ATTEMPTS):
            self.log.unlink(missing_ok=True)
            port = self.port or free_port()
            (self.sockets / f".s.PGSQL.{port}.lock").unlink(missing_ok=True)
            options = f"-c config_file={shlex.quote(str(self.configure(port)))}"
            command = ("start", "-D", self.data, "-l", self.log, "-o", options)
            try:
                self.programs.run("pg_ctl", *command)
            except EmbeddedError as error:
                reason = _fatal(self.log) or str(error)
            else:
                return
            if "could not create any TCP/IP sockets" not in reason:
                raise EmbeddedError(f"PostgreSQL does not start: {reason}")
            if self.port:
                break
        raise EmbeddedError(f"PostgreSQL does not start: port {port} is in use")

    def configure(self, port: int) -> Path:
        """Write conf/, and return its postgresql.conf."""
        folder = self.folder / "conf"
        folder.mkdir(exist_ok=True)
        us = pwd.getpwuid(os.geteuid()).pw_name
        names = {us, self.programs.server.pw_name}
        settings = {
            **self.settings,
            "port": str(port),
            "unix_socket_directories": str(self.sockets),
            "hba_file": str(folder / "pg_hba.conf"),
            "ident_file": str(folder / "pg_ident.conf"),
        }
        lines = [f"include '{self.data / 'postgresql.conf'}'"]
        for name, value in settings.items():
            quoted = value.replace("\\", "\\\\").replace("'", "''")
            lines.append(f"{name} = '{quoted}'")
        contents = {
            "pg_hba.conf": HBA,
            "pg_ident.conf": "".join(f'falconas "{name}" all\n' for name in names),
            "postgresql.conf": "\n".join([*lines, ""]),
        }
        for name, text in contents.items():
            (folder / name).write_text(text)
            (folder / name).chmod(0o644)
        folder.chmod(0o755)  # whatever our umask: the server's account reads them
        return folder / "postgresql.conf"

    def halt(self, mode: str = "fast") -> None:
        """Stop it, if it runs."""
        if self.postmaster() is None:
            return
        try:
            self.programs.run("pg_ctl", *self.stop_arguments(mode))
        except EmbeddedError:
            if self.postmaster() is not None:
                raise

    def stop_arguments(self, mode: str = "fast") -> list[str]:
        """Return what makes `pg_ctl` stop it."""
        return ["stop", "-D", str(self.data), "-m", mode]

    def conninfo(self, port: int, dbname: str, *, tcp: bool) -> str:
        """Return a conninfo, which holds no secret.

        The unix socket knows the caller's account, and for TCP the password is read
        from a file that only this account can read.
        """
        where = {"host": str(self.sockets)}
        if tcp:
            where = {"host": HOST, "passfile": str(self.passfile)}
        return make_conninfo(port=port, user=USER, dbname=dbname, **where)

    def set_password(self, dsn: str) -> None:
        """Give the role a password, once, and write it to the passfile."""
        if self.passfile.exists():
            return
        password = secrets.token_urlsafe(32)
        with psycopg.connect(dsn, autocommit=True) as connection:
            # The server and its log see the verifier, not the password.
            verifier = connection.pgconn.encrypt_password(
                password.encode(), USER.encode(), b"scram-sha-256"
            ).decode()
            command = sql.SQL("ALTER ROLE {} PASSWORD {}")
            connection.execute(command.format(sql.Identifier(USER), verifier))
        fresh = self.passfile.with_suffix(".new")
        fresh.touch(mode=0o600)
        fresh.write_text(f"{HOST}:*:*:{USER}:{password}\n")
        fresh.rename(self.passfile)


def free_port() -> int:
    """Return a TCP port that nobody uses.

    It is below those that the kernel gives to outgoing connections: one of these might
    have it when the server wants to come back to it.
    """
    first = int(EPHEMERAL.read_text().split()[0])
    while first > FIRST_PORT:
        port = FIRST_PORT + secrets.randbelow(first - FIRST_PORT)
        with socket.socket() as probe, suppress(OSError):
            probe.bind((HOST, port))
            return port
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def is_free(port: int) -> bool:
    """Tell whether a server could listen on a TCP port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as PostgreSQL
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def _fatal(log: Path) -> str:
    """Return the last reason that the server gave for giving up."""
    try:
        lines = log.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    reasons = [line.partition("FATAL:")[2].strip() for line in lines]
    return next(filter(None, reversed(reasons)), "")

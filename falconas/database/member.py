"""One node of an embedded cluster: a server that can fail in the ways that hosts do."""

from __future__ import annotations

import os
import select
import shutil
import signal
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, LiteralString

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.sql import Composed

from falconas.database.programs import EmbeddedError, Programs
from falconas.database.server import USER, Server, is_free

__all__ = ["SETTINGS", "Member", "until"]

PATIENCE = 30.0
POLL_INTERVAL = 0.01
SIGNAL = "standby.signal"
HALTED = {"T", "Z", ""}  # or at its end
SETTINGS = {
    "io_method": "sync",  # spares three processes a node
    "max_connections": "100",
    "primary_conninfo": "",
    "shared_buffers": "32MB",
    "wal_keep_size": "256MB",
    # A lost or paused primary is noticed, and the next one found, within seconds.
    "wal_receiver_status_interval": "1s",
    "wal_receiver_timeout": "3s",
    "wal_retrieve_retry_interval": "50ms",
    "wal_sender_timeout": "3s",
}


class Member:
    """One server of a cluster.

    What it calls `dsn` stays the same as long as the object lives, also while the
    server is down.

    Args:
        name: Its name, and the application_name of its replication.
        programs: The cluster's.
        settings: Of postgresql.conf.
    """

    def __init__(
        self, name: str, programs: Programs, settings: Mapping[str, str]
    ) -> None:
        self.name = name
        self.server = Server(programs, settings, place=name)

    def __repr__(self) -> str:
        return f"<{self.name} port={self.server.port}>"

    @property
    def port(self) -> int:
        """Its TCP port, once it has been started."""
        if not self.server.port:
            raise EmbeddedError(f"{self.name} was never started")
        return self.server.port

    @property
    def running(self) -> bool:
        """Whether it accepts connections; a paused one does not."""
        postmaster = self.server.postmaster()
        return postmaster is not None and postmaster.ready and not self.paused

    @property
    def paused(self) -> bool:
        """Whether its processes stand still."""
        return any(_state(pid) == "T" for pid in self.processes())

    @property
    def standby(self) -> bool:
        """Whether its files are a standby's: they are until it is promoted."""
        return (self.server.data / SIGNAL).exists()

    @property
    def timeline(self) -> int:
        """The newest timeline in its files: 1, and one more with each promotion."""
        histories = (self.server.data / "pg_wal").glob("*.history")
        return max((int(path.stem, 16) for path in histories), default=1)

    def dsn(self, dbname: str = "postgres", *, tcp: bool = True) -> str:
        """Return a conninfo for one of its databases; it holds no secret."""
        return self.server.conninfo(self.port, dbname, tcp=tcp)

    def execute(
        self, statement: LiteralString | Composed, parameters: Iterable[Any] = ()
    ) -> list[tuple[Any, ...]]:
        """Run an administrative statement, outside a transaction.

        It waits for no standby, whatever `synchronous_standby_names` says.
        """
        dsn = make_conninfo(
            self.dsn(tcp=False),
            connect_timeout=3,
            application_name="cluster",
            options="-c synchronous_commit=local",
        )
        with psycopg.connect(dsn, autocommit=True) as connection:
            cursor = connection.execute(statement, tuple(parameters) or None)
            return cursor.fetchall() if cursor.description else []

    def processes(self) -> list[int]:
        """Return the process ids of the server, its postmaster first."""
        postmaster = self.server.postmaster()
        if postmaster is None:
            return []
        children = Path(f"/proc/{postmaster.pid}/task/{postmaster.pid}/children")
        with suppress(OSError):
            return [postmaster.pid, *map(int, children.read_text().split())]
        return []

    def return_to_port(self) -> None:
        """Have the port of its last start, unless somebody else has it by now."""
        before = Server(self.server.programs, {}, place=self.name)
        before.recall()
        if not self.server.port and is_free(before.port):
            self.server.port = before.port

    def start(self) -> None:
        """Start it, as what its files say: a primary or a standby."""
        if self.server.postmaster() is None:
            self.server.boot()
            postmaster = self.server.postmaster()
            assert postmaster is not None
            self.server.port = postmaster.port

    def stop(self, mode: str = "fast") -> None:
        """Stop it with one of `pg_ctl`'s modes: smart, fast or immediate."""
        self.resume()
        self.server.halt(mode)

    def kill(self) -> None:
        """End all its processes at once, as a loss of power would."""
        self.pause()  # so that none is born meanwhile
        handles = []
        for pid in self.processes():
            with suppress(ProcessLookupError):
                handles.append(os.pidfd_open(pid))
                os.kill(pid, signal.SIGKILL)
        for handle in handles:
            select.select([handle], [], [], PATIENCE)
            os.close(handle)

    def pause(self) -> None:
        """Let all its processes stand still; the kernel still accepts connections."""
        self._halt(self.processes()[:1])  # which bears no more children
        self._halt(self.processes()[1:])

    def resume(self) -> None:
        """Let it go on after `pause`."""
        _send(reversed(self.processes()), signal.SIGCONT)

    def promote(self) -> None:
        """Make it a primary; the other nodes are not told."""
        self.server.programs.run("pg_ctl", "promote", "-D", self.server.data)

    def configure(self, settings: Mapping[str, str]) -> None:
        """Give it other settings, which it reads now if it runs.

        Those that need a restart take effect at the next start.
        """
        if settings == self.server.settings:
            return
        self.server.settings = dict(settings)
        if not self.running:
            return
        self.server.configure(self.port)
        query: LiteralString = "SELECT pg_conf_load_time()"
        before = self.execute(query)
        self.execute("SELECT pg_reload_conf()")
        until(
            lambda: self.execute(query) != before,
            f"{self.name} does not read its configuration",
        )

    def follow(self, primary: Member) -> None:
        """Replicate from that node, from now or from the next start.

        Nothing that another node writes after this gets here.
        """
        source = make_conninfo(
            primary.dsn("", tcp=False),
            application_name=self.name,
            connect_timeout=2,
            dbname=None,
        )
        self.configure({**self.server.settings, "primary_conninfo": source})
        other = "SELECT pid FROM pg_stat_wal_receiver WHERE sender_port <> %s"
        until(
            lambda: not self.running or not self.execute(other, [primary.port]),
            f"{self.name} does not let go of its former primary",
        )

    def copy(self, primary: Member) -> None:
        """Become a fresh copy of that node, and its standby; then start."""
        self.server.programs.make_folder(self.name)
        fresh = self.server.fresh_folder()
        self.server.programs.run(
            "pg_basebackup",
            *("--pgdata", fresh, "--host", self.server.sockets),
            *("--port", str(primary.port), "--username", USER),
            *("--checkpoint", "fast", "--no-sync", "--no-manifest"),
        )
        if self.server.data.is_dir():
            shutil.rmtree(self.server.data)
        fresh.rename(self.server.data)
        self.follow(primary)
        self.demote()
        self.start()

    def demote(self) -> None:
        """Let it be a standby from the next start, as it was stopped cleanly."""
        mark = self.server.data / SIGNAL
        mark.touch(mode=0o600)
        owner = self.server.data.stat()
        os.chown(mark, owner.st_uid, owner.st_gid)

    def _halt(self, pids: Sequence[int]) -> None:
        _send(pids, signal.SIGSTOP)
        until(
            lambda: {_state(pid) for pid in pids} <= HALTED,
            f"{self.name} does not stand still",
        )


def until(
    true: Callable[[], object], otherwise: str, *, timeout: float = PATIENCE
) -> None:
    """Wait until something is true.

    Raises:
        EmbeddedError: It did not become true in time; with the given message.
    """
    give_up = time.monotonic() + timeout
    while not true():
        if time.monotonic() > give_up:
            raise EmbeddedError(otherwise)
        time.sleep(POLL_INTERVAL)


def _send(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _state(pid: int) -> str:
    """Return the letter that the kernel has for a process; none if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""

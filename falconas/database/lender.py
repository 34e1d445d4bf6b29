"""What the pools of threads and of coroutines share: everything but the waiting."""

from __future__ import annotations

import logging
import os
import random
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping
from time import monotonic
from typing import Any, Generic, Protocol, Self, TypeVar

from falconas.database.configured import read_pool
from falconas.database.hygiene import Connection, Loan, settings_of
from falconas.database.lending import Lending, Ticket, Wish
from falconas.database.nodes import NoAnswer, Node, NodeSet, Probe
from falconas.database.options import PoolOptions
from falconas.database.prober import Prober
from falconas.database.sqlstate import READ_ONLY
from falconas.database.wording import in_short
from falconas.errors import Unavailable

log = logging.getLogger(__name__)

PATIENCE = 1.0  # with one node, before all are looked at anew
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
        nodes: The nodes, all of one database, or one DSN. Those that stand for several
            are looked up, see `Node`; so nodes may come and go later.
        options: How to connect, lend and clean up.
        choose: Returns the names of those nodes that are lent from; None: of all.
    """

    def __init__(
        self,
        nodes: Iterable[Node] | str,
        options: PoolOptions | None = None,
        *,
        choose: Callable[[Iterable[Node]], Collection[str]] | None = None,
    ) -> None:
        self.options = options = options or PoolOptions()
        sources = [Node("main", nodes)] if isinstance(nodes, str) else list(nodes)
        if len({node.database for node in sources}) != 1:
            raise ValueError("a pool has nodes, and they are of one database")
        self._prober = Prober(
            sources,
            self._found,
            self._due,
            self._answered,
            self._doubt,
            interval=options.lookup_interval,
        )
        self._lending = Lending(
            NodeSet(
                self._prober.nodes,
                random=random.random,
                interval=options.probe_interval,
            ),
            options.max_size,
            options.max_waiting,
            sources[0].database,
            choose,
        )
        self._lock = threading.Lock()
        self._pools: dict[str, P] = {}
        self._opening: dict[str, Node] = {}
        self._loans: dict[int, Loan] = {}
        self._returned: weakref.WeakKeyDictionary[Connection, float] = (
            weakref.WeakKeyDictionary()
        )
        self._pid = 0
        self._closed = False

    @classmethod
    def from_config(
        cls,
        path: str | os.PathLike[str] | None = None,
        group: str = "",
        *,
        environ: Mapping[str, str] | None = None,
        **changes: Any,
    ) -> Self:
        """Return the pool that the configuration describes for a group.

        Args:
            path: The configuration file; None for the one that the commands would use.
            group: Its name; empty if there is only one.
            environ: The environment's variables; None for the process's own.
            changes: Fields of `PoolOptions`, which go before what the group says.

        Raises:
            ConfigError: The configuration is wrong, or there is no such group.
            InvalidDsn: So is a DSN.
        """
        variables = os.environ if environ is None else environ
        found = read_pool(path, group, variables, **changes)
        return cls(found.nodes, found.options, choose=found.choose)

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
            self._lending.dismiss()
        self._prober.stop()
        return pools

    # Loans

    def _wish(
        self, access: str | None, max_lag: float | None, min_lsn: int | str | None
    ) -> Wish:
        """Return what a borrower wants.

        Raises:
            ValueError: There is no such wish, or not here.
        """
        wish = Wish.of(access or self.options.access, max_lag, min_lsn)
        if wish.access != "read" and self.options.access == "read":
            raise ValueError(
                'this pool only reads (access="read"); to write, use one that does not'
            )
        return wish

    def _ask(self, ticket: Ticket) -> str | None:
        """Return the node to fetch from, or None: the ticket's holder has to wait.

        Raises:
            Unavailable: The pool was closed.
        """
        with self._lock:
            self._check_open()
            self._lending.ask(ticket, monotonic())
            return ticket.name

    def _impatient(self, ticket: Ticket, begun: float, deadline: float) -> None:
        """Raise if there is no use in waiting; one may have been served meanwhile.

        Raises:
            Unavailable: No node suits, it is too late, or the pool was closed.
        """
        with self._lock:
            now = monotonic()
            if ticket.name is not None:
                return
            self._check_open()
            if now >= deadline or self._lending.refusal(ticket.wish, now):
                raise self._lending.too_late(ticket.wish, now - begun, now)

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable("the pool was closed")

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

    def _starved(self, name: str, waited: float, *, growing: bool) -> None:
        """Doubt a node that gave no connection, unless one is just slow to make."""
        if waited >= PATIENCE and not growing:
            self._doubt(name, "it did not give a connection")

    def _due(self) -> tuple[list[str], float]:
        with self._lock:
            now = monotonic()
            names = self._lending.nodes.due(now)
            return names, max(0.0, self._lending.nodes.wake_at() - now)

    def _found(self, nodes: list[Node]) -> None:
        """Have these nodes from now on, and close the pools of those that have gone."""
        with self._lock:
            change = self._lending.update(nodes)
            dropped = [
                self._pools.pop(name) for name in change.gone if name in self._pools
            ]
            self._lending.serve(monotonic())
        if change.gone:
            log.info("nodes that have gone: %s", ", ".join(change.gone))
        for pool in dropped:
            self._shut(pool)

    def _answered(self, name: str, answer: Probe | NoAnswer) -> None:
        """Note a node's answer; connect to it, or drop its connections."""
        with self._lock:
            alarms = self._lending.answered(name, answer, monotonic())
            up, down = self._lending.outdated()
            wanted = [self._lending.nodes.state(other).node for other in up]
            opening = [node for node in wanted if not self._is_opening(node)]
            self._opening.update({node.name: node for node in opening})
            dropped = [self._pools.pop(other) for other in down]
            self._lending.opened.difference_update(down)
            self._lending.serve(monotonic())
            if isinstance(answer, NoAnswer) and answer.silent:
                for loan in self._loans.values():
                    if loan.name == name:
                        loan.cut(answer.why)
        if isinstance(answer, NoAnswer) and down:
            log.warning("node %s is down: %s", name, answer.why)
        for alarm in alarms:
            log.warning(alarm)
        for node in opening:
            self._open(node)
        for pool in dropped:
            self._shut(pool)

    @abstractmethod
    def _open(self, node: Node) -> None:
        """Connect to a node, and then `_add` its pool; waits for nothing."""

    @abstractmethod
    def _shut(self, pool: P) -> None:
        """Close a pool; waits for nothing."""

    def _add(self, node: Node, pool: P) -> bool:
        """Lend from this pool too; False if there is no more use for it."""
        name = node.name
        with self._lock:
            if self._is_opening(node):
                del self._opening[name]
            if self._closed or not self._lending.nodes.is_up(node):
                return False
            self._pools[name] = pool
            self._lending.opened.add(name)
            self._lending.serve(monotonic())
        log.info("node %s is up", name)
        return True

    def _give_up(self, node: Node, error: Exception) -> None:
        """Note that a pool could not be made; the node's next answer tries again."""
        why = in_short(error)
        with self._lock:
            if self._is_opening(node):
                del self._opening[node.name]
            self._lending.heard(node.name, why)
        log.warning("node %s cannot be lent from yet: %s", node.name, why)

    def _is_opening(self, node: Node) -> bool:
        """Tell whether a pool for this very server is on its way."""
        other = self._opening.get(node.name)
        return other is not None and other.is_same_server(node)

    def _arguments(self, node: Node) -> dict[str, Any]:
        """Return how psycopg's pool for a node is to be made."""

        def tell(why: str) -> None:
            with self._lock:
                self._lending.heard(node.name, why)

        return self.options.arguments(node.dsn, node.name, tell=tell)

"""Connections for the threads of one process, to whichever node suits.

A `NodePool` has one `psycopg_pool.ConnectionPool` for each node that is up. Which node
a borrower gets is decided by `lending`; how a connection is handed out, ended and swept
stands in `hygiene`. Here is where threads wait.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from time import monotonic
from typing import Any, Self

import psycopg
from psycopg import waiting
from psycopg.rows import tuple_row

from falconas.database.hygiene import (
    CHECK_TIMEOUT,
    POSITION,
    RESET_TIMEOUT,
    Ending,
    Loan,
    Sweeping,
    blame,
    exchange,
    explain,
    greeting,
    needs_check,
)
from falconas.database.lender import PATIENCE, Lender
from falconas.database.lending import Ticket, Wish
from falconas.database.nodes import Node
from falconas.database.options import PoolOptions
from falconas.database.told import Told
from falconas.database.wording import in_short

try:
    from psycopg_pool import ConnectionPool, PoolClosed, PoolTimeout
except ImportError as error:
    raise ImportError(
        "NodePool needs psycopg-pool: pip install 'falconas[pool]'"
    ) from error

__all__ = ["Node", "NodePool", "PoolOptions"]

log = logging.getLogger(__name__)

NodeConnections = ConnectionPool[psycopg.Connection[Any]]


class NodePool(Lender[NodeConnections]):
    """Connections to the nodes of one database, for the threads of a process.

    It opens with the first use: so a server that forks can make it before, as long as
    it does not use it there.

    Args:
        nodes: The nodes, all of one database, or one DSN. Nodes come and go if some of
            these have to be looked up.
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
        super().__init__(nodes, options, choose=choose)
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._prober.run()),
            name="falconas-probe",
            daemon=True,
        )

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self) -> None:
        """Begin to probe and to connect; waits for nothing. The first use does it."""
        if self._begin():
            try:
                self._thread.start()
            except RuntimeError:  # there are too many threads: the next use tries again
                self._pid = 0
                raise
            atexit.register(self.close)

    def close(self, timeout: float = 5.0) -> None:
        """Close all connections; those in use when they are returned."""
        if self._is_foreign():
            return  # they are the parent's
        pools = self._finish()
        atexit.unregister(self.close)
        if self._thread.is_alive():
            self._thread.join(timeout)
        for pool in pools:
            pool.close(timeout)

    @contextmanager
    def connection(
        self,
        access: str | None = None,
        *,
        timeout: float | None = None,
        max_lag: float | None = None,
        min_lsn: int | str | None = None,
    ) -> Iterator[psycopg.Connection[Any]]:
        """Lend a connection for a block: commit at its end, roll back if it raises.

        Args:
            access: "write": to the primary. "read": to any node that suits, and
                PostgreSQL refuses writes. None: as the options say.
            timeout: Seconds to wait for it; None for the pool's.
            max_lag: Seconds that a standby may be behind.
            min_lsn: Position, see `lsn`, that the node must have replayed.

        Raises:
            ValueError: There is no such access, or this pool only reads.
            Unavailable: Within the timeout no node suited or had a connection free.
                From the block's end, with started=unknown: the outcome of the COMMIT is
                not sure.
            ResourceExhausted: Too many are waiting already.
            Aborted: The block's end: its transaction had failed inside, or it was left
                unfinished, by a pipeline or the like that is open still.
        """
        wish = self._wish(access, max_lag, min_lsn)
        self.open()
        loan = self._borrow(wish, self.options.timeout if timeout is None else timeout)
        failure: BaseException | None = None
        try:
            yield loan.connection
            self._check_process()
            self._end(loan)
        except BaseException as error:
            failure = error
            explain(error, loan)
            raise
        finally:
            self._return(loan, failure)

    def lsn(self, timeout: float | None = None) -> int:
        """Return a position in the log after everything committed so far.

        A later read with this `min_lsn` sees what was written before.
        """
        with self.connection("write", timeout=timeout) as connection:
            row = connection.cursor(row_factory=tuple_row).execute(POSITION).fetchone()
        assert row is not None
        return int(row[0])

    # Borrowing

    def _borrow(self, wish: Wish, timeout: float) -> Loan:
        begun = monotonic()
        while True:
            served = threading.Event()
            ticket = Ticket(wish, served.set)
            name = self._ask(ticket) or self._wait(
                ticket, served, begun, begun + timeout
            )
            loan = None
            try:
                loan = self._fetch(name, wish, begun + timeout)
            finally:
                if loan is None:
                    self._release(name)
            if loan is not None:
                return loan
            if monotonic() >= begun + timeout:
                raise self._too_late(ticket, begun)

    def _wait(
        self, ticket: Ticket, served: threading.Event, begun: float, deadline: float
    ) -> str:
        """Return the node that one was given, in the order in which all came."""
        until = min(deadline, begun + self.options.node_wait)
        try:
            while ticket.name is None:
                served.wait(max(0.0, until - monotonic()))
                self._impatient(ticket, begun, deadline)
                until = deadline
        except BaseException:
            self._withdraw(ticket)
            raise
        return ticket.name

    def _fetch(self, name: str, wish: Wish, deadline: float) -> Loan | None:
        """Return a connection that is alive; None if this node has none."""
        pool = self._pools.get(name)
        if pool is None:
            return None
        patience = min(PATIENCE, max(0.001, deadline - monotonic()))
        try:
            connection = pool.getconn(patience)
        except PoolClosed:
            return None
        except PoolTimeout:
            self._starved(name, patience, growing=pool._growing)  # noqa: SLF001
            return None
        if connection.closed:
            pool.putconn(connection)
            return None
        loan = self._lend(name, connection, pool, wish.access)
        try:
            self._hand_out(loan)
        except psycopg.Error as error:
            self._discard(loan)
            self._suspect(name, f"an idle connection was lost: {in_short(error)}")
            return None
        except BaseException:
            self._discard(loan)
            raise
        return loan

    def _hand_out(self, loan: Loan) -> None:
        """Make a connection ready for its borrower; raises if it is of no use."""
        connection, autocommit = loan.connection, self.options.autocommit
        messages = greeting(loan.access, autocommit=autocommit)
        if needs_check(connection, self._idle(connection)):
            messages = [b"", *messages]
        if messages:
            _exchange(connection, messages, CHECK_TIMEOUT)
        if loan.access == "read" and not autocommit:
            connection.read_only = True

    # The end of a block

    def _end(self, loan: Loan) -> None:
        ending = Ending(loan)
        if (verdict := ending.verdict()) is not None:
            raise verdict
        if not ending.is_due():
            return
        try:
            loan.connection.commit()
        except psycopg.Error as error:
            raise ending.failed(error) from error
        ending.check()

    def _return(self, loan: Loan, failure: BaseException | None) -> None:
        if self._is_foreign():
            return  # the connection is the parent's
        why = blame(failure, loan)
        clean = False
        try:
            clean = not why and self._sweep(loan)
        finally:
            if not clean:
                loan.connection.close()
            self._account(loan, failure, why)
            loan.pool.putconn(loan.connection)
            if why:
                self._suspect(loan.name, why)
            self._release(loan.name)

    def _sweep(self, loan: Loan) -> bool:
        """Make a connection ready for others; False if it has to be closed."""
        sweeping = Sweeping(loan, self.options.reset)
        if sweeping.is_vain():
            return False
        try:
            answers = _exchange(loan.connection, sweeping.messages(), RESET_TIMEOUT)
            for name, value in sweeping.restore():
                getattr(loan.connection, f"set_{name}")(value)
            return sweeping.is_clean(answers)
        except psycopg.Error as error:
            log.warning(
                "a connection to %s is replaced: %s", loan.name, in_short(error)
            )
            return False

    def _discard(self, loan: Loan) -> None:
        self._forget(loan)
        loan.connection.close()
        loan.pool.putconn(loan.connection)

    # What is heard of the nodes

    def _suspect(self, name: str, why: str) -> None:
        """Have a node probed at once, and its idle connections replaced."""
        pool = self._doubt(name, why)
        if pool is not None:
            with suppress(PoolClosed):
                pool.drain()

    def _open(self, node: Node) -> None:
        pool: NodeConnections = ConnectionPool(
            **self._arguments(node),
            connection_class=Told,
            reconnect_failed=lambda _: self._suspect(
                node.name, "no connection was made"
            ),
        )
        try:
            pool.open()
        except Exception as error:
            self._give_up(node, error)
            self._shut(pool)
        else:
            if not self._add(node, pool):
                self._shut(pool)

    def _shut(self, pool: NodeConnections) -> None:
        # A thread may be stuck in connecting to a node that stands still.
        try:
            threading.Thread(target=pool.close, daemon=True).start()
        except RuntimeError:  # there are too many threads
            pool.close(0)


def _exchange(
    connection: psycopg.Connection[Any], messages: list[bytes], timeout: float
) -> list[Any]:
    return waiting.wait(
        exchange(connection.pgconn, messages),
        connection.pgconn.socket,
        timeout=timeout,
    )

"""Connections for the coroutines of one event loop, to whichever node suits.

The twin of `pool`, which see; all that decides is shared.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterable
from contextlib import asynccontextmanager, suppress
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
from falconas.database.told import AsyncTold
from falconas.database.wording import in_short

try:
    from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout
except ImportError as error:
    raise ImportError(
        "AsyncNodePool needs psycopg-pool: pip install 'falconas[pool]'"
    ) from error

__all__ = ["AsyncNodePool"]

log = logging.getLogger(__name__)

NodeConnections = AsyncConnectionPool[psycopg.AsyncConnection[Any]]


class AsyncNodePool(Lender[NodeConnections]):
    """Connections to the nodes of one database, for the coroutines of an event loop.

    It opens with the first use, and belongs to the loop of that.

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
        self._probing: asyncio.Task[None] | None = None
        self._errands: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def open(self) -> None:
        """Begin to probe and to connect; waits for nothing. The first use does it."""
        if self._begin():
            self._probing = asyncio.create_task(self._prober.run())

    async def close(self) -> None:
        """Close all connections; those in use when they are returned."""
        if self._is_foreign():
            return  # they are the parent's
        pools = self._finish()
        if self._probing is not None:
            await self._probing
        for pool in pools:
            await pool.close()
        await asyncio.gather(*self._errands)

    @asynccontextmanager
    async def connection(
        self,
        access: str | None = None,
        *,
        timeout: float | None = None,  # noqa: ASYNC109
        max_lag: float | None = None,
        min_lsn: int | str | None = None,
    ) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
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
        await self.open()
        loan = await self._borrow(
            wish, self.options.timeout if timeout is None else timeout
        )
        failure: BaseException | None = None
        try:
            yield loan.connection
            self._check_process()
            await self._end(loan)
        except BaseException as error:
            failure = error
            explain(error, loan)
            raise
        finally:
            await self._surely(self._return(loan, failure))

    async def lsn(self, timeout: float | None = None) -> int:  # noqa: ASYNC109
        """Return a position in the log after everything committed so far.

        A later read with this `min_lsn` sees what was written before.
        """
        async with self.connection("write", timeout=timeout) as connection:
            cursor = connection.cursor(row_factory=tuple_row)
            await cursor.execute(POSITION)
            row = await cursor.fetchone()
        assert row is not None
        return int(row[0])

    # Borrowing

    async def _borrow(self, wish: Wish, patience: float) -> Loan:
        begun = monotonic()
        deadline = begun + patience
        while True:
            served = asyncio.Event()
            ticket = Ticket(wish, served.set)
            name = self._ask(ticket) or await self._wait(
                ticket, served, begun, deadline
            )
            loan = None
            try:
                loan = await self._fetch(name, wish, deadline)
            finally:
                if loan is None:
                    self._release(name)
            if loan is not None:
                return loan
            if monotonic() >= deadline:
                raise self._too_late(ticket, begun)

    async def _wait(
        self, ticket: Ticket, served: asyncio.Event, begun: float, deadline: float
    ) -> str:
        """Return the node that one was given, in the order in which all came."""
        until = min(deadline, begun + self.options.node_wait)
        try:
            while ticket.name is None:
                with suppress(TimeoutError):
                    async with asyncio.timeout(until - monotonic()):
                        await served.wait()
                self._impatient(ticket, begun, deadline)
                until = deadline
        except BaseException:
            self._withdraw(ticket)
            raise
        return ticket.name

    async def _fetch(self, name: str, wish: Wish, deadline: float) -> Loan | None:
        """Return a connection that is alive; None if this node has none."""
        pool = self._pools.get(name)
        if pool is None:
            return None
        patience = min(PATIENCE, max(0.001, deadline - monotonic()))
        try:
            connection = await pool.getconn(patience)
        except PoolClosed:
            return None
        except PoolTimeout:
            self._starved(name, patience, growing=pool._growing)  # noqa: SLF001
            return None
        if connection.closed:
            await pool.putconn(connection)
            return None
        loan = self._lend(name, connection, pool, wish.access)
        try:
            await self._hand_out(loan)
        except psycopg.Error as error:
            await self._surely(self._discard(loan))
            await self._suspect(name, f"an idle connection was lost: {in_short(error)}")
            return None
        except BaseException:
            await self._surely(self._discard(loan))
            raise
        return loan

    async def _hand_out(self, loan: Loan) -> None:
        """Make a connection ready for its borrower; raises if it is of no use."""
        connection, autocommit = loan.connection, self.options.autocommit
        messages = greeting(loan.access, autocommit=autocommit)
        if needs_check(connection, self._idle(connection)):
            messages = [b"", *messages]
        if messages:
            await _exchange(connection, messages, CHECK_TIMEOUT)
        if loan.access == "read" and not autocommit:
            await connection.set_read_only(True)

    # The end of a block

    async def _end(self, loan: Loan) -> None:
        ending = Ending(loan)
        if (verdict := ending.verdict()) is not None:
            raise verdict
        if not ending.is_due():
            return
        try:
            await loan.connection.commit()
        except psycopg.Error as error:
            raise ending.failed(error) from error
        ending.check()

    async def _return(self, loan: Loan, failure: BaseException | None) -> None:
        if self._is_foreign():
            return  # the connection is the parent's
        why = blame(failure, loan)
        clean = False
        try:
            clean = not why and await self._sweep(loan)
        finally:
            if not clean:
                await loan.connection.close()
            self._account(loan, failure, why)
            await loan.pool.putconn(loan.connection)
            if why:
                await self._suspect(loan.name, why)
            self._release(loan.name)

    async def _sweep(self, loan: Loan) -> bool:
        """Make a connection ready for others; False if it has to be closed."""
        sweeping = Sweeping(loan, self.options.reset)
        if sweeping.is_vain():
            return False
        try:
            answers = await _exchange(
                loan.connection, sweeping.messages(), RESET_TIMEOUT
            )
            for name, value in sweeping.restore():
                await getattr(loan.connection, f"set_{name}")(value)
            return sweeping.is_clean(answers)
        except psycopg.Error as error:
            log.warning(
                "a connection to %s is replaced: %s", loan.name, in_short(error)
            )
            return False

    async def _discard(self, loan: Loan) -> None:
        self._forget(loan)
        await loan.connection.close()
        await loan.pool.putconn(loan.connection)

    # What is heard of the nodes

    async def _suspect(self, name: str, why: str) -> None:
        """Have a node probed at once, and its idle connections replaced."""
        pool = self._doubt(name, why)
        if pool is not None:
            with suppress(PoolClosed):
                await pool.drain()

    def _open(self, node: Node) -> None:
        self._send(self._connect(node))

    def _shut(self, pool: NodeConnections) -> None:
        self._send(pool.close())

    def _send(self, errand: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(errand)
        self._errands.add(task)
        task.add_done_callback(self._errands.discard)
        return task

    async def _surely(self, errand: Coroutine[Any, Any, None]) -> None:
        """Do something to its end, even if the borrower is cancelled meanwhile."""
        await asyncio.shield(self._send(errand))

    async def _connect(self, node: Node) -> None:
        async def failed(_: NodeConnections) -> None:
            await self._suspect(node.name, "no connection was made")

        pool: NodeConnections = AsyncConnectionPool(
            **self._arguments(node),
            connection_class=AsyncTold,
            reconnect_failed=failed,
        )
        try:
            await pool.open()
        except Exception as error:
            self._give_up(node, error)
            await pool.close()
        else:
            if not self._add(node, pool):
                await pool.close()


async def _exchange(
    connection: psycopg.AsyncConnection[Any], messages: list[bytes], patience: float
) -> list[Any]:
    return await waiting.wait_async(
        exchange(connection.pgconn, messages),
        connection.pgconn.socket,
        timeout=patience,
    )

"""Finds the nodes, and asks each what it is: role, position in the log, lag.

It lives in an event loop, with one connection of its own to each node, so that a node
which does not answer keeps nobody else waiting. One that stands still is in doubt
`ASK` after it was asked, and down after `CONNECT` more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from time import monotonic
from typing import Any

import psycopg
from psycopg import errors, waiting

from falconas.database.conninfo import conninfo
from falconas.database.discovery import INTERVAL, Discovery
from falconas.database.hygiene import exchange
from falconas.database.nodes import NoAnswer, Node, Probe, Role
from falconas.database.wording import in_short, is_refusal

ASK = 1.0
CONNECT = 2.0

# A primary has no lag. A standby does not say which timeline it replays; what it has
# received (seen with pg_monitor's rights only), or noted of the past, are lower bounds.
_QUERY = b"""
SELECT recovering,
    pg_catalog.pg_wal_lsn_diff(CASE WHEN recovering
        THEN pg_catalog.pg_last_wal_replay_lsn()
        ELSE pg_catalog.pg_current_wal_flush_lsn() END, '0/0'),
    CASE WHEN recovering THEN pg_catalog.to_hex(GREATEST(
        (SELECT received_tli FROM pg_catalog.pg_stat_get_wal_receiver()),
        (SELECT timeline_id FROM pg_catalog.pg_control_checkpoint()),
        (SELECT min_recovery_end_timeline FROM pg_catalog.pg_control_recovery())))
        ELSE pg_catalog.left(pg_catalog.pg_walfile_name(
        pg_catalog.pg_current_wal_flush_lsn()), 8) END,
    CASE WHEN recovering THEN EXTRACT(epoch FROM pg_catalog.clock_timestamp()
        - pg_catalog.pg_last_xact_replay_timestamp()) END,
    recovering AND pg_catalog.pg_last_wal_receive_lsn()
        = pg_catalog.pg_last_wal_replay_lsn()
        AND EXISTS (SELECT FROM pg_catalog.pg_stat_get_wal_receiver()
            AS receiver WHERE receiver.pid IS NOT NULL),
    (SELECT system_identifier FROM pg_catalog.pg_control_system())
FROM (SELECT pg_catalog.pg_is_in_recovery() AS recovering) AS role
"""


class Prober:
    """Finds the nodes, and probes those that are due.

    What it tells is about the nodes that `found` gave last: of one that is dropped, or
    is another server since, the outstanding probe is abandoned without an answer.

    Args:
        sources: The nodes as configured; see `discovery`.
        found: Is told all nodes: first when `run` begins, if some are known without a
            look-up, and then at each change.
        due: Returns which are due now, and how long there is nothing to do after that.
        answered: Is told what a node answered, or why it did not.
        doubted: Is told that the answer of a node takes long.
        interval: Seconds between two look-ups.

    Raises:
        InvalidDsn: A DSN cannot be read.
        ValueError: A URL cannot be read.
    """

    def __init__(
        self,
        sources: Iterable[Node],
        found: Callable[[list[Node]], object],
        due: Callable[[], tuple[list[str], float]],
        answered: Callable[[str, Probe | NoAnswer], None],
        doubted: Callable[[str, str], object],
        *,
        interval: float = INTERVAL,
    ) -> None:
        self._discovery = Discovery(sources, self._take, interval=interval)
        self._found = found
        self._due = due
        self._answered = answered
        self._doubted = doubted
        self._nodes = {node.name: node for node in self._discovery.nodes}
        self._connections: dict[str, psycopg.AsyncConnection[Any]] = {}  # idle ones
        self._probes: dict[str, asyncio.Task[None]] = {}
        self._errands: set[asyncio.Task[None]] = set()
        self._news = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = False

    @property
    def nodes(self) -> list[Node]:
        """Those that are known at present."""
        return list(self._nodes.values())

    def nudge(self) -> None:
        """Look at once whether a node is due; from any thread."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._news.set)

    def stop(self) -> None:
        """End `run`; from any thread."""
        self._stopping = True
        self.nudge()

    async def run(self) -> None:
        """Look up and probe until stopped or cancelled."""
        self._loop = asyncio.get_running_loop()
        self._send(self._discovery.run())
        try:
            while not self._stopping:
                self._news.clear()
                names, pause = self._due()
                for name in names:
                    if name in self._nodes and name not in self._probes:
                        self._probes[name] = self._send(self._probe(name))
                try:
                    async with asyncio.timeout(min(pause, 60.0)):
                        await self._news.wait()
                except TimeoutError:
                    pass
        finally:
            for task in self._errands:
                task.cancel()
            await asyncio.gather(*self._errands, return_exceptions=True)
            for connection in self._connections.values():
                await connection.close()

    def _send(self, errand: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(errand)
        self._errands.add(task)
        task.add_done_callback(self._errands.discard)
        return task

    def _take(self, nodes: list[Node]) -> None:
        """Have these nodes from now on."""
        before, self._nodes = self._nodes, {node.name: node for node in nodes}
        for name, node in before.items():
            if name in self._nodes and node.is_same_server(self._nodes[name]):
                continue
            if (probe := self._probes.pop(name, None)) is not None:
                probe.cancel()
            if (connection := self._connections.pop(name, None)) is not None:
                self._send(connection.close())
        self._found(nodes)
        self._news.set()

    async def _probe(self, name: str) -> None:
        answer: Probe | NoAnswer
        try:
            answer = await self._ask(name)
        except TimeoutError:
            answer = NoAnswer(f"no connection within {CONNECT:g} s", silent=True)
        except Exception as error:
            answer = NoAnswer(
                in_short(error), silent=_is_silence(error), refused=is_refusal(error)
            )
        del self._probes[name]
        try:
            self._answered(name, answer)
        finally:
            self._news.set()

    async def _ask(self, name: str) -> Probe:
        """Ask a node; one whose connection does not answer is dialled anew."""
        dsn = conninfo(self._nodes[name].dsn, application_name="falconas/probe")
        known = self._connections.pop(name, None)
        if known is not None:
            try:
                return await self._hear(name, known)
            except Exception as error:
                self._doubted(name, in_short(error))
        async with asyncio.timeout(CONNECT):
            fresh = await psycopg.AsyncConnection.connect(dsn, autocommit=True)
        return await self._hear(name, fresh)

    async def _hear(self, name: str, connection: psycopg.AsyncConnection[Any]) -> Probe:
        """Ask by a connection, which is kept if it answers."""
        try:
            probe = await _question(connection)
        except BaseException:
            await connection.close()
            raise
        self._connections[name] = connection
        return probe


async def _question(connection: psycopg.AsyncConnection[Any]) -> Probe:
    begun = monotonic()
    (answer,) = await waiting.wait_async(
        exchange(connection.pgconn, [_QUERY]),
        connection.pgconn.socket,
        timeout=ASK,
    )
    recovering, lsn, timeline, age, streaming, system = (
        answer.get_value(0, column) for column in range(6)
    )
    return Probe(
        Role.STANDBY if recovering == b"t" else Role.PRIMARY,
        int(lsn or b"0"),
        int(timeline or b"0", 16),
        None if age is None else float(age),
        streaming == b"t",
        monotonic() - begun,
        int(system or b"0"),
    )


def _is_silence(error: Exception) -> bool:
    """Tell whether a node said nothing, not even no."""
    return isinstance(error, (errors.ConnectionTimeout, errors._WaitTimeout))  # noqa: SLF001

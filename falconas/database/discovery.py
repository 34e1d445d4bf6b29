"""Which nodes there are, where the configuration says only where to look.

A DSN with several hosts is a node for each. With `dns` each address that a host
resolves to is one, and with `patroni` each running member of that cluster. Both are
looked up anew at an interval. A look-up that fails, or finds nothing or too much,
changes nothing: nodes that are gone are found to be down by their probes, and while
there was no answer at all the DSN's own hosts are used. What is found twice at one
address is one node. Roles are probed, whatever Patroni says.
"""

from __future__ import annotations

import asyncio
import http.client
import logging
import socket
import threading
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from falconas.database.conninfo import PORT, address, at, by_host, label
from falconas.database.patroni import LIMIT, Api, members
from falconas.database.topology import Node, objection

INTERVAL = 30.0
RETRY = 1.0  # after a failure; doubles up to the interval
PATIENCE = 3.0  # with a look-up, and with each URL
MOST = 100  # nodes by one look-up

Result = TypeVar("Result")
Resolve = Callable[[str], Awaitable[Sequence[str]]]
Fetch = Callable[[Api], Awaitable[bytes]]

log = logging.getLogger(__name__)


class Discovery:
    """Finds the nodes behind the configured ones.

    Args:
        sources: The nodes as configured.
        found: Is told all nodes, first if some are known without a look-up, and then
            at each change. Their names are unique.
        interval: Seconds between two look-ups.
        resolve: Returns the addresses of a host.
        fetch: Returns what Patroni answers.
        pause: Waits for so many seconds.

    Raises:
        InvalidDsn: A DSN cannot be read.
        ValueError: A URL cannot be read, two nodes have the same name, or there are too
            many.
    """

    def __init__(
        self,
        sources: Iterable[Node],
        found: Callable[[list[Node]], object],
        *,
        interval: float = INTERVAL,
        resolve: Resolve | None = None,
        fetch: Fetch | None = None,
        pause: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._found = found
        self._interval = interval
        self._resolve = resolve or addresses
        self._fetch = fetch or answer
        self._pause = pause
        self._sources = list(sources)
        self._nodes: list[list[Node]] = []  # of each source
        for source in self._sources:
            hosts = _hosts(source)
            for url in source.patroni:
                Api.of(url)
            self._nodes.append([] if _is_looked_up(source) else hosts)
        if why := objection(self._sources) or objection(self.nodes):
            raise ValueError(why)

    @property
    def nodes(self) -> list[Node]:
        """All that are known at present."""
        return [node for found in self._nodes for node in found]

    async def run(self) -> None:
        """Look up until cancelled; ends at once if there is nothing to be looked up."""
        if self.nodes:
            self._found(self.nodes)
        async with asyncio.TaskGroup() as tasks:
            for index, source in enumerate(self._sources):
                if _is_looked_up(source):
                    tasks.create_task(self._watch(index, source))

    async def _watch(self, index: int, source: Node) -> None:
        delay, said = RETRY, ""
        while True:
            try:
                nodes = await self._look_up(source, self._nodes[index])
                self._have(index, nodes)
            except Exception as error:
                why = " ".join(str(error).split()) or type(error).__name__
                if why != said:
                    log.warning("no new answer on node %s: %s", source.name, why[:500])
                if not self._nodes[index]:
                    self._have_hosts(index, source)
                said, pause, delay = why, min(delay, self._interval), delay * 2
            else:
                said, pause, delay = "", self._interval, RETRY
            await self._pause(pause)

    def _have(self, index: int, nodes: list[Node]) -> None:
        """Have these nodes of a source from now on, and tell if they are others.

        Raises:
            ValueError: They do not go with those of the other sources.
        """
        if nodes == self._nodes[index]:
            return
        known = [*self._nodes[:index], nodes, *self._nodes[index + 1 :]]
        everything = [node for found in known for node in found]
        if why := objection(everything):
            raise ValueError(f"with what was found {why}")
        self._found(everything)
        self._nodes = known

    def _have_hosts(self, index: int, source: Node) -> None:
        """Use the hosts of the DSN, as long as nothing was found."""
        hosts = _hosts(source) if address(source.dsn).get("host") else []
        with suppress(ValueError):  # the look-up's own failure has been said
            self._have(index, hosts)

    async def _look_up(self, source: Node, known: list[Node]) -> list[Node]:
        """Return the nodes of a source; raises if there is no sound answer."""
        if not source.patroni:
            found = [await self._resolved(source, host) for host in _hosts(source)]
            return _apart([node for nodes in found for node in nodes])
        failures = []
        for api in map(Api.of, source.patroni):
            try:
                async with asyncio.timeout(PATIENCE):
                    body = await self._fetch(api)
                return _apart(_running(source, body, {node.name for node in known}))
            except TimeoutError:
                failures.append(f"{api}: no answer within {PATIENCE:g} s")
            except (OSError, ValueError, http.client.HTTPException) as error:
                failures.append(f"{api}: {str(error) or type(error).__name__}")
        raise LookupError("; ".join(failures))

    async def _resolved(self, source: Node, host: Node) -> list[Node]:
        """Return a node for each address of one of a source's hosts."""
        place = address(host.dsn)
        name = place.get("host", "")
        if place.get("hostaddr") or name.startswith(("/", "@")):
            return [host]
        if not name:
            raise LookupError("its DSN names no host to be looked up")
        async with asyncio.timeout(PATIENCE):
            found = await self._resolve(name)
        if not found:
            raise LookupError(f"{name} has no address")
        return [
            replace(
                host,
                name=f"{source.name}/{label(place | {'host': one})}",
                dsn=at(host.dsn, **place, hostaddr=one),
            )
            for one in found
        ]


async def addresses(host: str) -> list[str]:
    """Return the addresses of a host, of that family which the system prefers.

    A host that has both is one server, not two.
    """
    found = await in_thread(
        partial(socket.getaddrinfo, host, None, type=socket.SOCK_STREAM)
    )
    return sorted({str(item[4][0]) for item in found if item[0] == found[0][0]})


async def answer(api: Api) -> bytes:
    """Return what Patroni answers, or the first LIMIT bytes of it and one more."""
    kind = http.client.HTTPSConnection if api.secure else http.client.HTTPConnection
    connection = kind(api.host, api.port, timeout=PATIENCE)
    lines: list[socket.socket] = []
    try:
        return await in_thread(partial(_get, connection, api.path, lines))
    finally:
        for line in lines:  # so that the thread does not wait when we do no more
            with suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)


def _get(
    connection: http.client.HTTPConnection, path: str, lines: list[socket.socket]
) -> bytes:
    try:
        connection.connect()
        lines.append(connection.sock)
        connection.request("GET", path)
        with connection.getresponse() as response:
            if response.status != http.HTTPStatus.OK:
                raise ValueError(f"it answers with status {response.status}")
            return response.read(LIMIT + 1)
    finally:
        connection.close()


async def in_thread(work: Callable[[], Result]) -> Result:
    """Return what a function returns that may block.

    Nobody waits for its thread at the end of the process, as asyncio does for its own.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Result] = loop.create_future()

    def settle(end: Callable[[Any], None], what: Any) -> None:
        if not future.done():
            end(what)

    def run() -> None:
        call: tuple[Callable[[Any], None], Any]
        try:
            call = future.set_result, work()
        except Exception as error:
            call = future.set_exception, error
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(settle, *call)

    threading.Thread(target=run, name="falconas-lookup", daemon=True).start()
    return await future


def _is_looked_up(source: Node) -> bool:
    return source.dns or bool(source.patroni)


def _hosts(source: Node) -> list[Node]:
    """Return a node for each host of a DSN; one alone keeps name and DSN."""
    plain = replace(source, dns=False, patroni=())
    hosts = by_host(source.dsn)
    if len(hosts) == 1:
        return [plain]
    return [
        replace(plain, name=f"{source.name}/{host}", dsn=dsn)
        for host, dsn in hosts.items()
    ]


def _apart(nodes: list[Node]) -> list[Node]:
    """Return the first node at each address: two there would be two primaries.

    Raises:
        ValueError: They are too many.
    """
    found: dict[tuple[str, str], Node] = {}
    for node in nodes:
        place = address(node.dsn)
        host = place.get("hostaddr") or place.get("host", "")
        found.setdefault((host, place.get("port", PORT)), node)
    if len(found) > MOST:
        raise ValueError(f"it found {len(found)} nodes; {MOST} are the most")
    return list(found.values())


def _running(source: Node, body: bytes, known: set[str]) -> list[Node]:
    """Return the nodes of a Patroni cluster: who runs, or did so before."""
    found = [
        replace(
            source,
            name=f"{source.name}/{member.name}",
            dsn=at(source.dsn, host=member.host or "", port=str(member.port)),
            weight=0.0 if member.reserve else source.weight,
            dns=False,
            patroni=(),
        )
        for member in members(body)
        if member.running or f"{source.name}/{member.name}" in known
    ]
    if not found:
        raise ValueError("no member is running")
    return found

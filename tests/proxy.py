"""A network that fails on demand: a TCP proxy between a client and, say, PostgreSQL.

    with Proxy(cluster["n1"].dsn()) as proxy:
        connection = psycopg.connect(proxy.dsn)
        proxy.answers.delay = 0.1       each piece of what the server sends is late
        proxy.hold()                    black hole; after `heal` it goes on, as TCP does
        proxy.requests.swallow()        the same one way, and what was sent is lost
        proxy.stop_accepting()          connects, by the kernel, and never answers
        proxy.refuse()                  nobody listens
        proxy.reset()                   RST to both sides of every connection
        proxy.requests.cut_after(100)   RST when 100 more bytes have passed
        cut = proxy.cut_at(b"COMMIT", Moment.ANSWERED)
        assert cut.wait(5)              it has happened; the proxy goes on with others
        proxy.heal()                    accepts and passes everything on again

The kernel acknowledges what a black hole takes, so that `tcp_user_timeout` sees nothing
of it, keepalives neither: only a timeout of the client's own helps there. The proxy is
a thread: what keeps the GIL while it waits (libpq's blocking calls) waits for ever.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable
from enum import Enum
from typing import Self

from psycopg.conninfo import conninfo_to_dict, make_conninfo

HOST = "127.0.0.1"
PATIENCE = 10.0
CHUNK = 65536
RST_ON_CLOSE = struct.pack("ii", 1, 0)


class Moment(Enum):
    """When a connection is cut on which a pattern goes to the server."""

    UNSENT = "before the server has it"
    SENT = "once the server has it: who knows what it does"
    ANSWERED = "once the server has answered, before the client knows"


class Cut(threading.Event):
    """Set when a connection has been cut at the pattern."""

    def __init__(self, pattern: bytes, moment: Moment) -> None:
        super().__init__()
        self.pattern = pattern
        self.moment = moment


class End(Exception):
    """The connection is to be closed."""


class Way:
    """One direction, on all connections."""

    def __init__(self, proxy: Proxy) -> None:
        self.delay = 0.0
        self.bytes = 0
        self._proxy = proxy
        self._open = asyncio.Event()
        self._open.set()
        self._swallows = False
        self._left: int | None = None

    def hold(self) -> None:
        """Let nothing through; it is kept for later."""
        self._proxy.do(self._open.clear)

    def swallow(self) -> None:
        """Let nothing through; it is lost."""
        self._swallows = True

    def cut_after(self, count: int) -> None:
        """Cut the connection on which that many more bytes have passed this way."""
        self._left = count

    def heal(self) -> None:
        """Let everything through."""
        self.delay, self._swallows, self._left = 0.0, False, None
        self._proxy.do(self._open.set)

    async def send(self, end: socket.socket, data: bytes) -> None:
        """Pass data on to that end; none at all is the end of the stream."""
        if self.delay:
            await asyncio.sleep(self.delay)
        await self._open.wait()
        if self._swallows:
            if not data:
                await asyncio.Event().wait()  # nobody hears of it
            return
        left = self._left  # what is asked for meanwhile is about what comes after
        passed = data if left is None else data[:left]
        self.bytes += len(passed)
        await asyncio.get_running_loop().sock_sendall(end, passed)
        if left is not None:
            self._left = left - len(passed) or None
            if self._left is None:
                raise ConnectionResetError
        if not data:
            raise End


class Link:
    """One connection through the proxy."""

    def __init__(self, proxy: Proxy, client: socket.socket) -> None:
        self.proxy = proxy
        self.client = client
        self.server = socket.socket()
        self.tail = b""
        self.cut: Cut | None = None
        self.spared = False
        self.task = asyncio.create_task(self._run())

    def sever(self) -> None:
        """Close both ends with RST."""
        self._set_reset()
        self.task.cancel()

    def close(self) -> None:
        self.client.close()
        self.server.close()
        self.proxy.links.discard(self)

    async def _run(self) -> None:
        try:
            for end in self.client, self.server:
                end.setblocking(False)
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await self.task.get_loop().sock_connect(self.server, self.proxy.target)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._requests())
                tasks.create_task(self._answers())
        except* End:
            pass
        except* OSError:
            self._set_reset()
        finally:
            self.close()
            if self.cut:
                self.cut.set()

    async def _requests(self) -> None:
        while True:
            data = await self.task.get_loop().sock_recv(self.client, CHUNK)
            spared = self.proxy.spared
            self.spared = self.spared or bool(spared and spared in data)
            cut = self._seek(data)
            if cut and cut.moment is Moment.UNSENT:
                self._make(cut)
            await self._send(self.proxy.requests, self.server, data)
            if cut and cut.moment is Moment.SENT:
                self._make(cut)
            self.cut = self.cut or cut

    async def _answers(self) -> None:
        while True:
            data = await self.task.get_loop().sock_recv(self.server, CHUNK)
            if self.cut:
                self._make(self.cut)
            await self._send(self.proxy.answers, self.client, data)

    async def _send(self, way: Way, end: socket.socket, data: bytes) -> None:
        if not self.spared:
            await way.send(end, data)
        elif data:
            await self.task.get_loop().sock_sendall(end, data)
        else:
            raise End

    def _seek(self, data: bytes) -> Cut | None:
        """Take the proxy's cut if its pattern ends in this data."""
        cut = self.proxy.cut
        if cut is None:
            return None
        seen = self.tail + data
        self.tail = seen[1 - len(cut.pattern) :]
        if cut.pattern not in seen:
            return None
        self.proxy.cut = None
        return cut

    def _make(self, cut: Cut) -> None:
        self.cut = cut
        raise ConnectionResetError

    def _set_reset(self) -> None:
        for end in self.client, self.server:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST_ON_CLOSE)


class Proxy:
    """Forwards every connection to the server that a conninfo names.

    Attributes:
        requests: From the clients to the server.
        answers: From the server to the clients.
        accepted: How many connections there were so far.
        links: Those of this moment.
        spared: Connections that send this, as in `application_name`, pass untouched.
    """

    def __init__(self, dsn: str) -> None:
        given = conninfo_to_dict(dsn)
        self.target = (str(given["host"]), int(str(given["port"])))
        self._given = dsn
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy")
        self._listener = socket.create_server((HOST, 0))
        self.port = int(self._listener.getsockname()[1])
        self.requests, self.answers = Way(self), Way(self)
        self.accepted = 0
        self.links: set[Link] = set()
        self.cut: Cut | None = None
        self.spared = b""

    @property
    def dsn(self) -> str:
        """The same conninfo, by way of the proxy."""
        return make_conninfo(self._given, host=HOST, port=self.port)

    def __enter__(self) -> Self:
        self._thread.start()
        self.do(self._accepts)
        return self

    def __exit__(self, *_: object) -> None:
        self.refuse()
        self.reset()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        self._loop.close()

    def cut_at(self, pattern: bytes, moment: Moment) -> Cut:
        """Cut the next connection on which the pattern goes to the server, once."""
        cut = self.cut = Cut(pattern, moment)
        return cut

    def hold(self) -> None:
        """Let nothing through either way, and keep it for later."""
        self.requests.hold()
        self.answers.hold()

    def stop_accepting(self) -> None:
        """Leave new connections to the kernel, which accepts some and says nothing."""
        self.do(lambda: self._loop.remove_reader(self._listener))

    def refuse(self) -> None:
        """Let new connections be refused."""
        self.stop_accepting()
        self._listener.close()

    def reset(self) -> None:
        """Close every connection with RST."""
        asyncio.run_coroutine_threadsafe(self._sever(), self._loop).result(PATIENCE)

    def heal(self) -> None:
        """Accept and pass everything on."""
        self.cut = None
        self.requests.heal()
        self.answers.heal()
        if self._listener.fileno() < 0:
            self._listener = socket.create_server((HOST, self.port))
        self.do(self._accepts)

    def do(self, work: Callable[[], object]) -> None:
        """Let the proxy's thread do something; return when it has."""
        done = threading.Event()
        self._loop.call_soon_threadsafe(work)
        self._loop.call_soon_threadsafe(done.set)
        assert done.wait(PATIENCE)

    def _accepts(self) -> None:
        self._listener.setblocking(False)
        self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        self.accepted += 1
        self.links.add(Link(self, client))

    async def _sever(self) -> None:
        links = list(self.links)
        for link in links:
            link.sever()
        await asyncio.gather(*(link.task for link in links), return_exceptions=True)
        for link in links:
            link.close()  # again, for a task that had not begun

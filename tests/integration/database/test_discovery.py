from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from psycopg.conninfo import conninfo_to_dict

from falconas.database import discovery
from falconas.database.conninfo import InvalidDsn
from falconas.database.discovery import MOST, Discovery, addresses, in_thread
from falconas.database.member import until
from falconas.database.topology import MOST as MOST_IN_ALL
from falconas.database.topology import Node
from tests.integration.database.patroni import Patroni, member, standing_in


def read(node: Node) -> dict[str, Any]:
    return dict(conninfo_to_dict(node.dsn))


class Names:
    """A resolver that knows what a test tells it."""

    def __init__(self, **hosts: Sequence[str]) -> None:
        self.hosts = hosts

    async def __call__(self, host: str) -> Sequence[str]:
        if host not in self.hosts:
            raise OSError(-2, f"no such host: {host}")
        return self.hosts[host]


class Looking:
    """A discovery that pauses until the test wants the next look-up."""

    def __init__(self, *sources: Node, **how: Any) -> None:
        self.found: list[list[Node]] = []
        self.pauses: list[float] = []
        self._paused: asyncio.Queue[None] = asyncio.Queue()
        self._go = asyncio.Semaphore(0)
        self.fails = False
        self.discovery = Discovery(sources, self._take, pause=self._pause, **how)

    def _take(self, nodes: list[Node]) -> None:
        self.fails, failed = False, self.fails
        if failed:
            raise RuntimeError("whoever is told has failed")
        self.found.append(nodes)

    async def _pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self._paused.put_nowait(None)
        await self._go.acquire()

    async def look(self) -> None:
        """Let it look up once."""
        self._go.release()
        await self.looked()

    async def looked(self) -> None:
        async with asyncio.timeout(20):
            await self._paused.get()

    @property
    def names(self) -> list[str]:
        """Of the nodes that were found last."""
        return [node.name for node in self.found[-1]] if self.found else []


@asynccontextmanager
async def looking(*sources: Node, **how: Any) -> AsyncIterator[Looking]:
    """Look up for the first time, and then when the test wants it."""
    made = Looking(*sources, **how)
    task = asyncio.create_task(made.discovery.run())
    try:
        await made.looked()
        yield made
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


# Several hosts


def test_each_host_of_a_dsn_is_a_node_without_a_look_up() -> None:
    found: list[list[Node]] = []
    sources = [
        Node("n1", "host=x dbname=d"),
        Node("pg", "postgresql://u@a:6000,b/d", 2.0, "shop", ("ssd",)),
        Node("ha", "hostaddr=10.0.0.1,10.0.0.2"),
    ]
    made = Discovery(sources, found.append)

    asyncio.run(made.run())

    (nodes,) = found
    assert nodes == made.nodes
    assert nodes[0] is not sources[0]
    assert nodes[0] == sources[0]
    assert [node.name for node in nodes[1:]] == [
        "pg/a:6000", "pg/b", "ha/10.0.0.1", "ha/10.0.0.2",
    ]  # fmt: skip
    assert (nodes[1].weight, nodes[1].database, nodes[1].tags) == (
        2.0,
        "shop",
        ("ssd",),
    )
    assert read(nodes[1]) == {"host": "a", "port": "6000", "user": "u", "dbname": "d"}
    assert read(nodes[3]) == {"hostaddr": "10.0.0.1"}


def test_what_cannot_be_read_is_refused_at_once() -> None:
    with pytest.raises(InvalidDsn, match="malformed"):
        Discovery([Node("n1", "nonsense")], print)
    with pytest.raises(ValueError, match="REST API must be a URL such as"):
        Discovery([Node("n1", patroni=("patroni:8008",))], print)


def test_names_are_unique_and_not_too_many() -> None:
    with pytest.raises(ValueError, match="two nodes are named n1"):
        Discovery([Node("n1", "host=a"), Node("n1", "host=b", dns=True)], print)
    with pytest.raises(ValueError, match="two nodes are named pg/a"):
        Discovery([Node("pg", "host=a,b"), Node("pg/a", "host=c")], print)
    hosts = ",".join(f"h{i}" for i in range(MOST_IN_ALL))
    Discovery([Node("pg", f"host={hosts}")], print)
    with pytest.raises(ValueError, match="257 nodes; 256 are the most"):
        Discovery([Node("pg", f"host={hosts}"), Node("n1")], print)


# DNS


def test_each_address_of_a_host_is_a_node() -> None:
    async def test() -> None:
        source = Node("pg", "host=db port=6000 sslmode=verify-full", 2, dns=True)
        names = Names(db=["10.0.0.1", "10.0.0.2"])
        async with looking(source, resolve=names) as made:
            assert made.names == ["pg/10.0.0.1:6000", "pg/10.0.0.2:6000"]
            ((first, _),) = made.found
            assert (first.weight, first.dns) == (2, False)
            assert read(first) == {
                "host": "db",  # whose name the server's certificate has
                "hostaddr": "10.0.0.1",
                "port": "6000",
                "sslmode": "verify-full",
            }

    run(test)


def test_addresses_come_and_go() -> None:
    async def test() -> None:
        names = Names(db=["10.0.0.1"])
        async with looking(
            Node("n1", "host=x"), Node("pg", "host=db", dns=True), resolve=names
        ) as made:
            names.hosts["db"] = ["10.0.0.1", "10.0.0.2"]
            await made.look()
            assert made.names == ["n1", "pg/10.0.0.1", "pg/10.0.0.2"]
            await made.look()
            names.hosts["db"] = ["10.0.0.2"]
            await made.look()
            assert made.names == ["n1", "pg/10.0.0.2"]
            assert made.pauses == [30.0] * 4
            assert len(made.found) == 4  # first what needs no look-up; then each change

    run(test)


def test_a_failure_and_an_empty_answer_change_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def test() -> None:
        names = Names(db=["10.0.0.1"])
        async with looking(Node("pg", "host=db", dns=True), resolve=names) as made:
            del names.hosts["db"]
            for _ in range(7):
                await made.look()
            names.hosts["db"] = []
            await made.look()
            names.hosts["db"] = ["10.0.0.1"]
            await made.look()
            assert made.names == ["pg/10.0.0.1"]
            assert len(made.found) == 1
            assert made.pauses == [30, 1, 2, 4, 8, 16, 30, 30, 30, 30]

    run(test)
    first, second = (record.getMessage() for record in caplog.records)
    assert first == "no new answer on node pg: [Errno -2] no such host: db"
    assert second == "no new answer on node pg: db has no address"


def test_until_there_is_an_answer_the_dsn_counts() -> None:
    async def test() -> None:
        names = Names()
        async with looking(Node("pg", "host=a,b", dns=True), resolve=names) as made:
            assert made.names == ["pg/a", "pg/b"]
            names.hosts |= {"a": ["10.0.0.1"], "b": ["10.0.0.2"]}
            await made.look()
            assert made.names == ["pg/10.0.0.1", "pg/10.0.0.2"]

    run(test)


def test_what_is_an_address_already_is_not_looked_up() -> None:
    async def test() -> None:
        dsn = "host=db,/run/pg hostaddr=10.0.0.9,"
        async with looking(Node("pg", dsn, dns=True), resolve=Names()) as made:
            assert made.names == ["pg/db", "pg//run/pg"]

    run(test)


def test_what_several_hosts_resolve_to_is_one_node_for_each_address() -> None:
    async def test() -> None:
        dsn = "host=a,b,c,d hostaddr=,,,10.0.0.2 port=1,1,2,1"
        names = Names(a=["10.0.0.1", "10.0.0.2"], b=["10.0.0.1"], c=["10.0.0.1"])
        async with looking(Node("pg", dsn, dns=True), resolve=names) as made:
            assert made.names == ["pg/10.0.0.1:1", "pg/10.0.0.2:1", "pg/10.0.0.1:2"]
            assert [read(node)["host"] for node in made.found[-1]] == ["a", "a", "c"]

    run(test)


def test_what_does_not_go_with_other_nodes_is_no_answer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def test() -> None:
        names = Names(db=["10.0.0.2"])
        sources = [Node("pg/10.0.0.2", "host=x"), Node("pg", "host=db", dns=True)]
        async with looking(*sources, resolve=names) as made:
            assert made.names == ["pg/10.0.0.2", "pg"]
            names.hosts["db"] = ["10.0.0.1"]
            await made.look()
            assert made.names == ["pg/10.0.0.2", "pg/10.0.0.1"]
            assert made.pauses == [1, 30]

    run(test)
    (message,) = (record.getMessage() for record in caplog.records)
    assert message.endswith(": with what was found two nodes are named pg/10.0.0.2")


def test_too_many_addresses_are_no_answer(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        hosts = {name: [f"{name}.{i}" for i in range(MOST)] for name in ("a", "b", "c")}
        names = Names(**hosts)
        sources = [Node(name, f"host={name}", dns=True) for name in hosts]
        async with looking(*sources, resolve=names) as made:
            await made.looked()
            await made.looked()
            assert len(made.names) == 2 * MOST + 1
            assert made.names[-1] == "c"
            names.hosts["c"] = ["c.0"]
            names.hosts["a"] = [*hosts["a"], "another"]
            for _ in sources:
                await made.look()
            assert len(made.names) == 2 * MOST + 1
            assert made.names[-1] == "c/c.0"

    run(test)
    first, second = (record.getMessage() for record in caplog.records)
    assert first.endswith("with what was found there are 300 nodes; 256 are the most")
    assert second.endswith("on node a: it found 101 nodes; 100 are the most")


def test_whoever_is_told_and_fails_is_told_again() -> None:
    async def test() -> None:
        names = Names(db=["10.0.0.1"])
        async with looking(Node("pg", "host=db", dns=True), resolve=names) as made:
            names.hosts["db"] = ["10.0.0.2"]
            made.fails = True
            await made.look()
            assert made.names == ["pg/10.0.0.1"]
            await made.look()
            assert made.names == ["pg/10.0.0.2"]

    run(test)


def test_a_dsn_without_a_host_has_nothing_to_be_looked_up(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def test() -> None:
        async with looking(Node("pg", "dbname=d", dns=True)) as made:
            assert made.found == []

    run(test)
    assert "its DSN names no host" in caplog.text


def test_a_name_server_that_hangs_is_a_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(discovery, "PATIENCE", 0.01)
    forever = threading.Event()

    async def test() -> None:
        async def hang(_: str) -> list[str]:
            await in_thread(forever.wait)
            return []

        async with looking(Node("pg", "host=db", dns=True), resolve=hang) as made:
            assert made.names == ["pg"]

    run(test)  # and nobody waits for the thread
    forever.set()


def test_the_systems_resolver_gives_one_family() -> None:
    assert asyncio.run(addresses("127.0.0.1")) == ["127.0.0.1"]
    assert asyncio.run(addresses("localhost")) in (["127.0.0.1"], ["::1"])
    with pytest.raises(OSError, match=r"\[Errno"):
        asyncio.run(addresses("name.invalid"))


# Patroni


def test_members_that_run_are_nodes() -> None:
    async def test(patroni: Patroni) -> None:
        patroni.members = [
            member("p1", "host=10.0.0.4 port=5432", role="leader", state="running"),
            member("p2", "host=10.0.0.6 port=5433", tags={"noloadbalance": True}),
            member("p3", state="starting"),
        ]
        dsn = "host=vip hostaddr=10.0.0.1 dbname=d target_session_attrs=primary"
        source = Node("pg", dsn, 2.0, "shop", ("ssd",), patroni=(patroni.url,))
        async with looking(source) as made:
            ((first, second),) = made.found
            assert first == Node("pg/p1", first.dsn, 2.0, "shop", ("ssd",))
            assert read(first) == {"host": "10.0.0.4", "port": "5432", "dbname": "d"}
            assert (second.name, second.weight) == ("pg/p2", 0.0)
            assert read(second)["port"] == "5433"
            assert patroni.asked == ["/cluster"]

    with standing_in() as patroni:
        run(lambda: test(patroni))


def test_a_member_joins_when_it_runs_and_leaves_when_it_is_listed_no_more() -> None:
    """While it restarts it stays: its probes say that it is down, and when it is up."""

    async def test(patroni: Patroni) -> None:
        patroni.members = [
            member("p1"),
            member("p2", "host=i port=1", state="creating replica"),
        ]
        async with looking(Node("pg", patroni=(patroni.url,))) as made:
            assert made.names == ["pg/p1"]
            patroni.members = [
                member("p1", state="restarting"),
                member("p2", "host=i port=1"),
            ]
            await made.look()
            assert made.names == ["pg/p1", "pg/p2"]
            patroni.members = [member("p2", "host=i port=1")]
            await made.look()
            assert made.names == ["pg/p2"]
            patroni.members = []
            await made.look()
            assert made.names == ["pg/p2"]

    with standing_in() as patroni:
        run(lambda: test(patroni))


def test_members_at_one_address_are_one_node() -> None:
    async def test(patroni: Patroni) -> None:
        patroni.members = [member("p1"), member("p2"), member("p3", "host=h port=5433")]
        async with looking(Node("pg", patroni=(patroni.url,))) as made:
            assert made.names == ["pg/p1", "pg/p3"]

    with standing_in() as patroni:
        run(lambda: test(patroni))


def test_too_many_members_are_no_answer(caplog: pytest.LogCaptureFixture) -> None:
    async def test(patroni: Patroni) -> None:
        patroni.members = [
            member(f"p{port}", f"host=h port={port}") for port in range(1, MOST + 2)
        ]
        async with looking(Node("pg", "host=h", patroni=(patroni.url,))) as made:
            assert made.names == ["pg"]
            patroni.members.pop()
            await made.look()
            assert len(made.names) == MOST

    with standing_in() as patroni:
        run(lambda: test(patroni))
    (message,) = (record.getMessage() for record in caplog.records)
    assert message.endswith(": it found 101 nodes; 100 are the most")


def test_the_first_url_that_answers_counts(caplog: pytest.LogCaptureFixture) -> None:
    def new(number: int) -> dict[str, Any]:
        return member(f"p{number + 2}", f"host=h port={number}")

    async def test(bad: Patroni, good: Patroni) -> None:
        good.members = [member("p1")]
        urls = ("http://127.0.0.1:1", bad.url, good.url, "http://127.0.0.1:2")
        async with looking(Node("pg", patroni=urls)) as made:
            assert made.names == ["pg/p1"]
            good.members = [member("p2")]
            for badly in (
                lambda handler: bad.reply(handler, "{}"),
                lambda handler: bad.reply(handler, '{"members": []}'),
                lambda handler: handler.wfile.write(b"what?"),
                lambda handler: handler.wfile.write(b"HTTP/1.1 200 OK\r\n" * 200),
                lambda _: None,
            ):
                bad.behaviour = badly
                good.members.append(new(len(good.members)))
                await made.look()
                assert len(made.names) == len(good.members)
            good.behaviour = bad.behaviour
            await made.look()
            assert len(made.names) == len(good.members)

    with standing_in() as bad, standing_in() as good:
        bad.behaviour = lambda handler: bad.reply(handler, "", 503)
        run(lambda: test(bad, good))
    (message,) = (record.getMessage() for record in caplog.records)
    assert "127.0.0.1:1: [Errno 111] Connection refused; 127.0.0.1:" in message


@pytest.mark.parametrize("badly", ["hang", "drip", "flood"])
def test_an_api_that_does_not_come_to_an_end_holds_up_nobody(
    badly: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "PATIENCE", 0.3)

    async def test(bad: Patroni, good: Patroni) -> None:
        bad.behaviour = getattr(bad, badly)
        good.members = [member("p1")]
        async with looking(Node("pg", patroni=(bad.url, good.url))) as made:
            assert made.names == ["pg/p1"]
            until(
                lambda: all(t.name != "falconas-lookup" for t in threading.enumerate()),
                "a thread is left behind",
                timeout=5,
            )

    with standing_in() as bad, standing_in() as good:
        run(lambda: test(bad, good))


def test_without_any_answer_the_hosts_of_the_dsn_are_used() -> None:
    async def test() -> None:
        dead = ("http://127.0.0.1:1",)
        async with looking(Node("pg", "host=a,b", patroni=dead)) as made:
            assert made.names == ["pg/a", "pg/b"]
        async with looking(Node("pg", "dbname=d", patroni=dead)) as made:
            assert made.names == []

    run(test)

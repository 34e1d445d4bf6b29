"""A real probe process, whose supervisor is this test."""

from __future__ import annotations

import os
import select
import signal
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from falconas.database.discovery import MOST
from falconas.database.topology import Role
from falconas.settings import Database, Node, Settings
from falconas.worker.children import ProbeChild
from falconas.worker.probing import Answered, Ask, Message, Nodes, ProbeBoot
from tests.integration.database.patroni import member, standing_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from falconas.database.cluster import EmbeddedCluster

PATIENCE = 20.0


class Probe:
    """What a probe says, one thing after the other."""

    def __init__(self, settings: Settings, parent: int = 0) -> None:
        self.child = ProbeChild(ProbeBoot(settings, parent or os.getpid()))
        self.heard: list[Message] = []

    def next(self) -> Message | None:
        """Return what it says next, None if it has ended."""
        while not self.heard:
            ready, _, _ = select.select([self.child], [], [], PATIENCE)
            assert ready
            self.heard, more = self.child.hear()
            if not more:
                return None
        return self.heard.pop(0)

    def announced(self) -> list[str]:
        message = self.next()
        assert isinstance(message, Nodes)
        return [node.name for node in message.nodes]

    def answer(self, name: str) -> Answered:
        """Return the next answer for a node; others are dropped."""
        while True:
            message = self.next()
            if isinstance(message, Answered) and message.name == name:
                return message


@pytest.fixture
def start() -> Iterator[Callable[..., Probe]]:
    probes: list[Probe] = []

    def make(settings: Settings, parent: int = 0) -> Probe:
        probes.append(Probe(settings, parent))
        return probes[-1]

    yield make
    for probe in probes:
        probe.child.close()


def test_it_tells_which_nodes_there_are_and_what_they_are(
    start: Any, cluster: EmbeddedCluster
) -> None:
    nodes = {name: Node(cluster[name].dsn()) for name in ("n1", "n2")}
    dead = Node("host=127.0.0.1 port=1", weight=2.0, tags=("big",))
    probe = start(Settings(nodes=nodes | {"dead": dead}))
    first = probe.next()
    assert isinstance(first, Nodes)
    assert [node.name for node in first.nodes] == ["n1", "n2", "dead"]
    assert (first.nodes[2].weight, first.nodes[2].tags) == (2.0, ("big",))
    probe.child.ask(Ask(["n1", "n2", "dead", "nobody"]))
    answers = {name: probe.answer(name) for name in ("dead",)}
    probe.child.ask(Ask(["n1"]))
    answers["n1"] = probe.answer("n1")
    probe.child.ask(Ask(["n2"]))
    answers["n2"] = probe.answer("n2")
    assert answers["n1"].probe is not None
    assert answers["n1"].probe.role is Role.PRIMARY
    assert answers["n2"].probe is not None
    assert answers["n2"].probe.role is Role.STANDBY
    assert answers["dead"].probe is None
    assert "refused" in answers["dead"].why
    assert not answers["dead"].silent


def test_it_has_one_connection_to_a_node_however_often_it_is_asked(
    start: Any, database: str
) -> None:
    probe = start(Settings(database=Database(database, "here")))
    assert probe.announced() == ["here"]
    for _ in range(3):
        probe.child.ask(Ask(["here"]))
        assert probe.answer("here").probe is not None
    with psycopg.connect(database) as own:
        found = own.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND application_name = 'falconas/probe'"
        ).fetchone()
    assert found == (1,)


def test_it_ends_when_its_supervisor_closes_the_channel(
    start: Any, database: str
) -> None:
    probe = start(Settings(database=Database(database)))
    probe.announced()
    os.kill(probe.child.pid, signal.SIGSTOP)
    probe.child.reaped(0)
    os.kill(probe.child.pid, signal.SIGCONT)
    assert os.waitstatus_to_exitcode(os.waitpid(probe.child.pid, 0)[1]) == 0


def test_one_that_has_found_nothing_yet_says_that_it_is_there(start: Any) -> None:
    nowhere = Node(patroni=("http://127.0.0.1:1",))
    assert start(Settings(nodes={"pg": nowhere})).announced() == []


def test_what_is_long_arrives_whole_on_both_sides(start: Any) -> None:
    with standing_in() as patroni:
        patroni.members = [
            member("m" * 120 + str(port), f"host={'h' * 250} port={port}")
            for port in range(1, MOST + 1)
        ]
        long = Node(f"options='{'-' * 100_000}'")
        cluster = Node(f"application_name={'a' * 1000}", patroni=(patroni.url,))
        probe = start(Settings(nodes={"long": long, "pg": cluster}))
        assert probe.announced() == ["long"]
        assert len(probe.announced()) == 1 + MOST


def test_two_hosts_at_one_address_are_one_node(start: Any) -> None:
    twice = Node("host=localhost,127.0.0.1 port=1", dns=True)
    probe = start(Settings(nodes={"n1": twice}))
    found = probe.announced() or probe.announced()
    assert "n1/127.0.0.1:1" in found
    assert len(set(found)) == len(found)


def test_it_serves_nobody_but_its_parent(start: Any) -> None:
    probe = start(Settings(), parent=1)
    assert probe.next() is None


def test_a_malformed_dsn_ends_it_without_a_trace(
    start: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    probe = start(Settings(database=Database("nonsense")))
    assert probe.next() is None
    assert capfd.readouterr().err == ""

from __future__ import annotations

import threading
import time
from asyncio import run
from collections.abc import Iterator
from contextlib import contextmanager

from psycopg.conninfo import make_conninfo

from falconas.database.cluster import EmbeddedCluster
from falconas.database.member import until
from falconas.database.nodes import NoAnswer, Node, Probe, Role
from falconas.database.prober import Prober
from tests.cluster import few
from tests.proxy import Proxy


class Listener:
    """Has its nodes probed when it asks for it, and keeps the answers."""

    def __init__(self, *nodes: Node) -> None:
        self.found: list[list[Node]] = []
        self.wanted: list[str] = []
        self.answers: dict[str, Probe | NoAnswer] = {}
        self.doubts: list[str] = []
        self.prober = Prober(
            nodes,
            self.found.append,
            self.due,
            self.answers.__setitem__,
            lambda name, _: self.doubts.append(name),
        )

    def due(self) -> tuple[list[str], float]:
        names, self.wanted = self.wanted, []
        return names, 60.0

    def take(self, *nodes: Node) -> None:
        """Have other nodes found."""
        assert self.prober._loop is not None
        self.prober._loop.call_soon_threadsafe(self.prober._take, list(nodes))
        until(lambda: self.found[-1] == list(nodes), "the nodes were not taken")

    def ask(self, name: str) -> Probe | NoAnswer:
        self.answers.pop(name, None)
        self.wanted = [name]
        self.prober.nudge()
        until(lambda: name in self.answers, f"{name} was not answered for")
        return self.answers[name]


@contextmanager
def listening(*nodes: Node) -> Iterator[Listener]:
    listener = Listener(*nodes)
    thread = threading.Thread(target=lambda: run(listener.prober.run()))
    thread.start()
    until(lambda: listener.found, "the prober does not run")
    try:
        yield listener
    finally:
        listener.prober.stop()
        thread.join(10)
    assert not thread.is_alive()


def test_a_primary_and_a_standby_say_what_they_are(cluster: EmbeddedCluster) -> None:
    nodes = [Node(name, cluster[name].dsn()) for name in ("n1", "n2")]
    with listening(*nodes) as listener:
        standby, primary = listener.ask("n2"), listener.ask("n1")

    assert isinstance(primary, Probe)
    assert isinstance(standby, Probe)
    assert (primary.role, standby.role) == (Role.PRIMARY, Role.STANDBY)
    assert primary.timeline == standby.timeline > 0
    assert primary.lsn >= standby.lsn > 0  # which was asked before
    assert standby.streaming
    assert primary.age is None


def test_a_standby_tells_whom_it_follows(cluster: EmbeddedCluster) -> None:
    """To who may see it at once, else when it has noted that itself."""
    for name, rights in (("plain", ""), ("watcher", "IN ROLE pg_monitor")):
        cluster["n1"].execute(f"DROP ROLE IF EXISTS {name}")
        cluster["n1"].execute(f"CREATE ROLE {name} LOGIN PASSWORD 'x' {rights}")
    note_timeline(cluster, "n1")  # there may have been promotions before
    nodes = [
        Node(user, make_conninfo(cluster["n3"].dsn(), user=user, password="x"))
        for user in ("plain", "watcher")
    ]

    def timelines() -> list[int]:
        answers = [listener.ask(node.name) for node in nodes]
        return [a.timeline for a in answers if isinstance(a, Probe)]

    with listening(*nodes) as listener:
        (before, _) = timelines()
        assert timelines() == [before, before]
        cluster.promote(cluster["n2"])
        until(lambda: timelines() == [before, before + 1], "n3 does not follow n2")
        note_timeline(cluster, "n2")
        assert timelines() == [before + 1, before + 1]


def note_timeline(cluster: EmbeddedCluster, primary: str) -> None:
    """Have n3 note on which timeline the primary is."""
    cluster[primary].execute("CHECKPOINT")
    cluster.wait_until_caught_up([cluster["n3"]])
    cluster["n3"].execute("CHECKPOINT")


def test_a_node_that_is_down_says_why_and_is_found_again(
    cluster: EmbeddedCluster,
) -> None:
    with listening(Node("n2", cluster["n2"].dsn())) as listener:
        listener.ask("n2")
        cluster["n2"].kill()
        refused = listener.ask("n2")
        cluster["n2"].start()
        again = listener.ask("n2")

    assert isinstance(refused, NoAnswer)
    assert "refused" in refused.why
    assert "\n" not in refused.why
    assert not refused.silent
    assert not refused.refused
    assert isinstance(again, Probe)


def test_one_that_gives_no_connection_refuses_and_is_not_down(
    cluster: EmbeddedCluster,
) -> None:
    with few(cluster) as role, listening(Node("n1", role.dsn("n1"))) as listener:
        assert isinstance(listener.ask("n1"), Probe)
        role.limit(0)
        role.shut_out_probe("n1")
        refused = listener.ask("n1")
        role.limit(1)
        again = listener.ask("n1")

    assert isinstance(refused, NoAnswer)
    assert 'too many connections for role "few"' in refused.why
    assert (refused.refused, refused.silent) == (True, False)
    assert isinstance(again, Probe)


def test_what_a_plain_user_sees_tells_one_cluster_from_another(
    cluster: EmbeddedCluster,
) -> None:
    ((system,),) = cluster["n1"].execute(
        "SELECT system_identifier FROM pg_control_system()"
    )
    with (
        few(cluster) as role,
        listening(*(Node(n, role.dsn(n)) for n in ("n1", "n2"))) as listener,
    ):
        answers = [listener.ask(name) for name in ("n1", "n2")]

    assert [a.system for a in answers if isinstance(a, Probe)] == [system, system]


def test_a_lost_connection_alone_is_no_failure(cluster: EmbeddedCluster) -> None:
    with listening(Node("n1", cluster["n1"].dsn())) as listener:
        listener.ask("n1")
        cluster["n1"].execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE application_name = 'falconas/probe'"
        )
        assert isinstance(listener.ask("n1"), Probe)
        assert listener.doubts == ["n1"]


def test_a_black_hole_is_silent_and_keeps_nobody_waiting(
    cluster: EmbeddedCluster,
) -> None:
    with (
        Proxy(cluster["n1"].dsn()) as proxy,
        listening(Node("n1", proxy.dsn), Node("n2", cluster["n2"].dsn())) as listener,
    ):
        listener.ask("n1")
        proxy.hold()
        listener.answers.clear()
        begun = time.monotonic()
        listener.wanted = ["n1", "n2"]
        listener.prober.nudge()
        until(lambda: "n2" in listener.answers, "n2 was not answered for")
        assert "n1" not in listener.answers
        until(lambda: "n1" in listener.answers, "n1 was not answered for")
        assert time.monotonic() - begun < 5
        answer = listener.answers["n1"]

    assert isinstance(answer, NoAnswer)
    assert answer.silent
    assert listener.doubts == ["n1"]


def probes(cluster: EmbeddedCluster, name: str) -> int:
    """Return how many connections of probes a server has."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s"
    ((count,),) = cluster[name].execute(query, ["falconas/probe"])
    assert isinstance(count, int)
    return count


def test_it_says_first_which_nodes_there_are(cluster: EmbeddedCluster) -> None:
    node = Node("n", cluster["n1"].dsn())
    with listening(node) as listener:
        assert listener.found == [[node]]
        assert listener.prober.nodes == [node]


def test_a_node_that_has_gone_is_asked_no_more(cluster: EmbeddedCluster) -> None:
    nodes = [Node(name, cluster[name].dsn()) for name in ("n1", "n2")]
    with listening(*nodes) as listener:
        listener.ask("n1")
        listener.ask("n2")
        listener.take(nodes[0])
        until(lambda: not probes(cluster, "n2"), "the connection is kept")
        listener.wanted = ["n2"]
        listener.answers.clear()
        assert isinstance(listener.ask("n1"), Probe)
        assert list(listener.answers) == ["n1"]
        assert probes(cluster, "n1") == 1


def test_a_node_that_is_another_server_is_answered_for_by_that_one_only(
    cluster: EmbeddedCluster,
) -> None:
    with (
        Proxy(cluster["n1"].dsn()) as proxy,
        listening(Node("n", proxy.dsn)) as listener,
    ):
        first = listener.ask("n")
        proxy.hold()
        listener.answers.clear()
        listener.wanted = ["n"]
        listener.prober.nudge()
        until(lambda: listener.prober._probes, "no probe is under way")

        listener.take(Node("n", cluster["n2"].dsn()))
        second = listener.ask("n")
        until(lambda: not listener.prober._errands, "the old probe goes on")

        assert isinstance(first, Probe)
        assert isinstance(second, Probe)
        assert (first.role, second.role) == (Role.PRIMARY, Role.STANDBY)
        assert listener.doubts == []

"""A supervisor on a primary and two standbys, which die, stand still and return."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from time import monotonic
from typing import TYPE_CHECKING, Any

import pytest

from falconas.config import Settings
from falconas.database.nodes import Probe, Role
from falconas.protocol import Heartbeat, Lost, Ready, Register, Reply
from falconas.worker.dealer import Dealer
from falconas.worker.outlook import Outlook
from tests.cluster import few
from tests.integration.worker.host import PATIENCE, Host

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from falconas.database.cluster import EmbeddedCluster

READ = """
from falconas import script
@script(access="read")
def run(ctx):
    return ctx.node
"""
WRITE = """
def run(ctx):
    ctx.db.execute("CREATE TABLE written ()")
    return ctx.node
"""
# A node that was away has not to prove itself for long, nor is a probe waited for.
HASTE = """
from falconas.database import health
from falconas.worker import probing
health.PROBATION = 0.2
health.LONGEST_DELAY = 0.5
probing.PATIENCE = 3.0
"""


# In the place of the probe, ones that say what cannot be, one after the other; and then
# a good one.
BABBLE = """
from falconas.worker import children, outlook
failures = [OSError(24, "Too many open files")]
class Babbler(children.ProbeChild):
    def __init__(self, boot):
        if failures:
            raise failures.pop()
        children.Child.__init__(self, "babbler", children.probing.Message, boot)
outlook.ProbeChild = Babbler
"""
BABBLER = """
import os, signal, socket, sys
from pathlib import Path
from falconas.database.topology import Node
from falconas.worker.channel import Channel
from falconas.worker.probe import main
from falconas.worker.probing import Message, Nodes
turn = Path(__file__).with_name("turn")
number = int(turn.read_text())
turn.write_text(str(number + 1))
fd = int(sys.argv[1])
end = socket.socket(fileno=os.dup(fd))
if number == 0:
    end.send(b"nonsense")
elif number == 1:
    end.send(b"x" * 100_000)
elif number == 2:
    Channel(end, Message).send(Nodes([Node("n1"), Node("n1")]))
elif number == 3:
    Channel(end, Message).send(Nodes([Node("x" * 200 + str(n)) for n in range(600)]))
else:
    sys.exit(main(fd))
signal.pause()
"""


class Farm:
    """Supervisors on a cluster, and what their broker has heard of the nodes."""

    def __init__(self, folder: Path, broker: Any, cluster: EmbeddedCluster) -> None:
        self.broker = broker
        self._cluster = cluster
        self._folder = folder
        self.hosts: list[Host] = []

    def start(self, count: int = 2, **options: Any) -> Host:
        database = options.pop("database", "postgres")
        dsn = options.pop("dsn", lambda name: self._cluster[name].dsn(database))
        nodes = {name: dsn(name) for name in options.pop("names", ("n1", "n2", "n3"))}
        scripts = self._folder / "scripts"
        scripts.mkdir()
        for name, text in options.pop("scripts", {"read": READ}).items():
            (scripts / f"{name}.py").write_text(text)
        host = Host(
            self._folder,
            self.broker,
            "",
            count,
            nodes=nodes,
            before=HASTE + options.pop("before", ""),
            **options,
        )
        self.hosts.append(host)
        return host

    def ready(self, count: int) -> list[tuple[bytes, Ready]]:
        """Wait for so many workers to have come up."""
        found = [self.broker.take(Ready) for _ in range(count)]
        assert all(ready.extras["ready"] for _, ready, _ in found)
        return [(peer, ready) for peer, ready, _ in found]

    def seen(self, **wanted: tuple[str, bool]) -> dict[str, list[Any]]:
        """Wait for a heartbeat that says of nodes: this role, up or down."""
        end = monotonic() + PATIENCE
        rows: dict[str, list[Any]] = {}
        while monotonic() < end:
            rows = {row[0]: row for row in self.broker.take(Heartbeat)[2]["nodes"]}
            if all(
                name in rows and (rows[name][2], rows[name][3]) == facts
                for name, facts in wanted.items()
            ):
                return rows
        raise AssertionError(f"not {wanted}, but {rows}")

    def call(self, peer: bytes, script: str) -> Any:
        id_ = self.broker.request(peer, script)
        return self.broker.take(Reply, id=id_)[2]


@pytest.fixture
def farm(tmp_path: Path, broker: Any, cluster: EmbeddedCluster) -> Iterator[Farm]:
    farm = Farm(tmp_path, broker, cluster)
    yield farm
    for host in farm.hosts:
        host.close()


def spread(ready: list[tuple[bytes, Ready]]) -> Counter[str]:
    return Counter(found.node for _, found in ready)


def lines_of(host: Host) -> list[dict[str, Any]]:
    """Stop a supervisor and return the lines of its log."""
    host.signal(signal.SIGTERM)
    assert host.wait() == 0, host.errors.decode()
    return [json.loads(line) for line in host.errors.splitlines()]


def log_of(host: Host) -> list[str]:
    """Stop a supervisor and return what it said."""
    return [line["event"] for line in lines_of(host)]


def test_a_standby_that_dies_gives_its_workers_away_and_gets_them_back(
    farm: Farm, cluster: EmbeddedCluster
) -> None:
    host = farm.start(6)
    before = farm.ready(6)
    assert spread(before) == {"n1": 2, "n2": 2, "n3": 2}
    rows = farm.seen(n1=("primary", True), n2=("standby", True), n3=("standby", True))
    assert rows["n1"][1] == "main"
    assert rows["n1"][4] == 0.0
    assert rows["n1"][5] > 0
    assert rows["n1"][6] > 0
    assert rows["n1"][7] == ""
    cluster["n3"].kill()
    assert farm.seen(n3=("standby", False))["n3"][7]
    moved = farm.ready(2)
    assert spread(moved) == {"n1": 1, "n2": 1}
    lost = {farm.broker.take(Lost)[1].worker for _ in range(2)}
    assert lost == {ready.worker for _, ready in before if ready.node == "n3"}
    cluster["n3"].start()
    farm.seen(n3=("standby", True))
    back = farm.ready(2)
    assert spread(back) == {"n3": 2}
    assert farm.call(back[0][0], "read") == "n3"
    lines = lines_of(host)
    told = [line["event"] for line in lines]
    for line in (
        "node n1 is up (primary)",
        "node n3 is up (standby)",
        "worker is replaced: n3 is back",
    ):
        assert line in told, told
    (down,) = [n for n, line in enumerate(told) if line.startswith("node n3 is down: ")]
    left = [n for n, line in enumerate(told) if line.startswith("worker leaves: ")]
    assert len(left) == 2
    assert down < min(left), told  # the cause comes first
    for found in (lines[n] for n in left):
        assert found["event"].startswith("worker leaves: n3 is down: "), found
        assert found["event"].endswith("; its successor goes to n1 or n2"), found
        assert (found["node"], found["group"]) == ("n3", "default"), found
    ends = [line for line in lines if "it was in state" in line["event"]]
    assert {line["node"] for line in ends} <= {"n1", "n2", "n3"}
    assert {line["group"] for line in ends} == {"default"}


def test_a_probe_that_gets_no_connection_takes_nothing_away(
    farm: Farm, cluster: EmbeddedCluster
) -> None:
    with few(cluster) as role:
        host = farm.start(2, names=("n1",), dsn=role.dsn)
        ready = farm.ready(2)
        farm.seen(n1=("primary", True))
        role.limit(2)
        role.shut_out_probe("n1")
        row = farm.seen(n1=("primary", True))["n1"]
        while not row[7].startswith("takes no new connections: "):
            row = farm.seen(n1=("primary", True))["n1"]
        assert {farm.call(peer, "read") for peer, _ in ready} == {"n1"}
        role.limit(3)
        while row[7]:
            row = farm.seen(n1=("primary", True))["n1"]
        assert not [m for _, m, _ in farm.broker.inbox if isinstance(m, (Lost, Ready))]
        told = log_of(host)
    assert [line for line in told if line.startswith("node n1 takes no new")], told
    assert not [line for line in told if "is down" in line], told


def test_writers_follow_the_primary(
    farm: Farm, cluster: EmbeddedCluster, cluster_database: str
) -> None:
    host = farm.start(2, scripts={"write": WRITE}, database=cluster_database)
    assert spread(farm.ready(2)) == {"n1": 2}
    before = farm.seen(n1=("primary", True))["n1"][6]
    cluster["n1"].kill()
    cluster.promote(cluster["n2"])
    rows = farm.seen(n1=("primary", False), n2=("primary", True))
    assert rows["n2"][6] > before
    ready = farm.ready(1)
    while spread(ready) != {"n2": 2}:
        ready = [*ready, *farm.ready(1)][-2:]
    assert farm.call(ready[0][0], "write") == "n2"
    told = log_of(host)
    assert "node n2 is the primary now" in told, told


def test_the_workers_of_a_node_that_stands_still_are_killed_and_moved(
    farm: Farm, cluster: EmbeddedCluster
) -> None:
    farm.start(3)
    before = farm.ready(3)
    cluster["n3"].pause()
    try:
        rows = farm.seen(n3=("standby", False))
        assert "no connection within" in rows["n3"][7]
        _, lost, _ = farm.broker.take(Lost)
        (stuck,) = [ready.worker for _, ready in before if ready.node == "n3"]
        assert lost.worker == stuck
        assert lost.reason == "was killed: its node n3 does not answer"
        assert lost.extras == {}  # nobody is to blame
        assert farm.ready(1)[0][1].node != "n3"
    finally:
        cluster["n3"].resume()


def test_groups_have_their_own_nodes_sessions_and_scripts(
    farm: Farm, cluster: EmbeddedCluster
) -> None:
    farm.start(
        scripts={"one": READ, "two": READ, "write": WRITE, "orphan": READ},
        groups={
            "first": {"scripts": ["one"], "nodes": ["n1"], "size": 2},
            "second": {
                "scripts": ["two", "write"],
                "nodes": ["n2"],
                "size": 2,
                "access": "read",
            },
        },
    )
    _, register, manifest = farm.broker.take(Register)
    assert register.extras["groups"] == {"first": 2, "second": 2}
    entries = manifest["scripts"]
    assert [entries[name]["group"] for name in ("one", "two")] == ["first", "second"]
    assert [entries[name]["error"] for name in ("one", "two")] == [None, None]
    assert entries["orphan"]["group"] is None
    assert "no group has a pattern for it" in entries["orphan"]["error"]
    assert 'its group second has access = "read"' in entries["write"]["error"]
    ready = farm.ready(4)
    homes = Counter((found.group, found.node) for _, found in ready)
    assert homes == {("first", "n1"): 2, ("second", "n2"): 2}
    for peer, found in ready:
        script = "one" if found.group == "first" else "two"
        assert farm.call(peer, script) == found.node
    for name in ("n1", "n2", "n3"):
        used = cluster[name].execute(
            "SELECT application_name FROM pg_stat_activity"
            " WHERE application_name LIKE 'falconas/%'"
        )
        names = Counter(
            "probe" if row[0] == "falconas/probe" else "worker" for row in used
        )
        workers = {} if name == "n3" else {"worker": 2}
        assert names == {"probe": 1, **workers}, (name, used)


def test_a_probe_that_dies_or_stands_still_is_replaced(
    farm: Farm, cluster: EmbeddedCluster, gone: Callable[[int], bool]
) -> None:
    host = farm.start(1)
    farm.seen(n1=("primary", True), n2=("standby", True), n3=("standby", True))
    first = host.child("falconas.worker.probe")
    os.kill(first, signal.SIGKILL)
    cluster["n3"].kill()
    farm.seen(n3=("standby", False))
    second = host.child("falconas.worker.probe")
    assert second != first
    os.kill(second, signal.SIGSTOP)
    assert gone(second)
    cluster["n3"].start()
    farm.seen(n1=("primary", True), n3=("standby", True))
    told = log_of(host)
    assert "the probe is replaced: was killed by signal 9 (Killed)" in told, told
    assert "the probe is replaced: it was silent for 3 s" in told, told


def test_whatever_a_probe_says_the_supervisor_goes_on(
    farm: Farm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "babbler.py").write_text(BABBLER)
    (tmp_path / "turn").write_text("0")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    host = farm.start(1, before=BABBLE)
    farm.seen(n1=("primary", True), n2=("standby", True), n3=("standby", True))
    assert len(farm.ready(1)) == 1
    told = [line for line in log_of(host) if "the probe" in line]
    replaced, wrong = "the probe is replaced:", "it named nodes that cannot be"
    assert told == [
        "the probe does not start: [Errno 24] Too many open files",
        f"{replaced} it said what is no message: Expected `object`, got `int`",
        f"{replaced} it said more than can be heard at a time",
        f"{replaced} {wrong}: two nodes are named n1",
        f"{replaced} {wrong}: there are 600 nodes; 256 are the most",
    ]


def test_how_a_workers_node_was_is_told(broker: Any) -> None:
    outlook = Outlook(Settings(), Dealer(broker.control_endpoint, 1000))
    try:
        nodes = outlook.nodes
        assert outlook.on("main") == "it was on node main"
        nodes.probed("main", Probe(Role.PRIMARY, lsn=1, timeline=1), 1.0)
        assert outlook.on("main") == "it was on node main"
        nodes.lost("main", "a worker is not ready any more", 2.0)
        why = "a worker is not ready any more"
        assert outlook.on("main") == f"its node main is in doubt: {why}"
        nodes.failed("main", "no connection within 2 s", 3.0)
        assert outlook.on("main") == "its node main is down: no connection within 2 s"
        assert outlook.on("other") == "its node other is gone"
    finally:
        outlook._dealer.close()


def test_the_probe_ends_with_its_supervisor(
    farm: Farm, gone: Callable[[int], bool]
) -> None:
    host = farm.start(1)
    farm.seen(n1=("primary", True))
    probe = host.child("falconas.worker.probe")
    host.process.kill()
    assert gone(probe)


def test_a_group_without_a_node_ends_it_with_one_line(farm: Farm) -> None:
    host = farm.start(groups={"reports": {"nodes": ["n7"]}})
    assert host.wait() == 3
    assert host.errors.decode().count("group reports has no node: it wants nodes") == 1
    assert b"Traceback" not in host.errors


def test_the_supervisor_does_without_the_databases_libraries() -> None:
    """A connection that hangs would hold up what it does for its workers."""
    code = (
        "import sys; import falconas.worker.supervisor;"
        "sys.exit('psycopg' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=PATIENCE)

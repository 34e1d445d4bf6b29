"""Requests on nodes: what they must see, who may write, and recovery's conflicts."""

from __future__ import annotations

import select
import signal
import threading
import time
from contextlib import closing
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from falconas.codec import decode_value, encode_params
from falconas.database.session import ConnectFailed, Session
from falconas.database.unserved import Behind, Refused
from falconas.errors import Code
from falconas.protocol import Kind, Request
from falconas.worker.attempt import PAUSES, Attempt
from falconas.worker.interrupt import Interrupts
from falconas.worker.runner import Outcome, Runner
from falconas.worker.scripts import load
from falconas.worker.slot import NoSlot

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from falconas.database.cluster import EmbeddedCluster

SCRIPTS = {
    "count": """
@script(access="read")
def run(ctx):
    return ctx.db.execute("SELECT count(*) FROM item").fetchone()[0]
""",
    "add": """
def run(ctx, number: int):
    ctx.db.execute("INSERT INTO item VALUES (%s)", [number])
""",
    "meet": '''
import psycopg
meddle = []
@script(access="read")
def run(ctx, how: str):
    """Have recovery need what this transaction sees."""
    ctx.db.execute("SELECT count(*) FROM item").fetchone()
    meddle[0]()
    try:
        ctx.db.execute("SELECT count(*), pg_sleep(%s) FROM item",
                       [60 if how == "busy" else 0])
    except psycopg.Error:
        if how != "swallowed":
            raise
''',
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scripts")
    for name, text in SCRIPTS.items():
        path = folder / f"{name}.py"
        path.write_text(f"from falconas import script\n{text}")
        path.chmod(0o644)
    return folder


class Stage:
    """A runner on each of two nodes."""

    def __init__(self, cluster: EmbeddedCluster, database: str, folder: Path) -> None:
        self.loaded = load(folder)
        self.dsns = {name: cluster[name].dsn(database) for name in ("n1", "n2")}
        self.sessions = {name: Session.connect(dsn) for name, dsn in self.dsns.items()}
        self.admin = psycopg.connect(self.dsns["n1"], autocommit=True)
        self.admin.execute("CREATE TABLE item AS SELECT generate_series(1, 3) AS id")

    def call(
        self, node: str, name: str, *, min_lsn: Any = None, **params: Any
    ) -> Outcome:
        extras = {} if min_lsn is None else {"min_lsn": min_lsn}
        session = self.sessions[node]
        runner = Runner(self.loaded, session, NoSlot(), node=node, database="shop")
        request = Request(b"d" * 16, name, None, extras)
        outcome = runner.run(request, encode_params(params), time.monotonic() + 60)
        if not runner.reset():
            self.sessions[node] = Session.connect(self.dsns[node])
        return outcome

    def close(self) -> None:
        self.admin.close()
        for session in self.sessions.values():
            session.close()


@pytest.fixture
def stage(
    cluster: EmbeddedCluster, cluster_database: str, folder: Path
) -> Iterator[Stage]:
    with closing(Stage(cluster, cluster_database, folder)) as stage:
        cluster.wait_until_caught_up()
        yield stage


def test_a_read_runs_where_what_was_written_shows(
    stage: Stage, cluster: EmbeddedCluster
) -> None:
    standby = cluster["n2"]
    standby.execute("SELECT pg_wal_replay_pause()")
    try:
        written = stage.call("n1", "add", number=4)
        lsn = written.extras["lsn"]
        assert list(lsn) == ["shop"]
        behind = stage.call("n2", "count", min_lsn=lsn)
        assert isinstance(behind.unserved, Behind)
        assert behind.code is Code.UNAVAILABLE
        body = decode_value(behind.body)
        assert (body["started"], body["retry_safe"]) == ("no", True)
        assert stage.sessions["n2"].sound
        old = stage.call("n2", "count", min_lsn={"elsewhere": 1 << 60})
        assert decode_value(old.body) == 3
        assert decode_value(stage.call("n1", "count", min_lsn=lsn).body) == 4
    finally:
        standby.execute("SELECT pg_wal_replay_resume()")
    cluster["n1"].execute("SELECT pg_switch_wal()")
    cluster.wait_until_caught_up([standby])
    seen = stage.call("n2", "count", min_lsn=lsn)
    assert decode_value(seen.body) == 4
    assert "lsn" not in seen.extras


def test_what_a_node_replays_soon_is_waited_for(
    stage: Stage, cluster: EmbeddedCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    standby, session = cluster["n2"], stage.sessions["n2"]
    standby.execute("SELECT pg_wal_replay_pause()")
    shows, looks = session.shows, list[bool]()

    def look(lsn: int) -> bool:
        looks.append(shows(lsn))
        if len(looks) == 3:
            standby.execute("SELECT pg_wal_replay_resume()")
            cluster["n1"].execute("SELECT pg_switch_wal()")
            cluster.wait_until_caught_up([standby])
        return looks[-1]

    monkeypatch.setattr(session, "shows", look)
    try:
        lsn = stage.call("n1", "add", number=4).extras["lsn"]
        outcome = stage.call("n2", "count", min_lsn=lsn)
    finally:
        standby.execute("SELECT pg_wal_replay_resume()")
    assert looks == [False, False, False, True]
    assert decode_value(outcome.body) == 4


@pytest.mark.parametrize(("budget", "looks"), [(60, len(PAUSES) + 1), (1e-3, 1)])
def test_nobody_waits_for_a_node_beyond_half_of_the_budget(
    monkeypatch: pytest.MonkeyPatch, budget: float, looks: int
) -> None:
    asked, slept = [], list[float]()

    class Stuck:
        sound = True

        def shows(self, lsn: int) -> bool:
            asked.append(lsn)
            return False

    deadline = time.monotonic() + budget
    monkeypatch.setattr(time, "sleep", slept.append)
    attempt: Any = SimpleNamespace(
        context=SimpleNamespace(deadline=deadline), session=Stuck(), min_lsn=7
    )
    assert not Attempt._shown(attempt)
    assert asked == [7] * looks
    assert slept == [*PAUSES][: looks - 1]


def test_who_waits_for_a_node_can_be_cancelled(
    stage: Stage, cluster: EmbeddedCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    cancelled: list[bool] = []
    interrupts = Interrupts(lambda: bool(cancelled))

    def cancel(_: float) -> None:
        cancelled.append(True)
        signal.raise_signal(signal.SIGALRM)

    monkeypatch.setattr(time, "sleep", cancel)
    interrupts.install()
    try:
        session = stage.sessions["n2"]
        runner = Runner(stage.loaded, session, NoSlot(), interrupts=interrupts)
        extras = {"min_lsn": {"main": 1 << 60}}
        request = Request(b"d" * 16, "count", None, extras)
        outcome = runner.run(request, encode_params({}), time.monotonic() + 60)
        assert runner.reset()
    finally:
        interrupts.uninstall()
    assert outcome.code is Code.CANCELLED
    assert cancelled == [True]


def test_a_position_that_is_none_is_refused(stage: Stage) -> None:
    for lsn in (7, [7], {"shop": "0/7"}, {"shop": -1}):
        outcome = stage.call("n2", "count", min_lsn=lsn)
        assert outcome.code is Code.INVALID_ARGUMENT
        assert "map of databases" in decode_value(outcome.body)["message"]


def test_a_write_on_a_standby_is_refused_before_the_script_starts(
    stage: Stage,
) -> None:
    session = stage.sessions["n2"]
    outcome = stage.call("n2", "add", number=4)
    assert isinstance(outcome.unserved, Refused)
    assert outcome.code is Code.UNAVAILABLE
    assert decode_value(outcome.body)["started"] == "no"
    assert stage.sessions["n2"] is not session  # perhaps it is elsewhere next time


@pytest.mark.parametrize("how", ["busy", "idle", "swallowed"])
def test_a_conflict_with_recovery_is_aborted_and_marked(
    stage: Stage, cluster: EmbeddedCluster, how: str
) -> None:
    """Between two statements it comes as FATAL and takes the connection with it."""
    cluster.configure({"max_standby_streaming_delay": "0"})
    pid = stage.sessions["n2"]._connection.info.backend_pid
    mine = f"SELECT wait_event FROM pg_stat_activity WHERE pid = {pid}"

    def collide() -> None:
        while how == "busy" and cluster["n2"].execute(mine) != [("PgSleep",)]:
            pass
        stage.admin.execute("DELETE FROM item")
        stage.admin.execute("VACUUM item")
        while how != "busy" and cluster["n2"].execute(mine):
            pass

    thread = threading.Thread(target=collide)

    def meddle() -> None:
        thread.start()
        if how != "busy":
            thread.join()

    stage.loaded.scripts["meet"].run.__globals__["meddle"][:] = [meddle]
    outcome = stage.call("n2", "meet", how=how)
    thread.join()
    assert outcome.kind is Kind.ERROR
    body = decode_value(outcome.body)
    assert (outcome.code, body["sqlstate"]) == (Code.ABORTED, "40001")
    assert "conflict with recovery" in body["message"]
    assert (body["started"], body["retry_safe"]) == ("yes", True)
    assert outcome.extras["conflict"] is True
    assert decode_value(stage.call("n1", "count").body) == 0


@pytest.mark.parametrize("how", ["fast", "immediate"])
def test_a_primary_that_stops_ends_what_runs_and_what_is_idle(
    stage: Stage, cluster: EmbeddedCluster, how: str
) -> None:
    idle = Session.connect(stage.dsns["n1"])

    def stop() -> None:
        cluster["n1"].stop(how)

    stage.loaded.scripts["meet"].run.__globals__["meddle"][:] = [stop]
    with closing(idle):
        session = stage.sessions["n1"]
        runner = Runner(stage.loaded, session, NoSlot(), node="n1")
        request = Request(b"d" * 16, "meet", None, {})
        body = encode_params({"how": how})
        outcome = runner.run(request, body, time.monotonic() + 60)
        assert outcome.code is Code.UNAVAILABLE
        assert outcome.unserved is None
        error = decode_value(outcome.body)
        assert error.get("sqlstate") in {None, "57P01", "57P02"}
        assert (error["started"], error["retry_safe"]) == ("yes", True)
        assert "conflict" not in outcome.extras
        assert not runner.reset()
        assert select.select([idle], [], [], 10)[0]  # seen while nothing is asked
        assert not idle.check()
        with pytest.raises(ConnectFailed):
            Session.connect(stage.dsns["n1"])

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import pytest

from falconas.cli.database import FOLDER, NODES_FOLDER, database, is_given
from falconas.config import ConfigError, Database, Settings
from falconas.database.embedded import EmbeddedError
from falconas.settings import Node

GIVEN = replace(Settings(), database=Database(dsn="host=h", node="n"))


class FakePostgres:
    log: list[Any] = []  # noqa: RUF012

    def __init__(self, folder: Path) -> None:
        self.log.append(folder)

    def __enter__(self) -> Self:
        self.log.append("start")
        return self

    def __exit__(self, *_: object) -> None:
        self.log.append("stop")

    def dsn(self) -> str:
        if self.log[-1] == "die":
            raise EmbeddedError("none is running")
        return "host=ours x=1"


class FakeNode:
    def __init__(self, number: int) -> None:
        self.name = f"n{number}"
        self.standby = number > 1
        self.running = True
        self.server = self

    def dsn(self) -> str:
        return f"host={self.name}"

    def postmaster(self) -> bool:
        return "die" not in FakePostgres.log


class FakeCluster(FakePostgres):
    def __init__(self, folder: Path, *, standbys: int) -> None:
        super().__init__(folder)
        self.nodes = [FakeNode(number) for number in range(1, standbys + 2)]

    @classmethod
    def running(cls, folder: Path) -> Self | None:
        assert folder == NODES_FOLDER
        return cls(folder, standbys=1) if (folder / "runs").exists() else None


@pytest.fixture(autouse=True)
def log(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    monkeypatch.chdir(tmp_path)
    FakePostgres.log = []
    monkeypatch.setattr("falconas.database.embedded.EmbeddedPostgres", FakePostgres)
    monkeypatch.setattr("falconas.database.cluster.EmbeddedCluster", FakeCluster)
    return FakePostgres.log


def test_a_given_database_is_used(log: list[Any]) -> None:
    secret = replace(Settings(), database=Database(dsn="host=h password=hidden"))
    with database(secret, {}) as place:
        assert place.settings is secret
        assert place.where == "the given one (host=h password=***)"
        assert place.is_up()
    with database(Settings(), {"PGSERVICE": "prod"}) as place:
        assert place.settings == Settings()
        assert "PG… variables" in place.where
    nodes = Settings(nodes={"n1": Node(dsn="host=a"), "n2": Node()})
    with database(nodes, {}) as place:
        assert place.settings is nodes
        assert "the nodes n1, n2" in place.where
    assert log == []


def test_else_our_own_is_up_during_the_block(log: list[Any]) -> None:
    with database(replace(Settings(), database=Database(node="n")), {}) as place:
        assert place.settings.database == Database(dsn="host=ours x=1", node="n")
        assert place.where == "our own in .falconas/dev (psql 'host=ours x=1')"
        assert log == [FOLDER, "start"]
        assert place.is_up()
        log.append("die")
        assert not place.is_up()
    assert log[-1] == "stop"


def test_nodes_of_our_own_are_up_during_the_block(log: list[Any]) -> None:
    configured = Settings(nodes={"n2": Node(weight=2.0, tags=("x",))})
    with database(configured, {}, nodes=2) as place:
        assert place.settings.database.dsn == ""
        assert place.settings.nodes == {
            "n1": Node(dsn="host=n1"),
            "n2": Node(dsn="host=n2", weight=2.0, tags=("x",)),
        }
        assert place.where.splitlines() == [
            "our own nodes in .falconas/nodes",
            "    n1  primary  psql host=n1",
            "    n2  standby  psql host=n2",
        ]
        assert log == [NODES_FOLDER, "start"]
        assert place.is_up()
        log.append("die")
        assert not place.is_up()
    assert log[-1] == "stop"


def test_nodes_that_run_are_used_and_left_running(log: list[Any]) -> None:
    NODES_FOLDER.mkdir(parents=True)
    with database(Settings(), {}):
        assert log == [FOLDER, "start"]
    log.clear()
    (NODES_FOLDER / "runs").touch()
    configured = Settings(nodes={"n1": Node(weight=2.0)})
    with database(configured, {}) as place:
        assert place.settings.nodes == {
            "n1": Node(dsn="host=n1", weight=2.0),
            "n2": Node(dsn="host=n2"),
        }
        assert place.is_up()
    with database(GIVEN, {}) as place:
        assert place.settings is GIVEN
    assert log == [NODES_FOLDER]
    wrong = Settings(nodes={"n3": Node()})
    with pytest.raises(ConfigError, match=r"\[nodes.n3\] "), database(wrong, {}):
        pytest.fail("it went on")


@pytest.mark.parametrize(
    ("settings", "nodes", "why"),
    [
        (GIVEN, 2, "--nodes starts .* a database is given by database.dsn: leave"),
        (
            Settings(nodes={"n1": Node(), "n2": Node(dsn="host=a", dns=True)}),
            2,
            "a database is given by nodes.n2.dsn, nodes.n2.dns: leave out",
        ),
        (Settings(nodes={"n3": Node()}), 2, r"\[nodes.n3\] has no dsn, .* n1, n2"),
        (Settings(nodes={"a": Node(), "b": Node()}), 0, "nodes a, b have no dsn"),
    ],
)
def test_what_is_contradictory_starts_nothing(
    log: list[Any], settings: Settings, nodes: int, why: str
) -> None:
    with pytest.raises(ConfigError, match=why), database(settings, {}, nodes=nodes):
        pytest.fail("it started")
    assert log == []


def test_it_stops_when_the_block_fails(log: list[Any]) -> None:
    with pytest.raises(KeyboardInterrupt), database(Settings(), {}):
        raise KeyboardInterrupt
    assert log[-1] == "stop"


@pytest.mark.parametrize("name", ["PGHOST", "PGSERVICE", "PGDATABASE", "PGPORT"])
def test_libpqs_variables_name_a_database(name: str) -> None:
    assert is_given(Settings(), {name: "x"})
    assert not is_given(Settings(), {name: "", "PGPASSFILE": "x", "PGAPPNAME": "x"})


def test_nodes_with_an_address_name_a_database() -> None:
    for node in (Node(dsn="host=a"), Node(dns=True), Node(patroni=("http://a",))):
        assert is_given(Settings(nodes={"n1": node}), {})
    assert not is_given(Settings(nodes={"n1": Node(weight=2.0)}), {})

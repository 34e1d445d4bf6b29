from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import pytest

from falconas.cli.database import FOLDER, database, is_given
from falconas.config import Database, Settings

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
        return "host=ours"


@pytest.fixture(autouse=True)
def log(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    FakePostgres.log = []
    monkeypatch.setattr("falconas.database.embedded.EmbeddedPostgres", FakePostgres)
    return FakePostgres.log


def test_a_given_database_is_used(log: list[Any]) -> None:
    with database(GIVEN, {}) as complete:
        assert complete is GIVEN
    with database(Settings(), {"PGSERVICE": "prod"}) as complete:
        assert complete == Settings()
    assert log == []


def test_else_our_own_is_up_during_the_block(log: list[Any]) -> None:
    with database(replace(Settings(), database=Database(node="n")), {}) as complete:
        assert complete.database == Database(dsn="host=ours", node="n")
        assert log == [FOLDER, "start"]
    assert log[-1] == "stop"


def test_it_stops_when_the_block_fails(log: list[Any]) -> None:
    with pytest.raises(KeyboardInterrupt), database(Settings(), {}):
        raise KeyboardInterrupt
    assert log[-1] == "stop"


@pytest.mark.parametrize("name", ["PGHOST", "PGSERVICE", "PGDATABASE", "PGPORT"])
def test_libpqs_variables_name_a_database(name: str) -> None:
    assert is_given(Settings(), {name: "x"})
    assert not is_given(Settings(), {name: "", "PGPASSFILE": "x", "PGAPPNAME": "x"})

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from psycopg.conninfo import conninfo_to_dict

from falconas import AsyncNodePool, NodePool
from falconas.config import ConfigError
from falconas.database.configured import read_pool
from falconas.database.options import PoolOptions
from falconas.database.topology import Node

NODES = """
[database]
dsn = "dbname=shop"
reset = "discard"
[nodes.n1]
dsn = "host=a"
tags = ["ssd"]
[nodes.n2]
dsn = "host=b,c"
weight = 2
[nodes.n3]
database = "other"
[groups.reports]
nodes = ["ssd"]
size = 4
access = "read"
autocommit = true
statement_timeout = "5s"
[groups.all]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "falconas.toml"
    path.write_text(NODES)
    return path


def read(
    path: Path | None,
    group: str = "",
    environ: Mapping[str, str] | None = None,
    **changes: Any,
) -> tuple[list[Node], PoolOptions, Callable[[Iterable[Node]], tuple[str, ...]]]:
    found = read_pool(path, group, environ or {}, **changes)
    return found.nodes, found.options, found.choose


def test_a_pool_has_no_word_about_what_workers_do(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file.chmod(0o600)
    read(file, "reports")  # which takes all scripts, so that there is none for "all"

    assert caplog.messages == []


def test_a_group_is_a_pool(file: Path) -> None:
    nodes, options, choose = read(file, "reports")

    assert [(node.name, node.tags) for node in nodes] == [("n1", ("ssd",)), ("n2", ())]
    assert choose(nodes) == ("n1",)
    assert conninfo_to_dict(nodes[0].dsn) == {"host": "a", "dbname": "shop"}
    assert (options.max_size, options.autocommit, options.reset) == (4, True, "discard")
    assert options.access == "read"
    assert options.parameters() == {
        "statement_timeout": "5000ms",
        "default_transaction_read_only": "on",
    }


def test_what_a_group_leaves_open_is_as_in_the_options(file: Path) -> None:
    nodes, options, choose = read(file, "all")

    assert [(node.name, node.weight) for node in nodes] == [("n1", 1.0), ("n2", 2.0)]
    assert choose([*nodes, Node("n2/b")]) == ("n1", "n2", "n2/b")
    assert options == PoolOptions(reset="discard")


def test_the_program_has_the_last_word(file: Path) -> None:
    _, options, _ = read(
        file, "reports", max_size=7, timeout=1.0, settings={"work_mem": "8MB"}
    )

    assert (options.max_size, options.timeout) == (7, 1.0)
    assert options.parameters() == {
        "statement_timeout": "5000ms",
        "default_transaction_read_only": "on",
        "work_mem": "8MB",
    }


def test_without_groups_there_is_one_pool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    nodes, options, choose = read(None, "", {"FALCONAS_DATABASE__DSN": "host=h"})

    assert [(node.name, node.dsn) for node in nodes] == [("main", "host=h")]
    assert choose(nodes) == ("main",)
    assert options == PoolOptions()


def test_the_configuration_is_where_the_commands_find_it(file: Path) -> None:
    environ = {"FALCONAS_CONFIG": str(file), "FALCONAS_GROUPS__ALL__SIZE": "3"}

    _, options, _ = read(None, "all", environ)

    assert options.max_size == 3


@pytest.mark.parametrize(
    ("group", "why"),
    [
        ("", "say which group the pool is for: reports, all"),
        ("x", "there is no group x; known are reports, all"),
    ],
)
def test_which_group_must_be_clear(file: Path, group: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        read(file, group)


@pytest.mark.parametrize("kind", [NodePool, AsyncNodePool])
def test_a_pool_is_made_of_it(
    file: Path, kind: type[NodePool | AsyncNodePool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FALCONAS_CONFIG", str(file))

    pool = kind.from_config(group="all", max_size=2)

    assert pool.options.max_size == 2
    assert list(pool.statistics()["nodes"]) == ["n1", "n2/b", "n2/c"]


def test_a_pool_of_a_group_that_reads_writes_nothing(file: Path) -> None:
    pool = NodePool.from_config(file, "reports", environ={})

    with (
        pytest.raises(ValueError, match=r'only reads \(access="read"\)'),
        pool.connection("write"),
    ):
        pass
    with pytest.raises(ValueError, match="only reads"):
        pool.lsn()


def test_a_database_without_a_node_has_no_pool(file: Path) -> None:
    environ = {"FALCONAS_GROUPS__ALL__DATABASE": "none"}

    with pytest.raises(ConfigError, match="none"):
        read(file, "all", environ)

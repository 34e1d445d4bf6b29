from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
from psycopg.conninfo import conninfo_to_dict

from falconas import settings as configured
from falconas.database.conninfo import InvalidDsn
from falconas.database.inventory import (
    chosen,
    doubtful,
    group_for,
    groups_of,
    nodes_of,
    only_node,
    session_parameters,
    sources_of,
)
from falconas.database.topology import MOST, Node
from falconas.settings import Database, Group, Settings, Worker

SHOP = {"dbname": "shop"}


def settings(dsn: str = "", **nodes: Any) -> Settings:
    return Settings(
        database=Database(dsn=dsn),
        nodes={
            name: configured.Node(
                **({"dsn": value} if isinstance(value, str) else value)
            )
            for name, value in nodes.items()
        },
    )


def read(node: Node) -> dict[str, Any]:
    return dict(conninfo_to_dict(node.dsn))


def test_without_nodes_there_is_the_database() -> None:
    plain = Settings(database=Database(dsn="host=h dbname=d", node="north"))

    assert nodes_of(plain) == [Node("north", "host=h dbname=d")]
    assert only_node(plain) == Node("north", "host=h dbname=d")
    assert sources_of(plain) == nodes_of(plain)


def test_nobody_knows_the_only_node_before_the_dsn_is_read() -> None:
    assert only_node(settings("host=a,b")) is None
    assert only_node(settings(n1="host=a")) is None


def test_a_node_takes_from_the_database_what_it_leaves_out() -> None:
    both = settings("dbname=shop user=web host=h", n1="host=a port=6000", n2="")

    n1, n2 = nodes_of(both)

    assert read(n1) == {"dbname": "shop", "user": "web", "host": "a", "port": "6000"}
    assert read(n2) == {"dbname": "shop", "user": "web", "host": "h"}


@pytest.mark.parametrize(
    ("base", "own"),
    [
        ("postgresql://web:s%20s@h/shop", "host=a"),
        ("dbname=shop user=web password='s s'", "postgresql://a"),
        ("postgresql://web@h/other", "postgresql://web:s%20s@a/shop"),
    ],
)
def test_urls_and_pairs_go_together(base: str, own: str) -> None:
    (node,) = nodes_of(settings(base, n1=own))

    assert read(node) == {
        "dbname": "shop",
        "user": "web",
        "password": "s s",
        "host": "a",
    }


def test_weight_database_and_tags_go_along() -> None:
    wanted = settings(
        n1={"dsn": "host=a,b", "weight": 2.0, "database": "other", "tags": ("x",)}
    )

    assert [(n.name, n.weight, n.database, n.tags) for n in nodes_of(wanted)] == [
        ("n1/a", 2.0, "other", ("x",)),
        ("n1/b", 2.0, "other", ("x",)),
    ]


def test_each_of_several_hosts_is_a_node() -> None:
    found = nodes_of(settings("host=a,b dbname=d target_session_attrs=read-write"))

    assert [node.name for node in found] == ["main/a", "main/b"]
    assert [read(node) for node in found] == [
        {"host": "a", "dbname": "d"},
        {"host": "b", "dbname": "d"},
    ]


def test_sources_are_looked_up_and_not_in_the_list() -> None:
    mixed = settings(
        "dbname=shop",
        n1="host=a",
        pg={"dsn": "host=pg.lan", "dns": True},
        pt={"patroni": ("http://p:8008",), "weight": 3.0},
    )

    assert [node.name for node in nodes_of(mixed)] == ["n1"]
    _, pg, pt = sources_of(mixed)
    assert (pg.name, pg.dns, read(pg)) == ("pg", True, {"host": "pg.lan"} | SHOP)
    assert (pt.name, pt.patroni, pt.weight) == ("pt", ("http://p:8008",), 3.0)
    assert read(pt) == SHOP


@pytest.mark.parametrize(
    ("wrong", "where"),
    [
        (settings("hidden"), "database.dsn"),
        (settings("hidden", n1="host=a"), "database.dsn"),
        (settings("host=a", n1="hidden"), "nodes.n1.dsn"),
        (settings("host=a", n1="host=a,b,c port=1,2"), "nodes.n1.dsn"),
    ],
)
def test_a_wrong_dsn_is_named_but_not_shown(wrong: Settings, where: str) -> None:
    with pytest.raises(InvalidDsn, match=rf"^{where}: the DSN") as caught:
        nodes_of(wrong)
    assert "hidden" not in str(caught.value)


@pytest.fixture
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("PG"):
            monkeypatch.delenv(name)


@pytest.mark.usefixtures("_no_variables")
@pytest.mark.parametrize(
    ("nodes", "why"),
    [
        (
            settings("dbname=d", n1="host=a", n2=""),
            "node n2 has no host, in nodes.n2.d",
        ),
        (
            settings("dbname=d", n1="host=a", n2="host=a port=5432"),
            "nodes n1 and n2 are the same server, a: to database main they are two",
        ),
        (
            settings("dbname=d", n1="host=a,b", n2="host=b,c"),
            "nodes n1/b and n2/b are the same server, b",
        ),
        (
            settings("host=a dbname=d", n1="port=1", n2="port=2 dbname=e"),
            "nodes n1 and n2 are of one database, main, but connect to d and e",
        ),
    ],
)
def test_what_is_hardly_meant_so(nodes: Settings, why: str) -> None:
    (found,) = doubtful(nodes)
    assert found.startswith(why)


@pytest.mark.usefixtures("_no_variables")
@pytest.mark.parametrize(
    "nodes",
    [
        settings(),
        settings("dbname=d", n1="host=a", n2="host=b", n3="host=a port=6000"),
        settings("host=h dbname=d", n1="port=1", n2="port=2"),
        settings("host=a", n1="dbname=d", n2={"dsn": "dbname=e", "database": "other"}),
        settings("dbname=d", pt={"patroni": ("http://p:8008",)}),
    ],
)
def test_what_is_well_meant(nodes: Settings) -> None:
    assert doubtful(nodes) == []


def test_without_groups_one_is_implied() -> None:
    (name,) = groups_of(Settings(worker=Worker(count=3)))
    assert name == "default"
    (name,) = groups_of(Settings(worker=Worker(count=3, group="night")))
    assert name == "night"
    (group,) = groups_of(Settings(worker=Worker(count=3))).values()
    assert group == Group(size=3)


def test_the_implied_group_is_on_the_only_database() -> None:
    (group,) = groups_of(settings(n1={"database": "shop"})).values()
    assert group.database == "shop"
    two = settings(n1={"database": "shop"}, n2={"database": "main"})
    (group,) = groups_of(two).values()
    assert group.database == "main"


def test_groups_keep_their_order_and_get_their_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    groups = {"z": Group(size=2), "a": Group()}

    found = groups_of(Settings(worker=Worker(count=5), groups=groups))
    assert [(name, group.size) for name, group in found.items()] == [("z", 2), ("a", 5)]
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert groups_of(Settings(groups=groups))["a"].size == 7


def test_a_host_runs_one_group_if_it_is_told_to() -> None:
    groups = {"z": Group(), "a": Group()}

    assert list(groups_of(Settings(worker=Worker(group="a"), groups=groups))) == ["a"]


def test_the_first_group_with_a_pattern_gets_the_script() -> None:
    groups = {
        "daily": Group(scripts=("reports.daily", "night.*")),
        "reports": Group(scripts=("reports.*",)),
    }

    assert group_for("reports.daily", groups) == "daily"
    assert group_for("reports.Daily", groups) == "reports"
    assert group_for("night.a.b", groups) == "daily"
    assert group_for("shop", groups) is None
    assert group_for("shop", {"all": Group()}) == "all"


def test_a_group_chooses_by_name_tag_and_source() -> None:
    nodes = [
        Node("n1", tags=("ssd",)),
        Node("n2"),
        Node("pg/10.0.0.3"),
        Node("n4", database="other", tags=("ssd",)),
    ]

    assert chosen(Group(), nodes) == ("n1", "n2", "pg/10.0.0.3")
    assert chosen(Group(nodes=("n2", "ssd")), nodes) == ("n1", "n2")
    assert chosen(Group(nodes=("pg",)), nodes) == ("pg/10.0.0.3",)
    assert chosen(Group(nodes=("pg/10.0.0.3",)), nodes) == ("pg/10.0.0.3",)
    assert chosen(Group(nodes=("pg/10.0.0.4",)), nodes) == ()
    assert chosen(Group(database="other"), nodes) == ("n4",)


def test_sessions_get_what_the_group_says() -> None:
    assert session_parameters(Group()) == {}
    assert session_parameters(
        Group(statement_timeout=1.5, temp_buffers=128 << 20, role="web", access="read")
    ) == {
        "statement_timeout": "1500ms",
        "temp_buffers": "131072kB",
        "role": "web",
        "default_transaction_read_only": "on",
    }
    assert session_parameters(Group(statement_timeout=0.0001)) == {
        "statement_timeout": "1ms"
    }


def test_the_supervisor_gets_no_psycopg_by_it() -> None:
    code = """
import sys
from falconas.database.inventory import groups_of, only_node
from falconas.settings import Settings
only_node(Settings()), groups_of(Settings())
sys.exit("psycopg" in sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_nodes_are_not_too_many() -> None:
    most = {f"n{i}": f"host=h{i}" for i in range(MOST)}
    assert len(nodes_of(settings(**most))) == len(sources_of(settings(**most))) == MOST
    for read in (nodes_of, sources_of):
        with pytest.raises(ValueError, match="257 nodes; 256 are the most"):
            read(settings(**most, another="host=h"))

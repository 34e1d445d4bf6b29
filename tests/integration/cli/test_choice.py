from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from falconas.cli.checks import check_connection
from falconas.cli.choice import choose
from falconas.config import ConfigError, StartError
from falconas.database.cluster import EmbeddedCluster
from falconas.errors import Unavailable
from falconas.settings import Database, Group, Node, Settings
from tests.integration.database.patroni import member, standing_in

NOWHERE = "host=127.0.0.1 port=1"


def write() -> Mapping[str, Any]:
    return {"access": "write"}


def read() -> Mapping[str, Any]:
    return {"access": "read", "max_lag": None}


def read_fresh() -> Mapping[str, Any]:
    return {"access": "read", "max_lag": 0.0}


def settings(cluster: EmbeddedCluster, **groups: Group) -> Settings:
    """Nodes with a standby first, and after one where nobody is."""
    nodes = {"n0": Node(dsn=NOWHERE)}
    nodes |= {name: Node(dsn=cluster[name].dsn()) for name in ("n3", "n1", "n2")}
    return Settings(nodes=nodes, groups=groups)


def test_a_write_goes_to_the_primary_a_read_to_the_first_that_suits(
    cluster: EmbeddedCluster,
) -> None:
    assert choose(settings(cluster), "x", write).node == "n1"
    assert choose(settings(cluster), "x", read).node == "n3"
    cluster["n3"].stop("immediate")
    assert choose(settings(cluster), "x", read).node == "n1"


def test_a_read_that_must_be_fresh_goes_to_no_standby_that_is_cut_off(
    cluster: EmbeddedCluster,
) -> None:
    cluster["n3"].execute("SELECT pg_wal_replay_pause()")
    cluster["n1"].execute("CREATE ROLE fresh")
    cluster["n1"].execute("DROP ROLE fresh")
    cluster.wait_until_caught_up([cluster["n2"]])
    assert choose(settings(cluster), "x", read_fresh).node != "n3"
    assert choose(settings(cluster), "x", read).node == "n3"


def test_of_several_hosts_one_suits(
    cluster: EmbeddedCluster,
) -> None:
    ports = f"{cluster['n2'].port},{cluster['n1'].port}"
    dsn = make_conninfo(cluster["n1"].dsn(), host="127.0.0.1,127.0.0.1", port=ports)
    several = Settings(database=Database(dsn=dsn))

    for entry, port in ((write, cluster["n1"].port), (read, cluster["n2"].port)):
        found = choose(several, "x", entry)
        with psycopg.connect(found.dsn) as connection:
            assert connection.info.port == port


def test_members_of_a_patroni_cluster_are_found(cluster: EmbeddedCluster) -> None:
    dsn = make_conninfo(cluster["n1"].dsn(), host="", port="")
    with standing_in() as patroni:
        patroni.members = [
            member(node.name, host="127.0.0.1", port=node.port)
            for node in reversed(cluster.nodes)
        ]
        found = Settings(nodes={"pg": Node(dsn=dsn, patroni=(patroni.url,))})
        assert choose(found, "x", write).node == "pg/n1"
        assert choose(found, "x", read).node == "pg/n3"


def test_no_write_goes_to_a_primary_that_was_left_behind(
    cluster: EmbeddedCluster,
) -> None:
    cluster.promote(cluster["n2"])
    assert not cluster["n1"].standby
    assert choose(settings(cluster), "x", write).node == "n2"

    alone = settings(cluster, all=Group(nodes=("n1",)))
    with pytest.raises(Unavailable, match=r"no node accepts x: n1: .*left behind"):
        choose(alone, "x", write)


def test_a_script_has_the_nodes_and_the_session_of_its_group(
    cluster: EmbeddedCluster,
) -> None:
    grouped = settings(
        cluster,
        reports=Group(scripts=("r.*",), nodes=("n2",), statement_timeout=7.0),
        standbys=Group(scripts=("s.*",), nodes=("n2", "n3")),
    )

    found = choose(grouped, "r.daily", read)
    assert found.node == "n2"
    assert found.group.nodes == ("n2",)
    assert "statement_timeout=7000ms" in found.dsn
    with pytest.raises(Unavailable, match=r"no node accepts s.x: n3: .*; n2: "):
        choose(grouped, "s.x", write)
    with pytest.raises(ConfigError, match="script other belongs to no group"):
        choose(grouped, "other", write)


def test_a_single_server_is_not_asked() -> None:
    one = Settings(database=Database(dsn=NOWHERE, node="n"))
    assert choose(one, "x", lambda: pytest.fail("it counts not")).node == "n"


def test_dev_wants_one_node_that_answers(cluster: EmbeddedCluster) -> None:
    check_connection(settings(cluster))
    lost = Settings(
        database=Database(dsn=NOWHERE), nodes={"n8": Node(), "n9": Node(weight=2.0)}
    )
    with pytest.raises(StartError, match=r"no connection .*n8: .*; n9: "):
        check_connection(lost)

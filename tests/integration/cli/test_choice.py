from __future__ import annotations

from functools import partial

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from falconas.cli.checks import check_connection
from falconas.cli.choice import choose
from falconas.config import ConfigError, StartError
from falconas.database.cluster import EmbeddedCluster
from falconas.errors import Unavailable
from falconas.settings import Database, Group, Node, Settings

NOWHERE = "host=127.0.0.1 port=1"


def settings(cluster: EmbeddedCluster, **groups: Group) -> Settings:
    """Nodes with a standby first, and after one where nobody is."""
    nodes = {"n0": Node(dsn=NOWHERE)}
    nodes |= {name: Node(dsn=cluster[name].dsn()) for name in ("n3", "n1", "n2")}
    return Settings(nodes=nodes, groups=groups)


def test_a_write_goes_to_the_primary_a_read_to_the_first_that_answers(
    cluster: EmbeddedCluster,
) -> None:
    assert choose(settings(cluster), "x", lambda: True).node == "n1"
    assert choose(settings(cluster), "x", lambda: False).node == "n3"


def test_of_several_hosts_libpq_takes_the_one_that_accepts(
    cluster: EmbeddedCluster,
) -> None:
    ports = f"{cluster['n2'].port},{cluster['n1'].port}"
    dsn = make_conninfo(cluster["n1"].dsn(), host="127.0.0.1,127.0.0.1", port=ports)
    several = Settings(database=Database(dsn=dsn))

    for writes, port in ((True, cluster["n1"].port), (False, cluster["n2"].port)):
        found = choose(several, "x", partial(bool, writes))
        with psycopg.connect(found.dsn) as connection:
            assert connection.info.port == port


def test_after_a_promotion_a_write_goes_to_the_new_primary(
    cluster: EmbeddedCluster,
) -> None:
    cluster.promote(cluster["n2"])
    cluster["n1"].stop("immediate")

    assert choose(settings(cluster), "x", lambda: True).node == "n2"


def test_a_script_has_the_nodes_and_the_session_of_its_group(
    cluster: EmbeddedCluster,
) -> None:
    grouped = settings(
        cluster,
        reports=Group(scripts=("r.*",), nodes=("n2",), statement_timeout=7.0),
        standbys=Group(scripts=("s.*",), nodes=("n2", "n3")),
    )

    found = choose(grouped, "r.daily", lambda: pytest.fail("it counts not"))
    assert found.node == "n2"
    assert found.group.nodes == ("n2",)
    assert "statement_timeout=7000ms" in found.dsn
    with pytest.raises(Unavailable, match=r"no node accepts s.x: n3: .*; n2: "):
        choose(grouped, "s.x", lambda: True)
    with pytest.raises(ConfigError, match="script other belongs to no group"):
        choose(grouped, "other", lambda: True)


def test_dev_wants_one_node_that_answers(cluster: EmbeddedCluster) -> None:
    check_connection(settings(cluster))
    lost = Settings(
        database=Database(dsn=NOWHERE), nodes={"n8": Node(), "n9": Node(weight=2.0)}
    )
    with pytest.raises(StartError, match=r"no connection .*n8: .*; n9: "):
        check_connection(lost)

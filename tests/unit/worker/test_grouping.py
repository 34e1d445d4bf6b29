from __future__ import annotations

from typing import Any

import pytest

from falconas.settings import Database, Group, Node, Settings, Worker
from falconas.worker.grouping import discovers, groups_to_place, write_share

PLAIN = {"n1": Node("host=one"), "n2": Node("host=two", tags=("big",))}


def test_without_configuration_it_is_one_group_on_one_node() -> None:
    settings = Settings(worker=Worker(count=3), database=Database(node="here"))
    (group,) = groups_to_place(settings)
    assert (group.name, group.workers, group.nodes) == ("default", 3, ("here",))
    assert not discovers(settings)


def test_groups_have_their_nodes_by_name_and_tag() -> None:
    groups = {
        "one": Group(nodes=("n1",), size=2),
        "two": Group(nodes=("big",), size=1),
        "all": Group(size=4),
    }
    placed = groups_to_place(Settings(nodes=PLAIN, groups=groups))
    assert [(group.name, group.workers, group.nodes) for group in placed] == [
        ("one", 2, ("n1",)),
        ("two", 1, ("n2",)),
        ("all", 4, ("n1", "n2")),
    ]


def test_a_group_without_a_node_is_refused() -> None:
    settings = Settings(nodes=PLAIN, groups={"reports": Group(nodes=("n7",))})
    with pytest.raises(ValueError, match="group reports has no node") as caught:
        groups_to_place(settings)
    assert str(caught.value).endswith(
        "it wants nodes of database main named or tagged n7;"
        " there are n1 of main, n2 of main"
    )


@pytest.mark.parametrize(
    "settings",
    [
        Settings(database=Database("host=a,b")),
        Settings(nodes={"pg": Node("host=a,b")}),
        Settings(database=Database("port=1,2"), nodes={"pg": Node("host=a")}),
        Settings(nodes={"pg": Node("host=a", dns=True)}),
        Settings(nodes={"pg": Node(patroni=("http://a:8008",))}),
    ],
)
def test_nodes_that_may_still_be_found_are_no_reason_to_give_up(
    settings: Settings,
) -> None:
    assert discovers(settings)
    wanting = Group(nodes=("pg/10.0.0.3",), size=1)
    (group,) = groups_to_place(Settings(**vars(settings) | {"groups": {"g": wanting}}))
    assert group.nodes == ()


def manifest(*accesses: str, group: str = "g", error: str | None = None) -> Any:
    return {
        "scripts": {
            f"{group}{index}": {"access": access, "group": group, "error": error}
            for index, access in enumerate(accesses)
        }
    }


def test_the_primary_gets_what_the_scripts_of_a_group_need() -> None:
    group = Group(writes=0.25)
    assert write_share(manifest("read", "read"), "g", group) == 0.0
    assert write_share(manifest("read", "write"), "g", group) == 0.25
    assert write_share(manifest("write", "write"), "g", group) == 1.0
    assert write_share(manifest("write"), "g", Group(access="read")) == 0.0
    assert write_share(manifest("write", group="other"), "g", group) == 0.0
    assert write_share(manifest("write", error="broken"), "g", group) == 0.0

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from falconas.checks import ConfigError, check_broker, check_nodes, idle
from falconas.settings import Broker, Group, Node, Settings, Worker


def settings(
    nodes: dict[str, Node] | None = None,
    groups: dict[str, Group] | None = None,
    group: str = "",
) -> Settings:
    return Settings(worker=Worker(group=group), nodes=nodes or {}, groups=groups or {})


def test_a_broker_in_the_open_needs_consent() -> None:
    check_broker(Broker())
    for key in ("frontend", "backend", "control"):
        opened: dict[str, Any] = {key: "tcp://0.0.0.0:99"}
        broker = replace(Broker(), **opened)
        with pytest.raises(ConfigError, match=rf"broker\.{key} = tcp://0.*--insecure"):
            check_broker(broker)
        check_broker(replace(broker, insecure=True))


def test_a_broker_needs_three_endpoints() -> None:
    with pytest.raises(ConfigError, match="must differ"):
        check_broker(replace(Broker(), backend=Broker.frontend))


def test_the_largest_parameters_fit_into_the_queue() -> None:
    check_broker(replace(Broker(), params_bytes=100, queue_bytes=100))
    with pytest.raises(ConfigError, match="must not be larger"):
        check_broker(replace(Broker(), params_bytes=101, queue_bytes=100))


@pytest.mark.parametrize(
    "good",
    [
        settings(),
        settings(group="night"),
        settings({"n1": Node()}, {"a": Group()}, "a"),
        settings({"n1": Node(weight=0.0, tags=("n1", "x"))}),
        settings({"n1": Node(database="shop")}),
        settings(
            {"n1": Node(), "n2": Node(database="shop")},
            {
                "a": Group(scripts=("a",)),
                "b": Group(database="shop"),
            },
        ),
        settings(groups={"a": Group(nodes=("main",))}),
        settings(
            {"pg": Node(dns=True, tags=("x",))},
            {
                "a": Group(nodes=("pg/10.0.0.1", "x")),
            },
        ),
        settings({"pt": Node(patroni=("http://a:8008", "https://b:8008"))}),
        settings(groups={"a": Group(temp_buffers=800 << 10)}),
        settings(groups={"a": Group(), "pool": Group(scripts=())}),
    ],
)
def test_what_goes_together(good: Settings) -> None:
    check_nodes(good)
    assert idle(good) == []


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (settings(groups={"a": Group()}, group="b"), "worker.group = b: .*known are a"),
        (
            settings({"n1": Node()}, {"a": Group(database="shop")}),
            r"groups.a.database = shop: no node belongs to it; known .* are main",
        ),
        (
            settings(groups={"a": Group(database="shop")}),
            r"groups.a.database = shop: no node belongs to it; known .* are main",
        ),
        (
            settings({"n1": Node(tags=("x",))}, {"a": Group(nodes=("n2",))}),
            "groups.a.nodes: database main has no node and no tag n2; known are n1, x",
        ),
        (
            settings(
                {"n1": Node(), "n2": Node(database="shop", tags=("x",))},
                {"a": Group(nodes=("x",))},
            ),
            "database main has no node and no tag x; known are n1$",
        ),
        (
            settings({"n1": Node(database="a"), "n2": Node(database="b")}),
            "nodes of the databases a, b and no groups",
        ),
        (
            settings({"n1": Node(dns=True, patroni=("http://a",))}),
            "nodes.n1: .*not by both",
        ),
        (settings(groups={"a": Group(temp_buffers=1000)}), "temp_buffers must be at"),
        (
            settings({"n1": Node(), "n2": Node(tags=("x", "n1"))}),
            "nodes.n2.tags: n1 is the name of a node",
        ),
    ],
)
def test_what_does_not_go_together(wrong: Settings, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as caught:
        check_nodes(wrong)
    assert "\n" not in str(caught.value)


def test_a_node_without_a_group_is_warned_of() -> None:
    nodes = {"n1": Node(), "n2": Node(), "n3": Node(database="shop")}
    (warning,) = idle(settings(nodes))
    assert warning.startswith("node n3 belongs to no group")
    first, second = idle(settings(nodes, {"a": Group(nodes=("n1",))}))
    assert first.startswith("node n2")
    assert second.startswith("node n3")


def test_a_group_whose_scripts_are_all_taken_is_warned_of() -> None:
    groups = {"a": Group(scripts=("x",)), "b": Group(), "c": Group(scripts=("y",))}
    (warning,) = idle(settings(groups=groups))
    assert warning == "group c has no scripts: group b before it has them all"

"""What a supervisor knows of its groups before any node was asked: pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from falconas.database.inventory import chosen, groups_of, only_node
from falconas.database.placement import Group
from falconas.database.topology import Node
from falconas.settings import Group as Configured
from falconas.settings import Settings


def groups_to_place(settings: Settings) -> list[Group]:
    """Return the groups of a host, each with those of its nodes that are known.

    Raises:
        ValueError: A group has no node, and none can be found.
    """
    nodes = _named(settings)
    placed = []
    for name, group in groups_of(settings).items():
        names = chosen(group, nodes)
        if not names and not discovers(settings):
            raise ValueError(_nowhere(name, group, nodes))
        placed.append(Group(name, group.size, group.database, names))
    return placed


def discovers(settings: Settings) -> bool:
    """Tell whether a node of the configuration may stand for several servers."""
    if not settings.nodes:
        return only_node(settings) is None
    nodes = settings.nodes.values()
    dsns = [settings.database.dsn, *(node.dsn for node in nodes)]
    return any("," in dsn for dsn in dsns) or any(n.dns or n.patroni for n in nodes)


def write_share(manifest: Mapping[str, Any], name: str, group: Configured) -> float:
    """Return the part of a group's workers that the primary has to have."""
    writes = [
        entry["access"] == "write"
        for entry in manifest["scripts"].values()
        if entry["group"] == name and entry["error"] is None
    ]
    if group.access == "read" or not any(writes):
        return 0.0
    return 1.0 if all(writes) else group.writes


def _named(settings: Settings) -> list[Node]:
    """Return the nodes as configured, without their DSNs."""
    only = only_node(settings)
    if only is not None:
        return [only]
    return [
        Node(name, "", node.weight, node.database, node.tags)
        for name, node in settings.nodes.items()
    ]


def _nowhere(name: str, group: Configured, nodes: list[Node]) -> str:
    wanted = f" named or tagged {', '.join(group.nodes)}" if group.nodes else ""
    known = ", ".join(f"{node.name} of {node.database}" for node in nodes)
    return (
        f"group {name} has no node: it wants nodes of database"
        f" {group.database}{wanted}; there are {known or 'none'}"
    )

"""What does not go together in a configuration, though each value is right."""

from __future__ import annotations

from collections.abc import Iterator

from falconas.options import is_loopback
from falconas.settings import Broker, Group, Node, Settings

LEAST_TEMP_BUFFERS = 800 << 10


class ConfigError(ValueError):
    """The configuration is wrong; the text is one line that says what is right."""


class StartError(ConfigError):
    """A process cannot start as configured: a port is in use, a program missing."""


def check_broker(broker: Broker) -> None:
    """Refuse settings that a broker must not start with.

    Raises:
        ConfigError: Others could reach it without a key, endpoints are the same,
            or the largest request does not fit into the queue.
    """
    endpoints = {
        key: getattr(broker, key) for key in ("frontend", "backend", "control")
    }
    for key, endpoint in endpoints.items():
        if not broker.insecure and not is_loopback(endpoint):
            raise ConfigError(
                f"broker.{key} = {endpoint} can be reached from other machines and"
                " no keys are set: listen on 127.0.0.1 or ipc://, or say --insecure"
                " (broker.insecure = true)"
            )
    if len(set(endpoints.values())) < len(endpoints):
        raise ConfigError(
            "broker.frontend, broker.backend and broker.control must differ"
        )
    if broker.params_bytes > broker.queue_bytes:
        raise ConfigError(
            f"broker.params_bytes ({broker.params_bytes}) must not be larger than"
            f" broker.queue_bytes ({broker.queue_bytes})"
        )


def check_nodes(settings: Settings) -> None:
    """Refuse nodes and groups that do not go together.

    Raises:
        ConfigError: They do not fit together: a group on a database or node that is
            not there, a host told to run a group that is not there, and the like.
    """
    nodes, groups = settings.nodes, settings.groups
    for name, node in nodes.items():
        _check_node(name, node, nodes)
    for name, group in groups.items():
        _check_group(name, group, nodes or {settings.database.node: Node()})
    wanted = settings.worker.group
    if groups and wanted and wanted not in groups:
        raise ConfigError(
            f"worker.group = {wanted}: there is no such group; known are "
            + ", ".join(groups)
        )
    databases = sorted({node.database for node in nodes.values()})
    if not groups and len(databases) > 1 and Node.database not in databases:
        raise ConfigError(
            f"there are nodes of the databases {', '.join(databases)} and no groups:"
            " say by [groups.NAME] which scripts work on which"
        )


def idle(settings: Settings) -> list[str]:
    """Return which nodes and groups have no work for workers, to be warned of."""
    return [*_idle_nodes(settings), *_idle_groups(settings.groups)]


def _check_node(name: str, node: Node, nodes: dict[str, Node]) -> None:
    if node.dns and node.patroni:
        raise ConfigError(
            f"nodes.{name}: the nodes are found by dns or by patroni, not by both"
        )
    for tag in node.tags:
        if tag in nodes and tag != name:
            raise ConfigError(
                f"nodes.{name}.tags: {tag} is the name of a node, so that a group could"
                " not name that one alone: call the tag otherwise"
            )


def _check_group(name: str, group: Group, nodes: dict[str, Node]) -> None:
    here = {key: node for key, node in nodes.items() if node.database == group.database}
    if not here:
        known = ", ".join(sorted({node.database for node in nodes.values()}))
        raise ConfigError(
            f"groups.{name}.database = {group.database}: no node belongs to it;"
            f" known databases are {known}"
        )
    for word in group.nodes:
        if not any(_means(word, *item) for item in here.items()):
            tags = {tag for node in here.values() for tag in node.tags}
            raise ConfigError(
                f"groups.{name}.nodes: database {group.database} has no node and no"
                f" tag {word}; known are {', '.join([*here, *sorted(tags)])}"
            )
    if 0 < group.temp_buffers < LEAST_TEMP_BUFFERS:
        raise ConfigError(
            f"groups.{name}.temp_buffers must be at least 800KiB, or 0: as the server"
            " says"
        )


def _means(word: str, name: str, node: Node) -> bool:
    """Tell whether a group's word selects a node, or one found through it."""
    return word.split("/", maxsplit=1)[0] == name or word in node.tags


def _idle_nodes(settings: Settings) -> Iterator[str]:
    databases = {node.database for node in settings.nodes.values()}
    alone = len(databases) == 1 and not settings.groups
    groups = [Group(database=min(databases))] if alone else settings.groups.values()
    for name, node in settings.nodes.items():
        if not any(
            group.database == node.database
            and (
                not group.nodes or any(_means(word, name, node) for word in group.nodes)
            )
            for group in groups or [Group()]
        ):
            yield f"node {name} belongs to no group: nothing runs on it"


def _idle_groups(groups: dict[str, Group]) -> Iterator[str]:
    taker = ""
    for name, group in groups.items():
        if taker and group.scripts:
            yield f"group {name} has no scripts: group {taker} before it has them all"
        if not taker and "*" in group.scripts:
            taker = name

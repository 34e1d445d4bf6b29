"""What a pool is made of, where the configuration says it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from falconas.config import ConfigError, Settings, load, locate
from falconas.database.inventory import (
    chosen,
    groups_of,
    session_parameters,
    sources_of,
)
from falconas.database.options import PoolOptions
from falconas.database.topology import Node
from falconas.settings import Group


class Configured(NamedTuple):
    """A group as a pool has it.

    Attributes:
        nodes: All of its database, also those that it does not choose.
        options: What the group says, with defaults for the rest.
        group: As configured.
    """

    nodes: list[Node]
    options: PoolOptions
    group: Group

    def choose(self, nodes: Iterable[Node]) -> tuple[str, ...]:
        """Return the names of the group's nodes."""
        return chosen(self.group, nodes)


def read_pool(
    path: str | os.PathLike[str] | None,
    group: str,
    environ: Mapping[str, str],
    **changes: Any,
) -> Configured:
    """Return what the configuration says of a group's pool.

    Args:
        path: The configuration file; None: as the commands find it, if there is one.
        group: Its name; empty if there is only one.
        environ: The environment's variables.
        changes: Fields of `PoolOptions`, which go before what the group says.

    Raises:
        ConfigError: The configuration is wrong, or there is no such group.
        InvalidDsn: So is a DSN.
    """
    file = locate(os.fspath(path) if path else None, environ, Path.cwd())
    settings = load(file, environ, {})
    found = _group(settings, group)
    nodes = [node for node in sources_of(settings) if node.database == found.database]
    if not nodes:
        raise ConfigError(f"there is no node of database {found.database}")
    return Configured(nodes, _options(settings, found, changes), found)


def _group(settings: Settings, name: str) -> Group:
    groups = settings.groups or groups_of(settings)
    known = ", ".join(groups)
    if not name and len(groups) > 1:
        raise ConfigError(f"say which group the pool is for: {known}")
    name = name or next(iter(groups))
    if name not in groups:
        raise ConfigError(f"there is no group {name}; known are {known}")
    return groups[name]


def _options(settings: Settings, group: Group, changes: dict[str, Any]) -> PoolOptions:
    size = group.size if settings.groups else 0  # the implied group's is for workers
    found: dict[str, Any] = {
        "max_size": size or PoolOptions().max_size,
        "access": group.access,
        "autocommit": group.autocommit,
        "reset": settings.database.reset,
        **changes,
        "settings": session_parameters(group) | dict(changes.get("settings", {})),
    }
    return PoolOptions(**found)

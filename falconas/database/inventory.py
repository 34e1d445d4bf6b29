"""What the configuration says of nodes and groups, for both models.

Nothing here imports psycopg before a DSN has to be read: that is `nodes_of` and
`sources_of`, for the processes that connect (probe, pool). The supervisor needs only
names, groups and `only_node`; it learns the nodes' DSNs from its probe.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import TypeVar

from falconas.database.topology import Node, objection
from falconas.settings import Group, Settings

IMPLIED = "default"
MAIN = Group.database

Read = TypeVar("Read")


def only_node(settings: Settings) -> Node | None:
    """Return the one node there is, if that is certain without reading a DSN.

    So a host with a plain `database.dsn` starts its workers without waiting for the
    probe. None: ask `nodes_of`, or the probe.
    """
    own = settings.database
    if settings.nodes or "," in own.dsn:  # several hosts are several nodes
        return None
    return Node(own.node, own.dsn)


def sources_of(settings: Settings) -> list[Node]:
    """Return the nodes as configured, for `discovery` to find all that they stand for.

    Their DSNs are complete but for what libpq finds elsewhere: PG… variables, service
    and password file. Imports psycopg.

    Raises:
        InvalidDsn: libpq cannot read a DSN; the text names the option.
        ValueError: There are too many.
    """
    from falconas.database.conninfo import by_host, merged

    base = settings.database
    _reading("database.dsn", by_host, base.dsn)
    if not settings.nodes:
        return [Node(base.node, base.dsn)]
    found = []
    for name, node in settings.nodes.items():
        where = f"nodes.{name}.dsn"
        dsn = _reading(where, merged, base.dsn, node.dsn)
        _reading(where, by_host, dsn)
        found.append(Node(name, **vars(node) | {"dsn": dsn}))
    return _accepted(found)


def nodes_of(settings: Settings) -> list[Node]:
    """Return the nodes that need no looking up: one for each host. Imports psycopg.

    Raises:
        InvalidDsn: libpq cannot read a DSN; the text names the option.
        ValueError: There are too many.
    """
    from falconas.database.conninfo import by_host

    found = []
    for source in sources_of(settings):
        if source.dns or source.patroni:
            continue
        hosts = by_host(source.dsn)
        found += [
            replace(source, dsn=dsn)
            if len(hosts) == 1
            else replace(source, dsn=dsn, name=f"{source.name}/{host}")
            for host, dsn in hosts.items()
        ]
    return _accepted(found)


def doubtful(settings: Settings) -> list[str]:
    """Return what is hardly meant so in the nodes' DSNs. Imports psycopg.

    Raises:
        InvalidDsn: libpq cannot read a DSN; the text names the option.
    """
    from falconas.database.conninfo import server

    if not settings.nodes:
        return []
    found, names, places = (
        [],
        dict[str, tuple[str, str]](),
        dict[tuple[str, str], str](),
    )
    for node in sources_of(settings):
        place, dbname = server(node.dsn)
        if not place and not node.patroni:
            found.append(
                f"node {node.name} has no host, in nodes.{node.name}.dsn or in"
                " database.dsn: only `falconas dev --nodes N` knows a server for it"
            )
        first, other = names.setdefault(node.database, (node.name, dbname))
        if other != dbname:
            found.append(
                f"nodes {first} and {node.name} are of one database, {node.database},"
                f" but connect to {other} and {dbname}: if they are two, say so by"
                f" nodes.{node.name}.database"
            )
    for node in nodes_of(settings):
        place, _ = server(node.dsn)
        twin = places.setdefault((node.database, place), node.name)
        if place and twin != node.name:
            found.append(
                f"nodes {twin} and {node.name} are the same server, {place}: to"
                f" database {node.database} they are two primaries, and it gets no"
                " writes"
            )
    return found


def groups_of(settings: Settings) -> dict[str, Group]:
    """Return the groups whose workers a host runs, in their order, each with its size.

    Without groups in the configuration it is one with all scripts, named
    `worker.group`, on the only database, else on "main". With them `worker.group`
    picks one; that it exists is checked when the configuration is read.
    """
    own = settings.worker
    databases = {node.database for node in settings.nodes.values()}
    database = databases.pop() if len(databases) == 1 else MAIN
    groups = settings.groups or {own.group or IMPLIED: Group(database=database)}
    size = own.count or os.cpu_count() or 1
    return {
        name: replace(group, size=group.size or size)
        for name, group in groups.items()
        if own.group in ("", name)
    }


def group_for(script: str, groups: Mapping[str, Group]) -> str | None:
    """Return the first group that has a pattern for a script, None if none has."""
    for name, group in groups.items():
        if any(fnmatchcase(script, pattern) for pattern in group.scripts):
            return name
    return None


def chosen(group: Group, nodes: Iterable[Node]) -> tuple[str, ...]:
    """Return the names of a group's nodes, by the names and tags that it lists.

    `pg/10.0.0.3`, which was found through node `pg`, is meant by "pg" too.
    """
    words = set(group.nodes)
    return tuple(
        node.name
        for node in nodes
        if node.database == group.database
        and (not words or words & {node.name, node.name.split("/")[0], *node.tags})
    )


def session_parameters(group: Group) -> dict[str, str]:
    """Return the PostgreSQL parameters of the group's sessions."""
    wanted = {
        "statement_timeout": f"{max(1, round(group.statement_timeout * 1000))}ms"
        if group.statement_timeout
        else "",
        "temp_buffers": f"{group.temp_buffers >> 10}kB" if group.temp_buffers else "",
        "role": group.role,
        "default_transaction_read_only": "on" if group.access == "read" else "",
    }
    return {name: value for name, value in wanted.items() if value}


def _accepted(nodes: list[Node]) -> list[Node]:
    if why := objection(nodes):
        raise ValueError(why)
    return nodes


def _reading(where: str, read: Callable[..., Read], *dsns: str) -> Read:
    """Return what was read from DSNs; an error names the option."""
    from falconas.database.conninfo import InvalidDsn

    try:
        return read(*dsns)
    except InvalidDsn as error:
        raise InvalidDsn(f"{where}: {error}") from None

"""The database of somebody who writes scripts: a given one, else one of our own."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from falconas.config import ConfigError, Settings
from falconas.logs import mask
from falconas.settings import Node

if TYPE_CHECKING:
    from falconas.database.cluster import EmbeddedCluster
    from falconas.database.member import Member

FOLDER = Path(".falconas/dev")
NODES_FOLDER = Path(".falconas/nodes")
# Any of these says that the user's database is meant.
_LIBPQ = ("PGHOST", "PGHOSTADDR", "PGPORT", "PGSERVICE", "PGDATABASE", "PGUSER")

log = logging.getLogger("falconas.dev")


class Place(NamedTuple):
    """A database to work on.

    Attributes:
        settings: With the DSN of it, or of its nodes.
        where: What it is, for people.
        is_up: False if it was ours and has ended.
    """

    settings: Settings
    where: str
    is_up: Callable[[], bool]


@contextmanager
def database(
    settings: Settings, environ: Mapping[str, str], *, nodes: int = 0
) -> Iterator[Place]:
    """Give a database that is up for as long as the block runs.

    It is a given one, else our nodes if they run, else a server of our own.

    Args:
        settings: A database that they name is used.
        environ: So is one that libpq's variables name.
        nodes: So many nodes of our own, n1 as the primary and its standbys; 0: one
            server.

    Raises:
        ConfigError: One is given, and nodes of our own are wanted; or the other nodes
            that are configured are nowhere.
        StartError: Our own PostgreSQL does not start.
    """
    if by := _givers(settings, environ):
        if nodes:
            raise ConfigError(
                "--nodes starts PostgreSQL servers of our own, but a database is given"
                f" by {', '.join(by)}: leave out one or the other"
            )
        yield Place(settings, f"the given one ({_given(settings)})", lambda: True)
        return
    if not nodes and (cluster := _running()) is not None:
        log.info("using the nodes that run in %s", NODES_FOLDER)
        yield _nodes(settings, cluster)
        return
    own = _cluster(settings, nodes) if nodes else _server(settings)
    with own as place:
        yield place


def is_given(settings: Settings, environ: Mapping[str, str]) -> bool:
    """Tell whether the user named a database, to us or to libpq."""
    return bool(_givers(settings, environ))


def _givers(settings: Settings, environ: Mapping[str, str]) -> list[str]:
    """Return the names of the options and variables that name a database."""
    return [
        *(["database.dsn"] if settings.database.dsn else []),
        *(
            f"nodes.{name}.{key}"
            for name, node in settings.nodes.items()
            for key in ("dsn", "dns", "patroni")
            if getattr(node, key)
        ),
        *(name for name in _LIBPQ if environ.get(name)),
    ]


def _given(settings: Settings) -> str:
    if settings.nodes:
        return f"the nodes {', '.join(settings.nodes)}"
    return mask(settings.database.dsn) or "from the PG… variables"


@contextmanager
def _server(settings: Settings) -> Iterator[Place]:
    from falconas.database.embedded import EmbeddedError, EmbeddedPostgres

    if settings.nodes:
        raise ConfigError(
            f"the nodes {', '.join(settings.nodes)} have no dsn: give each one, or let"
            " `falconas dev --nodes N` start nodes n1, n2, …"
        )
    log.info("starting PostgreSQL in %s", FOLDER)
    with EmbeddedPostgres(FOLDER) as postgres:
        dsn = postgres.dsn()

        def is_up() -> bool:
            try:
                postgres.dsn()
            except EmbeddedError:
                return False
            return True

        own = replace(settings.database, dsn=dsn)
        where = f"our own in {FOLDER} (psql {shlex.quote(dsn)})"
        yield Place(replace(settings, database=own), where, is_up)
    log.info("left PostgreSQL; its data stays in %s", FOLDER)


@contextmanager
def _cluster(settings: Settings, count: int) -> Iterator[Place]:
    from falconas.database.cluster import EmbeddedCluster

    _check_names(settings, [f"n{number}" for number in range(1, count + 1)])
    log.info("starting %d nodes of PostgreSQL in %s", count, NODES_FOLDER)
    with EmbeddedCluster(NODES_FOLDER, standbys=count - 1) as cluster:
        yield _nodes(settings, cluster)
    log.info("left PostgreSQL; the data stays in %s", NODES_FOLDER)


def _running() -> EmbeddedCluster | None:
    """Return the cluster of a `falconas dev --nodes` that runs in this folder."""
    if not NODES_FOLDER.is_dir():
        return None
    from falconas.database.cluster import EmbeddedCluster

    return EmbeddedCluster.running(NODES_FOLDER)


def _nodes(settings: Settings, cluster: EmbeddedCluster) -> Place:
    _check_names(settings, [node.name for node in cluster.nodes])
    found = {
        node.name: replace(settings.nodes.get(node.name, Node()), dsn=node.dsn())
        for node in cluster.nodes
    }
    lines = [f"    {line_of(node)}" for node in cluster.nodes]
    where = "\n".join([f"our own nodes in {NODES_FOLDER}", *lines])

    def is_up() -> bool:
        return any(node.server.postmaster() for node in cluster.nodes)

    return Place(replace(settings, nodes=found), where, is_up)


def line_of(node: Member) -> str:
    """Show a node of our own: name, role, and how to look into it."""
    role = "standby" if node.standby else "primary"
    state = role if node.running else "paused" if node.paused else "down"
    return f"{node.name}  {state:7}  psql {shlex.quote(node.dsn())}"


def _check_names(settings: Settings, names: list[str]) -> None:
    for name in settings.nodes:
        if name not in names:
            raise ConfigError(
                f"[nodes.{name}] has no dsn, and the nodes of our own are only"
                f" {', '.join(names)}"
            )

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from falconas.cli.database import NODES_FOLDER, line_of
from falconas.cli.options import options
from falconas.config import ConfigError, Settings

if TYPE_CHECKING:
    from falconas.database.cluster import EmbeddedCluster
    from falconas.database.member import Member

ACTIONS = ("kill", "stop", "start", "pause", "resume", "promote", "rejoin")


@click.command
@click.argument(
    "action", type=click.Choice(ACTIONS), required=False, metavar="[ACTION]"
)
@click.argument("name", required=False)
@options("log.level")
def cluster(settings: Settings, *, action: str | None, name: str | None) -> None:
    """Practise failover on the nodes of `falconas dev --nodes`.

    Shows them, after ACTION, if one is given, was done to the node NAME:

    kill ends all its processes at once, stop ends it in order, pause lets it stand
    still; start and resume undo that. promote makes a standby the primary, and the
    other standbys follow it. rejoin makes any node a fresh standby.
    """
    del settings
    from falconas.database.cluster import EmbeddedCluster

    found = EmbeddedCluster.running(NODES_FOLDER)
    if found is None:
        raise ConfigError(
            f"no nodes run in {NODES_FOLDER}: `falconas dev --nodes 3` starts some"
        )
    if action is not None:
        _act(found, action, _named(found, name))
    for node in found.nodes:
        click.echo(line_of(node))


def _named(cluster: EmbeddedCluster, name: str | None) -> Member:
    for node in cluster.nodes:
        if node.name == name:
            return node
    names = ", ".join(node.name for node in cluster.nodes)
    raise ConfigError(f"name one of the nodes {names}")


def _act(cluster: EmbeddedCluster, action: str, node: Member) -> None:
    primary = cluster.writable()
    if action == "start":
        node.resume()
        if node.standby and primary is not None:
            node.follow(primary)
        node.start()
    elif action == "promote":
        if not (node.running and node.standby):
            raise ConfigError(f"{node.name} is no standby that runs")
        cluster.promote(node)
    elif action == "rejoin":
        if primary is None or primary is node:
            raise ConfigError(f"there is no other primary that {node.name} could join")
        node.stop("immediate")
        node.copy(primary)
    else:
        {
            "kill": node.kill,
            "stop": node.stop,
            "pause": node.pause,
            "resume": node.resume,
        }[action]()

"""On which node, and in what session, `falconas run` runs a script."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from contextlib import suppress
from time import monotonic
from typing import Any, NamedTuple

from falconas.config import ConfigError, Settings
from falconas.database.conninfo import by_host, conninfo
from falconas.database.inventory import (
    chosen,
    group_for,
    groups_of,
    session_parameters,
    sources_of,
)
from falconas.database.nodes import NoAnswer, NodeSet, Probe, Refusal
from falconas.database.prober import Prober
from falconas.database.topology import Node
from falconas.errors import Unavailable
from falconas.settings import Group

PATIENCE = 6.0  # with look-ups and probes; each ends by itself before


class Choice(NamedTuple):
    """Where to run a script; `dsn` has the parameters of the group's sessions."""

    node: str
    dsn: str
    group: Group


def choose(
    settings: Settings, script: str, entry: Callable[[], Mapping[str, Any]]
) -> Choice:
    """Return a node of the script's group that suits it, as workers are chosen.

    Where there is only one server, it is that.

    Args:
        settings: With nodes and groups.
        script: The script's name.
        entry: Returns what the script declares; is asked only if that counts.

    Raises:
        ConfigError: The script belongs to no group.
        Unavailable: No node suits; the text names each and why not.
    """
    groups = settings.groups or groups_of(settings)
    name = group_for(script, groups)
    if name is None:
        raise ConfigError(
            f"script {script} belongs to no group: add a pattern for it to scripts in"
            " one of the sections [groups.NAME]"
        )
    group = groups[name]
    # All of the database: only beside the others is it seen that one is left behind.
    sources = [one for one in sources_of(settings) if one.database == group.database]
    if len(sources) == 1 and _is_one_server(sources[0]):
        node = sources[0]
    else:
        node = _suiting(sources, group, script, entry())
    return Choice(
        node.name, conninfo(node.dsn, settings=session_parameters(group)), group
    )


def _is_one_server(source: Node) -> bool:
    return not (source.dns or source.patroni) and len(by_host(source.dsn)) == 1


def _suiting(
    sources: list[Node], group: Group, script: str, entry: Mapping[str, Any]
) -> Node:
    nodes = asyncio.run(probed(sources))
    found = nodes.choose(
        "read" if entry.get("access") == "read" else "write",
        now=monotonic(),
        in_use={},
        max_lag=entry.get("max_lag"),
        among=chosen(group, nodes),
        database=group.database,
    )
    if isinstance(found, Refusal):
        raise Unavailable(f"no node accepts {script}: {found.reason}")
    return found


async def probed(sources: list[Node]) -> NodeSet:
    """Find the nodes, and return what each said of itself when it was asked."""
    nodes = NodeSet((), random=random.random)

    def due() -> tuple[list[str], float]:
        now = monotonic()
        return nodes.due(now), nodes.wake_at() - now

    def answered(name: str, answer: Probe | NoAnswer) -> None:
        now = monotonic()
        if isinstance(answer, NoAnswer):
            nodes.failed(name, answer.why, now, silent=answer.silent)
        else:
            nodes.probed(name, answer, now)
        if _is_complete(nodes, sources):
            prober.stop()

    prober = Prober(sources, nodes.update, due, answered, lambda *_: None)
    with suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE):
            await prober.run()
    return nodes


def _is_complete(nodes: NodeSet, sources: list[Node]) -> bool:
    """Tell whether each source has nodes, and each of these was probed."""
    names = [node.name for node in nodes]
    return all(nodes.state(name).health.known for name in names) and all(
        any(name.split("/")[0] == source.name for name in names) for source in sources
    )

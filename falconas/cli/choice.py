"""On which node, and in what session, `falconas run` runs a script."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from falconas.config import ConfigError, Settings
from falconas.database.conninfo import by_host, conninfo, merged
from falconas.database.inventory import (
    chosen,
    group_for,
    groups_of,
    session_parameters,
    sources_of,
)
from falconas.database.session import ConnectFailed, Session
from falconas.database.topology import Node
from falconas.errors import Unavailable
from falconas.settings import Group


class Choice(NamedTuple):
    """Where to run a script; `dsn` has the parameters of the group's sessions."""

    node: str
    dsn: str
    group: Group


def choose(settings: Settings, script: str, writes: Callable[[], bool]) -> Choice:
    """Return the first node of the script's group that accepts it.

    A write is accepted by a primary. Where there is only one server, it is that.

    Args:
        settings: With nodes and groups.
        script: The script's name.
        writes: Tells whether it writes; is asked only if that counts.

    Raises:
        ConfigError: The script belongs to no group.
        Unavailable: No node accepts it; the text names each and why not.
    """
    groups = settings.groups or groups_of(settings)
    name = group_for(script, groups)
    if name is None:
        raise ConfigError(
            f"script {script} belongs to no group: add a pattern for it to scripts in"
            " one of the sections [groups.NAME]"
        )
    group = groups[name]
    # "pg/10.0.0.3" is a part of "pg", and libpq chooses among the parts by itself.
    words = tuple(word.split("/")[0] for word in group.nodes)
    sources = sources_of(settings)
    names = chosen(replace(group, nodes=words), sources)
    nodes = [source for source in sources if source.name in names]
    alone = len(nodes) == 1 and not nodes[0].dns and len(by_host(nodes[0].dsn)) == 1
    node = nodes[0] if alone else _accepting(nodes, script, writes=writes())
    return Choice(
        node.name, conninfo(node.dsn, settings=session_parameters(group)), group
    )


def _accepting(nodes: list[Node], script: str, *, writes: bool) -> Node:
    kind = "primary" if writes else "any"
    failures = []
    for node in nodes:
        dsn = merged(node.dsn, f"target_session_attrs={kind}")
        try:
            Session.connect(dsn).close()
        except ConnectFailed as error:
            failures.append(f"{node.name}: {error}")
        else:
            return replace(node, dsn=dsn)
    raise Unavailable(f"no node accepts {script}: {'; '.join(failures)}")

"""All options: sections as frozen dataclasses, each option a field written once.

TOML keys, variables `FALCONAS_SECTION__KEY`, command line, `falconas config` and the
documentation are made from these fields. Seconds are floats, bytes are ints.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from falconas.options import (
    Choice,
    Endpoint,
    Filled,
    Flag,
    Kind,
    Name,
    Names,
    Urls,
    Words,
)
from falconas.quantities import Count, Duration, Number, Size

PREFIX = "FALCONAS_"
LONGEST = 7 * 86400.0

_KIB, _MIB, _GIB = 1 << 10, 1 << 20, 1 << 30
_BUDGET = Duration(0.001, LONGEST)
_WAIT = Duration(0.0, LONGEST)
_DIAL = Endpoint(dial=True)


def _option(default: Any, kind: Kind, text: str, **more: Any) -> Any:
    return field(default=default, metadata={"kind": kind, "help": text, **more})


@dataclass(frozen=True)
class Broker:
    """The broker: takes requests from clients and hands them to workers."""

    frontend: str = _option(
        "tcp://127.0.0.1:5570", Endpoint(), "Endpoint that clients connect to."
    )
    backend: str = _option(
        "tcp://127.0.0.1:5571", Endpoint(), "Endpoint that workers connect to."
    )
    control: str = _option(
        "tcp://127.0.0.1:5572", Endpoint(), "Endpoint of supervisors and operators."
    )
    insecure: bool = _option(
        False, Flag(), "Listen beyond this machine although no keys are set."
    )
    queue_requests: int = _option(
        10_000, Count(1, 10_000_000), "Requests that may wait, in all."
    )
    queue_bytes: int = _option(
        64 * _MIB, Size(_KIB, 64 * _GIB), "Bytes of the requests that wait."
    )
    client_requests: int = _option(
        1_000, Count(1, 10_000_000), "Outstanding requests of one client."
    )
    params_bytes: int = _option(
        1 * _MIB, Size(64, _GIB), "Largest parameters of one request."
    )
    result_bytes: int = _option(
        16 * _MIB, Size(64, _GIB), "Largest result of one request."
    )
    budget: float = _option(
        30.0, _BUDGET, "Time for a request when neither caller nor script says."
    )
    worker_wait: float = _option(
        1.0, _WAIT, "How long a known script may wait for a worker."
    )
    start_wait: float = _option(
        3.0, _WAIT, "After the start, how long an unknown script may wait likewise."
    )
    ahead: float = _option(
        0.004, Duration(0.0, 1.0), "Short work for a worker ahead of its turn; 0: none."
    )
    drain_timeout: float = _option(
        30.0, _WAIT, "On SIGTERM, time for outstanding requests to end."
    )


@dataclass(frozen=True)
class Worker:
    """One host's workers and their supervisor."""

    backend: str = _option(
        Broker.backend, _DIAL, "The broker's backend.", follows="broker.backend"
    )
    control: str = _option(
        Broker.control, _DIAL, "The broker's control.", follows="broker.control"
    )
    count: int = _option(
        0,
        Count(0, 4096),
        "Number of workers of a group that does not say; 0: one for each core.",
        short="-n",
    )
    scripts: str = _option("workers", Filled(4096), "Folder of the scripts.")
    group: str = _option(
        "", Kind(), "Only the workers of this group; not set: of all that there are."
    )
    drain_timeout: float = _option(
        30.0, _WAIT, "On SIGTERM, time for the running requests to end."
    )
    boot_timeout: float = _option(
        60.0, _BUDGET, "Time for a worker to load the scripts and connect."
    )
    strict: bool = _option(False, Flag(), "Do not start if a script does not load.")
    recycle_requests: int = _option(
        100_000,
        Count(0, 1_000_000_000),
        "Requests after which a worker is replaced, give or take a tenth; 0: none.",
    )
    recycle_age: float = _option(
        3600.0,
        _WAIT,
        "Age at which a worker is replaced, give or take a tenth; 0: none.",
    )
    recycle_memory: int = _option(
        _GIB, Size(0, 1 << 50), "Resident memory that gets a worker replaced; 0: none."
    )
    address_space: int = _option(
        0,
        Size(0, 1 << 50),
        "Memory that a worker cannot get beyond (RLIMIT_AS); 0: no limit.",
    )


@dataclass(frozen=True)
class Database:
    """The PostgreSQL server that the scripts work on; or what all nodes share."""

    dsn: str = _option(
        "",
        Kind(),
        "Connection string; what it leaves out comes from PG* variables,"
        " service file and password file.",
        secret=True,
    )
    node: str = _option("main", Filled(), "Name of this server in status and replies.")
    reset: str = _option(
        "soft",
        Choice("soft", "discard", "rollback"),
        "How a session is swept after each request: soft keeps prepared statements,"
        " discard keeps nothing, rollback ends the transaction only.",
    )


@dataclass(frozen=True)
class Node:
    """A node: one PostgreSQL server; or where to look for several."""

    dsn: str = _option(
        "",
        Kind(),
        "Connection string; what it leaves out comes from database.dsn. Several"
        " hosts are several nodes.",
        secret=True,
    )
    weight: float = _option(
        1.0,
        Number(0.0, 1000.0),
        "Its share of the work beside the others'; 0: only when no other suits.",
    )
    database: str = _option(
        "main", Name(), "The database (one primary and its standbys) it belongs to."
    )
    tags: tuple[str, ...] = _option((), Names(), "Words by which groups select nodes.")
    dns: bool = _option(
        False, Flag(), "Each address that the host resolves to is a node."
    )
    patroni: tuple[str, ...] = _option(
        (),
        Urls(),
        "URLs of Patroni's REST API, by https where the network is not trusted; the"
        " members it lists are the nodes.",
    )


@dataclass(frozen=True)
class Group:
    """A group: which scripts run where, on how many workers, in what sessions."""

    scripts: tuple[str, ...] = _option(
        ("*",),
        Words(),
        "Patterns of the names of its scripts; a script belongs to the first group"
        " that has a pattern for it.",
    )
    database: str = _option("main", Name(), "The database it works on.")
    nodes: tuple[str, ...] = _option(
        (), Words(), "Names or tags of its nodes; none: all."
    )
    size: int = _option(
        0,
        Count(0, 4096),
        "Workers on each host (0: as worker.count), or connections of a NodePool to"
        " each node (0: 10).",
    )
    access: str = _option(
        "write",
        Choice("write", "read"),
        "With read its sessions only read, and it has no scripts that write.",
    )
    writes: float = _option(
        0.5,
        Number(0.0, 1.0),
        "The part of its workers that the primary has at least, if some of its"
        " scripts write; all of them, if all do.",
    )
    autocommit: bool = _option(
        False, Flag(), "Each statement for itself; else a request is one transaction."
    )
    statement_timeout: float = _option(
        0.0, _WAIT, "Time for one statement; 0: as the server says."
    )
    temp_buffers: int = _option(
        0,
        Size(0, 64 * _GIB),
        "Memory of a session for temporary tables; 0: as the server says.",
    )
    role: str = _option("", Kind(), "Role of PostgreSQL that its sessions take on.")


@dataclass(frozen=True)
class Client:
    """Commands that call scripts or ask the broker."""

    frontend: str = _option(
        Broker.frontend, _DIAL, "The broker's frontend.", follows="broker.frontend"
    )
    control: str = _option(
        Broker.control, _DIAL, "The broker's control.", follows="broker.control"
    )
    budget: float = _option(
        5.0, _BUDGET, "Time to wait for a broker where a call has no budget."
    )


@dataclass(frozen=True)
class Log:
    """The log on stderr."""

    level: str = _option(
        "info",
        Choice("debug", "info", "warning", "error"),
        "What to log at least.",
        flag="--log-level",
    )
    format: str = _option(
        "auto",
        Choice("auto", "text", "json"),
        "Lines for people or JSON; auto: text on a terminal.",
        flag="--log-format",
    )


@dataclass(frozen=True)
class Settings:
    """All options."""

    broker: Broker = field(default_factory=Broker)
    worker: Worker = field(default_factory=Worker)
    database: Database = field(default_factory=Database)
    nodes: dict[str, Node] = field(default_factory=dict)
    groups: dict[str, Group] = field(default_factory=dict)
    client: Client = field(default_factory=Client)
    log: Log = field(default_factory=Log)


@dataclass(frozen=True)
class Option:
    """One option, as its field says; not set, it takes the value of `follows`."""

    section: str
    key: str
    kind: Kind
    help: str
    default: Any
    flag: str
    short: str | None = None
    follows: str | None = None
    secret: bool = False

    @property
    def path(self) -> str:
        """Name in messages: `broker.frontend`."""
        return f"{self.section}.{self.key}"

    @property
    def variable(self) -> str:
        """Name in the environment: `FALCONAS_BROKER__FRONTEND`."""
        return f"{PREFIX}{self.path.replace('.', '__')}".upper()

    def value(self, settings: Settings) -> Any:
        """Return what it is set to."""
        section, _, name = self.section.partition(".")
        found = getattr(settings, section)
        return getattr(found[name] if name else found, self.key)


def describe(classes: Mapping[str, type[Any]]) -> dict[str, Option]:
    """Return the options of sections by their paths."""
    found = [
        Option(
            section,
            item.name,
            default=item.default,
            **{"flag": "--" + item.name.replace("_", "-"), **item.metadata},
        )
        for section, cls in classes.items()
        for item in fields(cls)
    ]
    return {option.path: option for option in found}


def known(names: Mapping[str, Iterable[str]]) -> dict[str, Option]:
    """Return all options by their paths, also those of the members of families."""
    members = {
        f"{family}.{name}": FAMILIES[family]
        for family, found in names.items()
        for name in found
    }
    return OPTIONS | describe(members)


def order_variable(family: str) -> str:
    """Return the variable that has the names of a family's members in their order."""
    return f"{PREFIX}{family}".upper()


SECTIONS: dict[str, type[Any]] = {
    "broker": Broker,
    "worker": Worker,
    "database": Database,
    "client": Client,
    "log": Log,
}
# Sections of which there are as many as one likes: [nodes.NAME].
FAMILIES: dict[str, type[Any]] = {"nodes": Node, "groups": Group}
OPTIONS = describe(SECTIONS)
MEMBERS = describe({f"{family}.NAME": cls for family, cls in FAMILIES.items()})

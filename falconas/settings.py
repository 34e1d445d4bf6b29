"""All options: sections as frozen dataclasses, each option a field written once.

The TOML keys, the variables `FALCONAS_SECTION__KEY`, the command line,
`falconas config` and the documentation are made from these fields. Seconds are
floats, bytes are ints.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from falconas.options import Choice, Count, Duration, Endpoint, Filled, Flag, Kind, Size

PREFIX = "FALCONAS_"
LONGEST = 7 * 86400.0

_KIB, _MIB, _GIB = 1 << 10, 1 << 20, 1 << 30
_BUDGET = Duration(0.001, LONGEST)
_WAIT = Duration(0.0, LONGEST)


def _meta(kind: Kind, text: str, **more: Any) -> dict[str, Any]:
    return {"kind": kind, "help": text, **more}


@dataclass(frozen=True)
class Broker:
    """The broker: takes requests from clients and hands them to workers."""

    frontend: str = field(
        default="tcp://127.0.0.1:5570",
        metadata=_meta(Endpoint(), "Endpoint that clients connect to."),
    )
    backend: str = field(
        default="tcp://127.0.0.1:5571",
        metadata=_meta(Endpoint(), "Endpoint that workers connect to."),
    )
    control: str = field(
        default="tcp://127.0.0.1:5572",
        metadata=_meta(Endpoint(), "Endpoint of supervisors and operators."),
    )
    insecure: bool = field(
        default=False,
        metadata=_meta(Flag(), "Listen beyond this machine although no keys are set."),
    )
    queue_requests: int = field(
        default=10_000,
        metadata=_meta(Count(1, 10_000_000), "Requests that may wait, in all."),
    )
    queue_bytes: int = field(
        default=64 * _MIB,
        metadata=_meta(Size(_KIB, 64 * _GIB), "Bytes of the requests that wait."),
    )
    client_requests: int = field(
        default=1_000,
        metadata=_meta(Count(1, 10_000_000), "Outstanding requests of one client."),
    )
    params_bytes: int = field(
        default=1 * _MIB,
        metadata=_meta(Size(64, _GIB), "Largest parameters of one request."),
    )
    result_bytes: int = field(
        default=16 * _MIB,
        metadata=_meta(Size(64, _GIB), "Largest result of one request."),
    )
    budget: float = field(
        default=30.0,
        metadata=_meta(
            _BUDGET, "Time for a request when neither caller nor script says."
        ),
    )
    worker_wait: float = field(
        default=1.0,
        metadata=_meta(_WAIT, "How long a known script may wait for a worker."),
    )
    start_wait: float = field(
        default=3.0,
        metadata=_meta(
            _WAIT, "After the start, how long an unknown script may wait likewise."
        ),
    )
    drain_timeout: float = field(
        default=30.0,
        metadata=_meta(_WAIT, "On SIGTERM, time for outstanding requests to end."),
    )


@dataclass(frozen=True)
class Worker:
    """One host's workers and their supervisor."""

    backend: str = field(
        default=Broker.backend,
        metadata=_meta(
            Endpoint(dial=True), "The broker's backend.", follows="broker.backend"
        ),
    )
    control: str = field(
        default=Broker.control,
        metadata=_meta(
            Endpoint(dial=True), "The broker's control.", follows="broker.control"
        ),
    )
    count: int = field(
        default=0,
        metadata=_meta(
            Count(0, 4096), "Number of workers; 0: one for each core.", short="-n"
        ),
    )
    scripts: str = field(
        default="workers",
        metadata=_meta(Filled(4096), "Folder of the scripts."),
    )
    group: str = field(
        default="default",
        metadata=_meta(Filled(), "Name of this group of workers."),
    )
    drain_timeout: float = field(
        default=30.0,
        metadata=_meta(_WAIT, "On SIGTERM, time for the running requests to end."),
    )
    boot_timeout: float = field(
        default=60.0,
        metadata=_meta(_BUDGET, "Time for a worker to load the scripts and connect."),
    )
    strict: bool = field(
        default=False,
        metadata=_meta(Flag(), "Do not start if a script does not load."),
    )
    recycle_requests: int = field(
        default=100_000,
        metadata=_meta(
            Count(0, 1_000_000_000),
            "Requests after which a worker is replaced, give or take a tenth; 0: none.",
        ),
    )
    recycle_age: float = field(
        default=3600.0,
        metadata=_meta(
            _WAIT, "Age at which a worker is replaced, give or take a tenth; 0: none."
        ),
    )
    recycle_memory: int = field(
        default=_GIB,
        metadata=_meta(
            Size(0, 1 << 50), "Resident memory that gets a worker replaced; 0: none."
        ),
    )
    address_space: int = field(
        default=0,
        metadata=_meta(
            Size(0, 1 << 50),
            "Memory that a worker cannot get beyond (RLIMIT_AS); 0: no limit.",
        ),
    )


@dataclass(frozen=True)
class Database:
    """The PostgreSQL server that the scripts work on."""

    dsn: str = field(
        default="",
        metadata=_meta(
            Kind(),
            "Connection string; what it leaves out comes from PG* variables,"
            " service file and password file.",
            secret=True,
        ),
    )
    node: str = field(
        default="main",
        metadata=_meta(Filled(), "Name of this server in status and replies."),
    )
    reset: str = field(
        default="soft",
        metadata=_meta(
            Choice("soft", "discard", "rollback"),
            "How a session is swept after each request: soft keeps prepared statements,"
            " discard keeps nothing, rollback ends the transaction only.",
        ),
    )


@dataclass(frozen=True)
class Client:
    """Commands that call scripts or ask the broker."""

    frontend: str = field(
        default=Broker.frontend,
        metadata=_meta(
            Endpoint(dial=True), "The broker's frontend.", follows="broker.frontend"
        ),
    )
    control: str = field(
        default=Broker.control,
        metadata=_meta(
            Endpoint(dial=True), "The broker's control.", follows="broker.control"
        ),
    )
    budget: float = field(
        default=5.0,
        metadata=_meta(
            _BUDGET, "Time to wait for a broker where a call has no budget."
        ),
    )


@dataclass(frozen=True)
class Log:
    """The log on stderr."""

    level: str = field(
        default="info",
        metadata=_meta(
            Choice("debug", "info", "warning", "error"),
            "What to log at least.",
            flag="--log-level",
        ),
    )
    format: str = field(
        default="auto",
        metadata=_meta(
            Choice("auto", "text", "json"),
            "Lines for people or JSON; auto: text on a terminal.",
            flag="--log-format",
        ),
    )


@dataclass(frozen=True)
class Settings:
    """All options."""

    broker: Broker = field(default_factory=Broker)
    worker: Worker = field(default_factory=Worker)
    database: Database = field(default_factory=Database)
    client: Client = field(default_factory=Client)
    log: Log = field(default_factory=Log)


@dataclass(frozen=True)
class Option:
    """One option, as its field describes it.

    Attributes:
        follows: The option whose value this one takes when it is not set.
    """

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
        return f"{PREFIX}{self.section}__{self.key}".upper()


def _options() -> dict[str, Option]:
    found = [
        Option(
            section.name,
            item.name,
            default=item.default,
            **{"flag": "--" + item.name.replace("_", "-"), **item.metadata},
        )
        for section in fields(Settings)
        for item in fields(SECTIONS[section.name])
    ]
    return {option.path: option for option in found}


SECTIONS: dict[str, type[Any]] = {
    "broker": Broker,
    "worker": Worker,
    "database": Database,
    "client": Client,
    "log": Log,
}
OPTIONS = _options()

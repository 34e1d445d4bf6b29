"""What the broker remembers of clients, requests, workers and hosts."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, NamedTuple

from msgspec import Struct

from falconas.errors import Started
from falconas.protocol import Extras, Id, Message

EPOCH_BYTES = 8
# Frames that nobody here looks into: bytes, or zero-copy frames of the loop.
Body = Any


class Socket(IntEnum):
    """The broker's three ROUTERs; a peer's role is the socket that it came by."""

    FRONTEND = 0
    BACKEND = 1
    CONTROL = 2


class Send(Struct):
    """A message to put on the wire; `envelope` stands between identity and header."""

    socket: Socket
    identity: bytes
    envelope: tuple[bytes, ...]
    message: Message
    body: Body


class Peer(Struct):
    """Where an answer goes."""

    socket: Socket
    identity: bytes
    envelope: tuple[bytes, ...] = ()

    def send(self, message: Message, body: Body) -> Send:
        """Return a message to this peer."""
        return Send(self.socket, self.identity, self.envelope, message, body)


class Demand(IntEnum):
    """What a node must be for a request; from REPLAYED on another gave it back."""

    NOTHING = 0
    COMPARABLE = 1  # with the request's `min_lsn`: not known to be astray
    REPLAYED = 2  # known to be beyond it
    PRIMARY = 3


@dataclass(frozen=True, slots=True)
class ScriptInfo:
    """What the broker knows of one version of a script.

    `group` None: workers of any group run it; `max_lag` in seconds, None: any.
    """

    name: str
    idempotent: bool = False
    budget: float | None = None
    error: str | None = None
    access: str = "write"
    group: str | None = None
    max_lag: float | None = None


@dataclass(slots=True, eq=False)
class Client:
    """One caller: a session, or a bare connection that never said HELLO."""

    key: bytes
    identity: bytes
    session: bool
    seen: float = 0.0
    gone_at: float | None = None  # its connection; until it says HELLO again
    pending: dict[Id, Pending] = field(default_factory=dict)
    held: list[tuple[float, Message, Body]] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Pending:
    """A request that has no verdict yet, or whose worker still works on it.

    It waits in exactly one `queue`, or is in exactly one `worker`'s hands.
    """

    number: int
    client: Client
    envelope: tuple[bytes, ...]
    origin: Id
    script: str
    body: Body
    size: int
    extras: Extras
    arrived: float
    deadline: float
    # Of its script: the newest version when it came, later that of its last worker.
    info: ScriptInfo | None = None
    priority: int = 0
    attempt: int = 1
    demand: Demand = Demand.NOTHING
    astray_at: float | None = None  # since when nodes give it back
    watched: bool = False  # to be cancelled when its client is gone
    cancelled: bool = False
    answered: bool = False
    # While it has no verdict: when the broker gives one, and with whom else.
    due: float = field(init=False, repr=False)
    bucket: dict[int, Pending] | None = None
    # While it waits: in which Queue, where in its order, among which of its kind, and
    # since when, or since when for a worker to appear.
    queue: Any = None
    place: Any = field(init=False, repr=False)
    alike: dict[int, Pending] = field(init=False, repr=False)
    alone_at: float = field(init=False, repr=False)
    # While it is in hand: whose, under which id, since when, under which lease (inf: it
    # is behind nothing), and for how many seconds (inf: nothing goes behind it).
    worker: Worker | None = None
    dispatch: bytes = field(init=False, repr=False)
    handed: float = field(init=False, repr=False)
    start_by: float = field(init=False, repr=False)
    expected: float = field(init=False, repr=False)

    @property
    def demanding(self) -> bool:
        """It was given back, and each news of a node may release it."""
        return self.demand > Demand.COMPARABLE or self.astray_at is not None

    @property
    def kind(self) -> tuple[str, ...]:
        """What requests share that the same lanes serve; empty if it is demanding.

        The script, and the databases of which it wants to see what was written.
        """
        if not self.demand and self.astray_at is None:
            return (self.script,)
        if self.demanding:
            return ()
        min_lsn = self.extras.get("min_lsn")
        if not min_lsn:
            return (self.script,)
        return self.script, *sorted(name for name, lsn in min_lsn.items() if lsn)


class LaneKey(NamedTuple):
    """Workers that are alike for the scheduler."""

    manifest: str
    group: str
    node: str


@dataclass(slots=True, eq=False)
class Worker:
    """One worker process, as its READY and STATUS described it."""

    uuid: bytes
    identity: bytes
    supervisor: bytes
    lane: LaneKey
    facts: Extras
    home: Lane = field(init=False, repr=False)  # that of `lane`, once it is in a pool
    introduced: Id = b""
    unlisted_at: float | None = None  # since when its supervisor's heartbeats miss it
    dead: bool = False  # and only waited for because its answer may be in flight
    ready: bool = False
    hands: dict[Id, Pending] = field(default_factory=dict)  # in order of dispatch
    load: float = 0.0  # seconds that what it has in hand is expected to take
    heard_at: float = 0.0  # when it answered last, or got something to do
    answered: tuple[Id, str] = (b"", "")  # the last dispatch, and its script
    served: int = 0
    errors: int = 0

    @property
    def name(self) -> str:
        """Return the name for people: host and index."""
        facts = self.facts
        return str(facts.get("name") or f"{facts.get('host')}/{facts.get('index')}")

    def started(self, id_: Id) -> str | None:
        """Return which script a dispatch was of, if it is in hand or was just so."""
        pending = self.hands.get(id_)
        if pending is not None:
            return pending.script
        return self.answered[1] if id_ and id_ == self.answered[0] else None


class Tally(NamedTuple):
    """What has been answered, and how much of that was an error."""

    requests: int = 0
    errors: int = 0


class Loss(NamedTuple):
    """How a worker was lost; `dispatch` was started last (None: perhaps all it had).

    A worker starts in the order of dispatch: what came before has been started, what
    came after has not. `late`: it was ended because it went on beyond the deadline.
    """

    dispatch: bytes | None
    started: Started
    reason: str
    late: bool = False

    def tells(self, dispatch: bytes) -> Started:
        """Say whether a dispatch to this worker was started."""
        if self.dispatch is None or dispatch == self.dispatch:
            return self.started
        if dispatch[:EPOCH_BYTES] != self.dispatch[:EPOCH_BYTES]:
            return Started.NO  # the last one that it started was another broker's
        # Of what was started before, the answer was lost with the worker.
        return Started.UNKNOWN if dispatch < self.dispatch else Started.NO


@dataclass(slots=True, eq=False)
class Supervisor:
    """One host's supervisor, as its REGISTER and HEARTBEAT described it."""

    uuid: bytes
    identity: bytes
    host: str
    manifest: str
    facts: Extras
    seen: float
    draining: bool = False
    reload: dict[str, str] | None = None


@dataclass(slots=True, eq=False)
class Lane:
    """The workers of one `LaneKey`.

    `idle` is ordered, least recently used first; so is `spare`: those that have short
    work in hand, and room for more of it. `paces` has seconds by script.
    """

    key: LaneKey
    scripts: dict[str, ScriptInfo]
    idle: OrderedDict[Worker, float] = field(default_factory=OrderedDict)
    horizon: float = 0.0  # seconds of work that one of them may have in hand
    spare: OrderedDict[Worker, None] = field(default_factory=OrderedDict)
    paces: dict[str, float] = field(default_factory=dict)
    workers: set[Worker] = field(default_factory=set)
    ready: int = 0

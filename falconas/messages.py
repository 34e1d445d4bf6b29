"""The vocabulary of the wire protocol: commands and their typed messages.

Specification: docs/protocol.md. `falconas.protocol` turns them into headers and
back, and offers these names as its own.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, NamedTuple

Id = bytes | str
Extras = dict[str, Any]
# Makes a named tuple in half the time, as `made(Reply, (id_, kind, code, extras))`.
made = tuple.__new__


class Command(IntEnum):
    """Second element of each header; CREDIT and KILL are reserved."""

    HELLO = 1
    WELCOME = 2
    REQUEST = 3
    REPLY = 4
    CANCEL = 5
    PING = 6
    PONG = 7
    CATALOGUE = 8
    CREDIT = 9
    READY = 16
    STATUS = 17
    RETURN = 18
    DISCONNECT = 19
    REGISTER = 32
    HEARTBEAT = 33
    LOST = 34
    KILL = 35
    RELOAD = 36
    DRAIN = 37
    INSPECT = 38


class Kind(IntEnum):
    """What a REPLY is."""

    OK = 0
    PARTIAL = 1
    ERROR = 2


class Hello(NamedTuple):
    """Client to broker: this connection belongs to `session` (16 bytes)."""

    id: Id
    session: bytes
    extras: Extras


class Welcome(NamedTuple):
    """Broker's answer to HELLO, READY and REGISTER; also "introduce yourself again".

    `epoch` (8 bytes) names the broker's life, `now` is its monotonic clock in
    seconds. To a client the body lists the ids of its session that the broker
    still answers for.
    """

    id: Id
    epoch: bytes
    now: float
    extras: Extras


class Request(NamedTuple):
    """Run `script`.

    `budget` is the number of seconds left, None for the script's own; on the
    backend leg it is the deadline on the broker's clock.
    """

    id: Id
    script: str
    budget: float | None
    extras: Extras


class Reply(NamedTuple):
    """Outcome of a request; kind OK and ERROR are final."""

    id: Id
    kind: int
    code: int
    extras: Extras


class Cancel(NamedTuple):
    """The caller no longer wants the request `id`.

    To a supervisor `worker` in the extras names who has it in hand.
    """

    id: Id
    extras: Extras


class Ping(NamedTuple):
    """Are you there?"""

    id: Id
    extras: Extras


class Pong(NamedTuple):
    """Yes."""

    id: Id
    extras: Extras


class Catalogue(NamedTuple):
    """Ask for the scripts; `brief` in the extras: only which are idempotent."""

    id: Id
    extras: Extras


class Ready(NamedTuple):
    """Worker to broker: who I am, and connected to which node for life.

    It is ready for work unless the extras say `ready: false`; `holding` lists the
    dispatch ids that it still works on.
    """

    id: Id
    worker: bytes
    supervisor: bytes
    group: str
    manifest: str
    node: str
    extras: Extras


class Status(NamedTuple):
    """Worker to broker: may I be given work."""

    id: Id
    ready: bool
    extras: Extras


class Return(NamedTuple):
    """Worker to broker: request `id` was not started; give it to somebody else.

    Extras say where its node is to blame: `behind`, `refused`.
    """

    id: Id
    reason: str
    extras: Extras


class Disconnect(NamedTuple):
    """Worker or supervisor to broker: I leave; I hold nothing."""

    id: Id
    extras: Extras


class Register(NamedTuple):
    """Supervisor to broker; the body is the manifest named by its hash."""

    id: Id
    supervisor: bytes
    host: str
    manifest: str
    extras: Extras


class Heartbeat(NamedTuple):
    """Supervisor to broker each second: its live workers, and the facts of nodes.

    Extras say how it is: `manifest`, `draining` and the last `reload`, a map of `id`,
    `state` ("loading", "rolling", "done", "failed") and `reason`. The broker's answer
    carries `now` and `epoch` in its extras.
    """

    id: Id
    supervisor: bytes
    extras: Extras


class Lost(NamedTuple):
    """Supervisor to broker: `worker` is dead; `id` had been started (empty: none).

    `state` is the slot's last state, `reason` says how it ended; `crash: true` in the
    extras, that the script is to blame.
    """

    id: Id
    worker: bytes
    state: str
    reason: str
    extras: Extras


class Reload(NamedTuple):
    """Operator to broker, and on to its supervisors: load the scripts anew.

    `host` in the extras names the only one to do so. Heartbeats tell what became of it.
    """

    id: Id
    extras: Extras


class Drain(NamedTuple):
    """Operator to broker: accept no more, finish, stop.

    `host` in the extras: that host's supervisors shall, to which it is passed on.
    """

    id: Id
    extras: Extras


class Inspect(NamedTuple):
    """Operator to broker: report your state."""

    id: Id
    extras: Extras


Message = (
    Hello
    | Welcome
    | Request
    | Reply
    | Cancel
    | Ping
    | Pong
    | Catalogue
    | Ready
    | Status
    | Return
    | Disconnect
    | Register
    | Heartbeat
    | Lost
    | Reload
    | Drain
    | Inspect
)

COMMANDS: dict[type[Any], Command] = {
    Hello: Command.HELLO,
    Welcome: Command.WELCOME,
    Request: Command.REQUEST,
    Reply: Command.REPLY,
    Cancel: Command.CANCEL,
    Ping: Command.PING,
    Pong: Command.PONG,
    Catalogue: Command.CATALOGUE,
    Ready: Command.READY,
    Status: Command.STATUS,
    Return: Command.RETURN,
    Disconnect: Command.DISCONNECT,
    Register: Command.REGISTER,
    Heartbeat: Command.HEARTBEAT,
    Lost: Command.LOST,
    Reload: Command.RELOAD,
    Drain: Command.DRAIN,
    Inspect: Command.INSPECT,
}

# What a broker accepts on each of its sockets: a role is a socket, never a content.
FRONTEND = frozenset({Hello, Request, Cancel, Ping, Catalogue})
BACKEND = frozenset({Ready, Status, Reply, Return, Disconnect, Ping})
CONTROL = frozenset(
    {Register, Heartbeat, Lost, Disconnect, Reload, Drain, Inspect, Ping}
)

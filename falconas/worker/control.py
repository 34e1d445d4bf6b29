"""The supervisor's dialogue with the broker.

A supervisor says REGISTER on each new connection and when the broker does not know
it, once for each manifest in use; HEARTBEAT each second; LOST as soon as a worker is
dead. Nothing here blocks.
"""

from __future__ import annotations

import logging
from collections import deque
from math import inf
from typing import TYPE_CHECKING, Any

from falconas.codec import decode_value, encode_value
from falconas.errors import error_for
from falconas.protocol import (
    HEADER_LIMIT,
    Cancel,
    Disconnect,
    Drain,
    Heartbeat,
    Lost,
    Register,
    Reload,
    Reply,
    Welcome,
)
from falconas.worker.dealer import DRAIN_LINGER, Dealer

if TYPE_CHECKING:
    from collections.abc import Iterable

    from falconas.worker.herald import NodeRow

HEARTBEAT_INTERVAL = 1.0
LOSSES = 1000
WELCOME_WAIT = 2.0

log = logging.getLogger(__name__)

Order = Cancel | Drain | Reload


class Watch:
    """Logs, once each, what keeps a broker from saying WELCOME.

    Args:
        endpoint: Where the broker should be.
        name: Which of a broker's endpoints that should be.
    """

    def __init__(self, endpoint: str, name: str) -> None:
        self.trouble = ""
        self._endpoint = endpoint
        self._name = name
        self._warn_at = inf

    def welcomed(self) -> None:
        """All is well."""
        self.trouble, self._warn_at = "", inf

    def missing(self, now: float) -> None:
        """There is no WELCOME, which is normal for a while."""
        if self._warn_at == inf:
            self._warn_at = now + WELCOME_WAIT
        elif now >= self._warn_at and not self.trouble:
            self._tell(logging.WARNING, f"waiting for a broker at {self._endpoint}")

    def refused(self, reply: Reply, body: bytes) -> None:
        """What listens there does not want what was said."""
        error = error_for(reply.code, decode_value(body))
        if "commands" in (error.details or {}):  # those that it would understand
            text = f"{self._endpoint} is not a broker's {self._name} endpoint"
        else:
            text = f"the broker at {self._endpoint} refused: {error.message}"
        self._tell(logging.ERROR, text)

    def wake_at(self) -> float:
        """Return when to call `missing` again."""
        return inf if self.trouble else self._warn_at

    def _tell(self, level: int, trouble: str) -> None:
        if trouble != self.trouble:
            self.trouble = trouble
            log.log(level, "%s", trouble)


class Control:
    """What the broker is told about this supervisor and its workers.

    Args:
        endpoint: The broker's control endpoint.
        supervisor: This supervisor's uuid.
        host: The name of this machine.
        facts: What else REGISTER says.
    """

    def __init__(
        self, endpoint: str, supervisor: bytes, host: str, facts: dict[str, Any]
    ) -> None:
        self.dealer = Dealer(endpoint, HEADER_LIMIT)
        self.epoch = b""
        self._watch = Watch(endpoint, "control")
        self._supervisor = supervisor
        self._host = host
        self._facts = facts
        self._manifests: dict[str, bytes] = {}
        self._welcomed = False
        self._beat_at = 0.0
        self._losses: deque[Lost] = deque(maxlen=LOSSES)
        self._fresh: set[str] = set()
        self._status: dict[str, Any] = {}
        self._shown: object = None
        self._body: dict[str, Any] = {"workers": [], "nodes": []}

    def offer(self, manifest: str, body: bytes, *, fresh: bool = False) -> None:
        """Make the scripts of a zygote known; `fresh`: a reload has loaded them."""
        self._manifests.pop(manifest, None)  # the newest is registered last
        self._manifests[manifest] = body
        if fresh:
            self._fresh.add(manifest)
        self._register([manifest])

    def retain(self, manifests: Iterable[str]) -> None:
        """Forget the manifests that no worker has any more."""
        for manifest in self._manifests.keys() - set(manifests):
            del self._manifests[manifest]

    def lost(
        self, worker: bytes, id_: bytes, state: str, reason: str, extras: dict[str, Any]
    ) -> None:
        """Report a dead worker, now or as soon as the broker is there again."""
        self._losses.append(Lost(id_, worker, state, reason, extras))
        self._report()

    def show(
        self, status: dict[str, Any], workers: list[bytes], nodes: list[NodeRow]
    ) -> None:
        """Have heartbeats say how this supervisor is, the first at once if it is news.

        Args:
            status: What stands in their extras.
            workers: Those alive.
            nodes: What is known of the nodes; a role that changes is news, and who is
                up or down, not how its log grows.
        """
        self._body = {"workers": workers, "nodes": nodes}
        news = (status, [(row.name, row.role, row.up) for row in nodes])
        if news != self._shown:
            self._status, self._shown = status, news
            self._beat()

    def tend(self, now: float) -> list[Order]:
        """Take in what came, and send what is due; return what the broker wants."""
        orders: list[Order] = []
        for message, body in self.dealer.messages(_ACCEPTED):
            if isinstance(message, Order):
                orders.append(message)
            else:
                self._receive(message, body)
        for connected in self.dealer.take_news():
            self._welcomed = False
            if connected:
                self._register(self._manifests)
        if self._manifests and not self._welcomed:
            self._watch.missing(now)
        if now >= self._beat_at:
            self._beat_at = now + HEARTBEAT_INTERVAL
            self._beat()
        return orders

    def wake_at(self) -> float:
        """Return when `tend` has work next, if nothing comes before."""
        return self._beat_at

    def close(self) -> None:
        """Say goodbye."""
        self._report()
        self.dealer.send(Disconnect(self._supervisor, {}))
        self.dealer.close(DRAIN_LINGER)

    def _beat(self) -> None:
        beat = Heartbeat(self._supervisor, self._supervisor, self._status)
        self.dealer.send(beat, encode_value(self._body))

    def _receive(self, message: Any, body: bytes) -> None:
        if isinstance(message, Reply):
            self._watch.refused(message, body)
        if not isinstance(message, Welcome):
            return
        if message.id != self._supervisor:
            self._register(self._manifests)
            return
        if self.epoch and message.epoch != self.epoch:
            self._losses.clear()  # a new broker knows nothing of these requests
        if message.epoch != self.epoch or self._watch.trouble:
            log.info("registered with the broker at %s", self.dealer.endpoint)
        self.epoch = message.epoch
        self._watch.welcomed()
        if not self._welcomed:
            self._beat_at = -inf  # it knows nothing of the nodes yet
        self._welcomed = True
        self._fresh.clear()
        self._report()

    def _register(self, manifests: Iterable[str]) -> None:
        for manifest in manifests:
            facts = dict(self._facts)
            if manifest in self._fresh:
                facts["fresh"] = True
            register = Register(
                self._supervisor, self._supervisor, self._host, manifest, facts
            )
            self.dealer.send(register, self._manifests[manifest])

    def _report(self) -> None:
        while self._losses and self._welcomed:
            if not self.dealer.send(self._losses[0]):
                return
            self._losses.popleft()


_ACCEPTED: frozenset[type[Any]] = frozenset(
    {Welcome, Heartbeat, Reply, Cancel, Drain, Reload}
)

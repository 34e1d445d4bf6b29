"""Who gets a connection to which node, and who has to wait: pure, `now` comes in.

Both pools, of threads and of coroutines, lend by this. A loan is counted before the
connection is fetched, so nobody queues at one node while another has room, and nobody
is bound to a node that dies meanwhile. Those who wait are served in the order in which
they came, but for those whom nothing that is free would suit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from falconas.database.nodes import Change, NoAnswer, Node, NodeSet, Probe, Refusal
from falconas.database.topology import lsn_number
from falconas.errors import ResourceExhausted, Unavailable


class Wish(NamedTuple):
    """What a borrower asks for."""

    access: str = "write"
    max_lag: float | None = None
    min_lsn: int | None = None

    @classmethod
    def of(cls, access: str, max_lag: float | None, min_lsn: int | str | None) -> Wish:
        """Build a wish from what a borrower says.

        Raises:
            ValueError: There is no such wish.
        """
        if access not in {"read", "write"}:
            raise ValueError(f'access is "read" or "write", not {access!r}')
        lsn = None if min_lsn is None else lsn_number(min_lsn)
        return cls(access, max_lag, lsn)


@dataclass(slots=True, eq=False)
class Ticket:
    """The place of one who waits.

    Attributes:
        wish: What he waits for.
        call: Is called when he is served.
        name: The node, once he is.
    """

    wish: Wish
    call: Callable[[], object]
    name: str | None = None


@dataclass(slots=True)
class Counts:
    """What became of the loans of a node.

    Attributes:
        refusal: Why the last attempt to connect failed; empty if it did not.
    """

    in_use: int = 0
    served: int = 0
    errors: int = 0
    lost: int = 0
    refusal: str = ""


@dataclass(slots=True)
class Lending:
    """The loans of one process.

    Attributes:
        nodes: What is known of the nodes.
        max_size: Most loans of each node at a time.
        max_waiting: How many may wait.
        database: The one that is lent from.
        choose: Returns the names of those nodes that are lent from; None: of all. The
            others are watched: a standby's lag is measured by its primary.
        opened: The nodes that connections can be fetched from.
        counts: Of each node, and of those that have gone while some are in use.
    """

    nodes: NodeSet
    max_size: int
    max_waiting: int
    database: str = "main"
    choose: Callable[[Iterable[Node]], Collection[str]] | None = None
    opened: set[str] = field(default_factory=set)
    counts: dict[str, Counts] = field(default_factory=dict)
    refused: int = 0
    _queue: deque[Ticket] = field(default_factory=deque)
    _among: frozenset[str] = frozenset()
    _alarms: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.update(list(self.nodes))

    def update(self, nodes: Iterable[Node]) -> Change:
        """Lend from these nodes from now on; then `serve`."""
        change = self.nodes.update(nodes)
        self.opened.difference_update(change.gone)
        known = [node.name for node in self.nodes]
        self._among = frozenset(self.choose(self.nodes) if self.choose else known)
        self.counts = {name: self.counts.get(name, Counts()) for name in known} | {
            name: counts for name, counts in self.counts.items() if counts.in_use
        }
        return change

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._queue)

    def ask(self, ticket: Ticket, now: float) -> bool:
        """Serve a borrower at once, True, or let him wait.

        Raises:
            ResourceExhausted: Too many are waiting.
        """
        self.serve(now)
        if self._serve(ticket, now):
            return True
        if len(self._queue) >= self.max_waiting:
            self.refused += 1
            raise ResourceExhausted(
                f"{len(self._queue)} are waiting for a connection already: "
                + self.reason(ticket.wish, now),
                retry_safe=True,
            )
        self._queue.append(ticket)
        return False

    def serve(self, now: float) -> None:
        """Give to those who wait what has become free."""
        if not self._queue:
            return
        hopeless: set[Wish] = set()
        still: deque[Ticket] = deque()
        for ticket in self._queue:
            if ticket.wish in hopeless:
                still.append(ticket)
            elif self._serve(ticket, now):
                ticket.call()
            else:
                hopeless.add(ticket.wish)
                still.append(ticket)
        self._queue = still

    def withdraw(self, ticket: Ticket) -> None:
        """Wait no longer; what he was given meanwhile is given back."""
        if ticket.name is not None:
            self.give_back(ticket.name)
        elif ticket in self._queue:
            self._queue.remove(ticket)

    def dismiss(self) -> None:
        """Call all who wait, in vain: nothing is lent any more."""
        queue, self._queue = self._queue, deque()
        for ticket in queue:
            ticket.call()

    def give_back(self, name: str) -> None:
        """End a loan; then `serve`."""
        self.counts[name].in_use -= 1

    def refusal(self, wish: Wish, now: float) -> Refusal | None:
        """Return why no node suits at present, busy or not; None if one does."""
        return self.nodes.refusal(
            wish.access,
            now=now,
            max_lag=wish.max_lag,
            min_lsn=wish.min_lsn,
            among=self._among,
            database=self.database,
        )

    def reason(self, wish: Wish, now: float) -> str:
        """Return what keeps a borrower from being served."""
        refusal = self.refusal(wish, now)
        if refusal is not None:
            return f"no node suits a {wish.access}: {refusal.reason}"
        return "; ".join(
            f"{name}: {counts.in_use} of {self.max_size} in use"
            + (f", and no other is made: {counts.refusal}" if counts.refusal else "")
            for name, counts in self.counts.items()
            if name in self._among
        )

    def too_late(self, wish: Wish, waited: float, now: float) -> Unavailable:
        """Return the error for a borrower who waited in vain."""
        self.refused += 1
        return Unavailable(
            f"no connection within {waited:.1f} s: {self.reason(wish, now)}",
            retry_safe=True,
        )

    def statistics(self, now: float) -> dict[str, Any]:
        """Return what is to be shown."""
        nodes = {
            facts.name: {
                "role": facts.role.value,
                "up": facts.up,
                "suspect": facts.suspect,
                "share": facts.share,
                "lag": facts.lag,
                "lsn": facts.lsn,
                "latency": facts.latency,
                "reason": facts.reason or self.counts[facts.name].refusal,
                "size": 0,
                "in_use": self.counts[facts.name].in_use,
                "served": self.counts[facts.name].served,
                "errors": self.counts[facts.name].errors,
                "lost": self.counts[facts.name].lost,
            }
            for facts in self.nodes.facts(now)
        }
        return {"waiting": self.waiting, "refused": self.refused, "nodes": nodes}

    def answered(self, name: str, answer: Probe | NoAnswer, now: float) -> list[str]:
        """Note how a node answered a probe; return what an operator is to hear anew."""
        if isinstance(answer, NoAnswer):
            self.nodes.failed(
                name, answer.why, now, silent=answer.silent, refused=answer.refused
            )
        else:
            self.nodes.probed(name, answer, now)
        found = {node.name: self.nodes.alarm(node.name) for node in self.nodes}
        before, self._alarms = self._alarms, found
        return [it for other, it in found.items() if it and not before.get(other)]

    def heard(self, name: str, refusal: str) -> None:
        """Note why a node gave no connection; empty: it gave one."""
        if name in self.counts:
            self.counts[name].refusal = refusal

    def outdated(self) -> tuple[list[str], list[str]]:
        """Return which nodes are to be opened now, and which to be closed."""
        up = {name for name in self._among if self.nodes.state(name).health.up}
        return sorted(up - self.opened), sorted(self.opened - up)

    def _serve(self, ticket: Ticket, now: float) -> bool:
        wish = ticket.wish
        in_use = {name: counts.in_use for name, counts in self.counts.items()}
        full = {
            name
            for name, count in in_use.items()
            if count >= self.max_size or name not in self.opened
        }
        chosen = self.nodes.choose(
            wish.access,
            now=now,
            in_use=in_use,
            max_lag=wish.max_lag,
            min_lsn=wish.min_lsn,
            among=self._among,
            full=full,
            database=self.database,
        )
        if isinstance(chosen, Refusal):
            return False
        ticket.name = chosen.name
        self.counts[chosen.name].in_use += 1
        return True

"""The calls of one client, from their acceptance to their verdicts.

Pure. A call without a verdict is in `unsent` or in `sent`, never in both;
`settle` alone ends it, once. Only an idempotent call is handed over a second time,
and under another id: the reply to the first can then no longer be taken for the
reply to the second.
"""

from __future__ import annotations

from collections import Counter
from itertools import islice
from math import inf
from struct import Struct
from typing import Any

from falconas.client import wire
from falconas.client.outstanding import GRACE, Outstanding, check_budget
from falconas.client.replies import Lsn, Positions
from falconas.client.verdict import Verdict
from falconas.errors import (
    Cancelled,
    DeadlineExceeded,
    FalconError,
    ResourceExhausted,
    Started,
    Unavailable,
)
from falconas.protocol import Catalogue, Request, encode

OUTSTANDING = 1_000
ATTEMPTS = 2
_id = Struct(">8sQ").pack


class Calls:
    """All calls without a verdict, and the verdicts not yet taken."""

    def __init__(
        self,
        session: bytes,
        endpoint: str,
        budget: float,
        limit: int,
        cancel_on_disconnect: bool = False,
        positions: Positions | None = None,
    ) -> None:
        self.unsent: dict[bytes, Outstanding] = {}
        self.sent: dict[bytes, Outstanding] = {}
        self.counters: Counter[str] = Counter()
        # Which scripts are idempotent, as the broker told.
        self.catalogue: dict[str, bool] = {}
        # No call is overdue before; exact only after `sweep`.
        self.due = inf
        self._prefix = session[:8]
        self._serial = 0
        self._endpoint = endpoint
        self._budget = check_budget(budget)
        self._limit = limit
        self._cancel_on_disconnect = cancel_on_disconnect
        self._positions = positions or Positions()
        self._names = wire.Names()
        self._verdicts: list[tuple[Any, Verdict]] = []

    def __len__(self) -> int:
        return len(self.unsent) + len(self.sent)

    def new_id(self) -> bytes:
        """Return an id that this client has not used yet."""
        self._serial += 1
        return _id(self._prefix, self._serial)

    def all(self) -> list[Outstanding]:
        """Return every call without a verdict."""
        return [*self.sent.values(), *self.unsent.values()]

    def accept(
        self,
        owner: Any,
        script: str,
        body: bytes,
        now: float,
        budget: float | None = None,
        idempotent: bool | None = None,
        cancel_on_disconnect: bool | None = None,
        min_lsn: Lsn | None = None,
    ) -> Outstanding:
        """Take on a call; its verdict will come with `owner`.

        What is not said, or None, is the default: `budget` is the script's own,
        `idempotent` what the catalogue says, `cancel_on_disconnect` what the client
        was made with, and `min_lsn` what its replies told.

        Raises:
            FalconError: It is refused; nothing was started.
            RuntimeError: The client is closed.
        """
        if not isinstance(script, str):
            raise wire.no_name(script)
        self._names[script]
        end = now + (self._budget if budget is None else check_budget(budget))
        call = Outstanding(
            self.new_id(), owner, script, body, budget, idempotent, now, end
        )
        call.min_lsn = self._positions.wanted(min_lsn)
        gone = cancel_on_disconnect
        call.cancel_on_disconnect = self._cancel_on_disconnect if gone is None else gone
        return self._add(call)

    def ask(self, owner: Any, now: float, budget: float | None) -> Outstanding:
        """Take on a question for the catalogue, or raise why not."""
        patience = self._budget if budget is None else check_budget(budget)
        return self._add(
            Outstanding(
                self.new_id(), owner, None, b"", patience, True, now, now + patience
            )
        )

    def header(self, call: Outstanding, now: float) -> bytes:
        """Return the frame that asks the broker, with the time left at `now`."""
        if call.script is None:
            return encode(Catalogue(call.id, {}))
        own = call.budget is None and not call.attempts
        left = None if own else call.deadline - now
        if not (call.cancel_on_disconnect or call.min_lsn or call.attempts):
            return wire.request(call.id, self._names[call.script], left)
        extras: dict[str, Any] = {"accept": ["ext"]}
        if call.attempts:
            extras["attempt"] = call.attempts + 1
        if call.cancel_on_disconnect:
            extras["cancel_on_disconnect"] = True
        if call.min_lsn:
            extras["min_lsn"] = call.min_lsn
        return encode(Request(call.id, call.script, left, extras))

    def first(self, count: int) -> list[Outstanding]:
        """Return the unsent calls whose turn it is."""
        return list(islice(self.unsent.values(), count))

    def hand_over(self, count: int, longest: float, now: float) -> list[Outstanding]:
        """Move the first unsent calls to the sent ones.

        Those without a budget of their own may now take what the `longest` script may.
        """
        calls = self.first(count)
        for call in calls:
            del self.unsent[call.id]
            self.sent[call.id] = call
            call.attempts += 1
            if call.budget is None and call.attempts == 1:
                call.deadline = now + longest
        self.due = min(self.due, now + longest + GRACE)
        return calls

    def is_idempotent(self, call: Outstanding) -> bool:
        """Tell whether it may be run twice: by the caller's word or the catalogue."""
        if call.idempotent is not None:
            return call.idempotent
        return self.catalogue.get(str(call.script), False)

    def recover(self, call: Outstanding, now: float) -> None:
        """What the broker no longer knows is sent once more, if it may be."""
        again = call.attempts < ATTEMPTS and call.deadline > now
        if not again or call.cancelled or not self.is_idempotent(call):
            self.lose(call)
            return
        del self.sent[call.id]
        call.id = self.new_id()
        self.unsent[call.id] = call
        self.counters["resent"] += 1

    def lose(self, call: Outstanding) -> None:
        """End a call that was sent to a broker which is gone."""
        if call.cancelled:
            self.cancel(call)
            return
        self.counters["lost"] += 1
        self.fail(
            call,
            Unavailable(
                f"the broker at {self._endpoint} was lost; the outcome is unknown",
                started=Started.UNKNOWN,
                retry_safe=self.is_idempotent(call),
            ),
        )

    def await_end(self, call: Outstanding, now: float) -> None:
        """Give the broker a last while to say how a cancelled call ended."""
        call.cancelled_at = now
        self.due = min(self.due, call.overdue_at)

    def cancel(self, call: Outstanding, reason: str = "") -> None:
        """End a call that its caller no longer wants."""
        started = Started.UNKNOWN if call.attempts else Started.NO
        safe = not call.attempts or self.is_idempotent(call)
        self.fail(call, Cancelled(reason, started=started, retry_safe=safe))

    def expire(self, call: Outstanding, now: float, trouble: str) -> None:
        """End a call whose time is up; `trouble` says why it could not be sent."""
        waited = f"after {now - call.asked:.1f} s"
        if not call.attempts and trouble:
            self.counters["unreachable"] += 1
            self.fail(call, Unavailable(f"{trouble} {waited}", retry_safe=True))
        elif not call.attempts:
            text = f"the broker at {self._endpoint} took no request {waited}"
            self.fail(call, DeadlineExceeded(text, retry_safe=True))
        elif call.id in self.unsent:
            self.lose(call)
        elif call.cancelled:
            self.counters["last_resort"] += 1
            self.cancel(call, f"cancelled; no word of it from {self._endpoint}")
        else:
            self.counters["last_resort"] += 1
            error = DeadlineExceeded(
                f"no verdict from {self._endpoint} {waited}",
                started=Started.UNKNOWN,
                retry_safe=self.is_idempotent(call),
            )
            self.fail(call, error)

    def sweep(self, now: float, trouble: str) -> None:
        """End what is overdue."""
        if now < self.due:
            return
        for call in self.all():
            if now >= call.overdue_at:
                self.expire(call, now, trouble)
        self.due = min((call.overdue_at for call in self.all()), default=inf)

    def fail(self, call: Outstanding, error: FalconError) -> None:
        """End a call by the client's own verdict."""
        self.settle(call, Verdict(b"", error, {"verdict": "client"}))

    def settle(self, call: Outstanding, verdict: Verdict) -> None:
        """End a call; the only way out of `unsent` and `sent`."""
        earlier = call.attempts - 1
        if self.sent.pop(call.id, None) is None:
            del self.unsent[call.id]
            earlier = call.attempts
        if earlier > 0 and verdict.error and verdict.error.started is Started.NO:
            verdict.error.started = Started.UNKNOWN  # "no" is of this attempt only
        if self._positions.follow:
            self._positions.learn(verdict.info)
        self._verdicts.append((call.owner, verdict))
        call.owner = None

    def take_verdicts(self) -> list[tuple[Any, Verdict]]:
        """Return the owners of calls that ended, each with its verdict."""
        taken, self._verdicts = self._verdicts, []
        return taken

    def close(self) -> None:
        """Take on no more."""
        self._limit = 0

    def _add(self, call: Outstanding) -> Outstanding:
        if len(self.unsent) + len(self.sent) >= self._limit:
            raise self._full()
        self.unsent[call.id] = call
        self.due = min(self.due, call.deadline)
        self.counters["accepted"] += 1
        return call

    def _full(self) -> Exception:
        if not self._limit:
            return RuntimeError("the client is closed")
        self.counters["refused"] += 1
        return ResourceExhausted(
            f"{self._limit} calls of this client are outstanding;"
            " wait for results; a larger outstanding= may be more than the broker's"
            " own limit, broker.client_requests",
            retry_safe=True,
            retry_after=0.1,
        )

    def check_invariants(self) -> None:
        """Assert what always holds; for tests, as it looks at every call."""
        assert len(self) <= self._limit
        assert not self.sent.keys() & self.unsent.keys()
        for calls in (self.sent, self.unsent):
            for key, call in calls.items():
                assert key == call.id
                assert call.owner is not None
                assert self.due <= call.overdue_at
        assert all(0 < call.attempts <= ATTEMPTS for call in self.sent.values())
        assert all(call.attempts < ATTEMPTS for call in self.unsent.values())

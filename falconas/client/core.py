"""One client's side of the dialogue at the broker's frontend.

Rules
-----
* No I/O and no clock: time comes in as `now`, messages are taken with
  `next_sends` and confirmed with `sent`, verdicts with `take_verdicts`.
* Nothing but HELLO is sent before the broker's WELCOME, so a call that never
  left has certainly not been started.
* Each connection begins anew: WELCOME says which calls the broker still answers
  for; what it no longer knows is sent once more or ends in an error.
* The client has the last word: every call ends here at the latest (`calls.GRACE`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import islice
from math import inf
from typing import Any

from falconas.client.calls import OUTSTANDING, Calls
from falconas.client.outstanding import Outstanding
from falconas.client.replies import Positions, positive, value_of
from falconas.client.verdict import Verdict
from falconas.client.wire import ok_id
from falconas.errors import Internal, InvalidArgument, Started, error_for
from falconas.protocol import (
    Cancel,
    Catalogue,
    Hello,
    Kind,
    Malformed,
    Ping,
    Pong,
    Reply,
    Welcome,
    decode,
    encode,
)

# A lost broker may come back so long; its callers are answered within a second.
LOST_WINDOW = 0.8
HELLO_INTERVAL = 1.0
CATALOGUE_INTERVAL = 1.0

_FROM_BROKER = frozenset({Welcome, Reply, Ping, Pong})
_INTRODUCE = b"?"


class ClientCore:
    """The state of a client.

    Args:
        session: 16 random bytes that name the client across its connections.
        endpoint: Where the broker is, for the messages of errors.
        budget: Seconds to wait for a broker where the caller named no budget.
        outstanding: The largest number of calls without a verdict.
        cancel_on_disconnect: Calls are to end when this client is gone.
        positions: What the calls must see; without, what each of them names.
    """

    def __init__(
        self,
        session: bytes,
        endpoint: str,
        *,
        budget: float = 30.0,
        outstanding: int = OUTSTANDING,
        cancel_on_disconnect: bool = False,
        positions: Positions | None = None,
    ) -> None:
        self._session = session
        self._endpoint = endpoint
        limit, gone = outstanding, cancel_on_disconnect
        self._calls = Calls(session, endpoint, budget, limit, gone, positions)
        # How a call is accepted, and what has happened, by name.
        self.request = self._calls.accept
        self.counters = self._calls.counters
        self._control: deque[bytes] = deque()
        # The connection.
        self._connected = False
        self._welcomed = False
        self._hello_id = b""
        self._hello_at = inf
        self._lost_at = inf
        self._refusal = ""
        # What the broker told.
        self._epoch = b""
        self._params_bytes = inf
        self._default = self._longest = float(budget)
        self._catalogue_id = b""
        self._catalogue_at = 0.0

    @property
    def outstanding(self) -> int:
        """Number of calls without a verdict."""
        return len(self._calls)

    @property
    def awaited(self) -> int:
        """Number of replies that are to come."""
        return len(self._calls.sent)

    # What callers do

    def catalogue(
        self, owner: Any, now: float, *, budget: float | None = None
    ) -> Outstanding:
        """Accept a question for all that is known of the scripts."""
        return self._calls.ask(owner, now, budget)

    def cancel(self, call: Outstanding, now: float) -> None:
        """Cancel a call; once it was sent, the broker says how it ends."""
        if call.owner is None or call.cancelled:
            return
        if call.id in self._calls.unsent:
            self._calls.cancel(call)
            return
        self._calls.await_end(call, now)
        if self._welcomed:
            self._control.append(encode(Cancel(call.id, {})))

    def close(self, reason: str = "the client was closed") -> None:
        """End every call; the broker is told to stop what it works on."""
        for call in self._calls.all():
            if self._welcomed and call.id in self._calls.sent and not call.cancelled:
                self._control.append(encode(Cancel(call.id, {})))
            self._calls.cancel(call, reason)
        self._calls.close()

    def take_verdicts(self) -> list[tuple[Any, Verdict]]:
        """Return the owners of calls that ended, each with its verdict."""
        return self._calls.take_verdicts()

    # What the connection does

    def connected(self, now: float) -> None:
        """A handshake has succeeded: introduce this client."""
        self.counters["connected"] += 1
        self._connected = True
        self._introduce(now)

    def disconnected(self, now: float) -> bool:
        """The connection is lost; return whether it was in use, after a WELCOME."""
        used = self._welcomed
        if self._connected:
            self._connected = self._welcomed = False
            self._control.clear()
            self._lost_at = min(self._lost_at, now)
            self.counters["disconnected"] += 1
        return used

    def received(self, frames: Sequence[bytes], now: float) -> str | None:
        """Take a message from the broker; return what is wrong with it, if anything."""
        if len(frames) != 2:  # noqa: PLR2004
            return self._malformed(f"a message of {len(frames)} frames")
        call = self._calls.sent.get(ok_id(frames[0]))  # type: ignore[arg-type]
        if call is not None:
            self.counters["replies"] += 1
            self._calls.settle(call, Verdict(frames[1], None, frames[0]))
            return None
        try:
            message = decode(frames[0], _FROM_BROKER)
        except Malformed as error:
            return self._malformed(str(error))
        if type(message) is Reply:
            return self._reply(message, frames[1], now)
        if type(message) is Welcome:
            return self._welcome(message, frames[1], now)
        return None  # PING asks libzmq whether we are there, not us

    def tick(self, now: float) -> None:
        """Do what is due."""
        if self._connected and not self._welcomed and now >= self._hello_at:
            self._say_hello(now)
        if now >= self._lost_at + LOST_WINDOW:
            self._lost_at = inf
            for call in self._calls.all():
                if call.attempts:
                    self._calls.lose(call)
        self._calls.sweep(now, self._trouble())

    def wake_at(self) -> float:
        """Return when `tick` is to be called next, at the latest."""
        waits = self._connected and not self._welcomed
        hello_at = self._hello_at if waits else inf
        return min(self._calls.due, self._lost_at + LOST_WINDOW, hello_at)

    # What goes out

    @property
    def sendable(self) -> bool:
        """There may be something to send."""
        return bool(self._control or (self._welcomed and self._calls.unsent))

    def next_sends(self, now: float, most: int) -> list[tuple[bytes, bytes]]:
        """Return what to send next; say `sent` how many of it the socket took."""
        messages = [(header, b"") for header in islice(self._control, most)]
        calls = self._calls
        for call in calls.first(most - len(messages)) if self._welcomed else ():
            if call.deadline <= now:
                calls.expire(call, now, "")
            elif len(call.body) > self._params_bytes:
                limit = f"the limit is {self._params_bytes:.0f}"
                text = f"the parameters have {len(call.body)} bytes, {limit}"
                calls.fail(call, InvalidArgument(text))
            else:
                messages.append((calls.header(call, now), call.body))
        return messages

    def sent(self, now: float, count: int) -> None:
        """The socket took so many of what `next_sends` returned."""
        while count and self._control:
            self._control.popleft()
            count -= 1
        calls, known = self._calls, self._calls.catalogue
        for call in calls.hand_over(count, self._longest, now) if count else ():
            unknown = call.idempotent is None and call.script not in known
            if unknown and now >= self._catalogue_at:
                self._ask_catalogue(now)

    # The dialogue

    def _introduce(self, now: float) -> None:
        self._welcomed = False
        self._refusal = ""
        self._hello_id = self._calls.new_id()
        self._control.clear()
        self._say_hello(now)

    def _say_hello(self, now: float) -> None:
        self._hello_at = now + HELLO_INTERVAL
        if not self._control:
            self._control.append(encode(Hello(self._hello_id, self._session, {})))

    def _welcome(self, message: Welcome, body: bytes, now: float) -> str | None:
        if self._welcomed and message.id == _INTRODUCE:
            self._lost_at = now
            self._introduce(now)
            return None
        if self._welcomed or not self._connected or message.id != self._hello_id:
            self.counters["late"] += 1
            return None
        self._welcomed = True
        self._lost_at = inf
        self._control.clear()
        limits = message.extras.get("limits")
        self._params_bytes = positive(limits, "params_bytes")
        self._longest = positive(limits, "budget", self._default)
        listed = value_of(body) if body else []
        held = listed if message.epoch == self._epoch else []
        self._epoch = message.epoch
        self._ask_catalogue(now)
        self._reconcile(held if isinstance(held, list) else [], now)
        if not isinstance(listed, list):
            return self._malformed("WELCOME without a list of ids")
        return None

    def _reconcile(self, held: list[Any], now: float) -> None:
        """Decide on what earlier connections sent, given what is still held."""
        known = {item for item in held if isinstance(item, bytes)}
        unwanted = known - self._calls.sent.keys()  # they have their verdicts here
        self._control += [encode(Cancel(id_, {})) for id_ in unwanted]
        for call in list(self._calls.sent.values()):
            if call.id not in known:
                self._calls.recover(call, now)
            elif call.cancelled:
                self._control.append(encode(Cancel(call.id, {})))

    def _reply(self, reply: Reply, body: bytes, now: float) -> str | None:
        call = self._calls.sent.get(reply.id)  # type: ignore[arg-type]
        if call is None:
            return self._other_reply(reply, body, now)
        self.counters["replies"] += 1
        if reply.kind == Kind.PARTIAL:
            text = "the broker sent a partial reply, which was not asked for"
            self._calls.fail(call, Internal(text, started=Started.YES))
            return self._malformed(text)
        ok = reply.kind == Kind.OK
        error = None if ok else error_for(reply.code, value_of(body))
        self._calls.settle(call, Verdict(body, error, reply.extras))
        return None

    def _other_reply(self, reply: Reply, body: bytes, now: float) -> str | None:
        if reply.id == self._catalogue_id:
            self._catalogue_id = b""
            return self._learn(reply, value_of(body))
        if reply.id == self._hello_id and not self._welcomed:
            self._refusal = error_for(reply.code, value_of(body)).message
            self._hello_at = now + HELLO_INTERVAL
            return self._malformed(f"HELLO was refused: {self._refusal}")
        self.counters["late"] += 1
        return None

    def _learn(self, reply: Reply, value: Any) -> str | None:
        scripts = value.get("scripts") if isinstance(value, dict) else None
        if reply.kind != Kind.OK or not isinstance(scripts, dict):
            return self._malformed("the catalogue holds no scripts")
        self._calls.catalogue = {name: flag is True for name, flag in scripts.items()}
        return None

    def _ask_catalogue(self, now: float) -> None:
        self._catalogue_id = self._calls.new_id()
        self._catalogue_at = now + CATALOGUE_INTERVAL
        self._control.append(encode(Catalogue(self._catalogue_id, {"brief": True})))

    def _trouble(self) -> str:
        """Say why nothing can be sent, if so."""
        if self._welcomed:
            return ""
        if self._refusal:
            return f"the broker at {self._endpoint} refused HELLO ({self._refusal})"
        what = "no answer to HELLO from" if self._connected else "no broker at"
        return f"{what} {self._endpoint}"

    def _malformed(self, reason: str) -> str:
        self.counters["malformed"] += 1
        return reason

    def check_invariants(self) -> None:
        """Assert what always holds; for tests."""
        self._calls.check_invariants()
        assert self._connected >= self._welcomed >= (len(self._control) > 1)

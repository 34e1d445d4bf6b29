"""Clients: who asks, over which connection, and what they are still owed.

A client that said HELLO is known by its session and keeps its requests when it
comes back by another connection; any other client is its connection.
"""

from __future__ import annotations

from falconas.broker.records import Body, Client
from falconas.errors import FailedPrecondition, FalconError
from falconas.protocol import Message

HELD_BYTES = 16 * 1024 * 1024
FORGET_AFTER = 600.0


class Clients:
    """Clients by connection and by session."""

    def __init__(self) -> None:
        self._by_identity: dict[bytes, Client] = {}
        self._by_session: dict[bytes, Client] = {}
        self._held_bytes = 0
        self.watching: dict[Client, None] = {}  # who has asked to be looked after

    def __len__(self) -> int:
        return len(self._by_identity)

    def everyone(self) -> list[Client]:
        """Return all clients, connected or not."""
        return [*{*self._by_identity.values(), *self._by_session.values()}]

    def of(self, identity: bytes, now: float) -> Client:
        """Return the client at this connection, a new one if it is unknown."""
        client = self._by_identity.get(identity)
        if client is None:
            client = Client(identity, identity, session=False)
            self._by_identity[identity] = client
        client.seen = now
        return client

    def find(self, identity: bytes) -> Client | None:
        """Return the client at this connection, if it is known."""
        return self._by_identity.get(identity)

    def conflict(self, identity: bytes, session: bytes) -> FalconError | None:
        """Refuse a session to a connection whose other one is still owed something.

        Else one connection could have the share of many clients.
        """
        client = self._by_identity.get(identity)
        if client is None or not client.session or client.key == session:
            return None
        if not client.pending and not client.held:
            return None
        text = "this connection has another session with requests outstanding"
        return FailedPrecondition(text)

    def hello(self, identity: bytes, session: bytes, now: float) -> Client:
        """Bind a connection to a session, known or new.

        What the connection asked for before its HELLO stays with the old name.
        """
        before = self._by_identity.get(identity)
        if before is not None and before.session and before.key != session:
            del self._by_session[before.key]  # it is owed nothing, see `conflict`
        client = self._by_session.get(session)
        if client is None:
            client = Client(session, identity, session=True)
            self._by_session[session] = client
        elif self._by_identity.get(client.identity) is client:
            del self._by_identity[client.identity]
        self._by_identity[identity] = client
        client.identity = identity
        client.seen = now
        client.gone_at = None
        return client

    def ended(self, client: Client) -> None:
        """Forget a bare connection that is owed nothing more."""
        bare = not client.session and not client.pending
        if bare and self._by_identity.get(client.identity) is client:
            del self._by_identity[client.identity]

    def hold(self, identity: bytes, message: Message, body: Body, until: float) -> bool:
        """Keep an answer that its session could not be given; False if it is lost."""
        client = self._by_identity.get(identity)
        if client is None or not client.session:
            return False
        if self._held_bytes + len(body) > HELD_BYTES:
            return False
        client.held.append((until, message, body))
        self._held_bytes += len(body)
        return True

    def take_held(self, client: Client, now: float) -> list[tuple[Message, Body]]:
        """Remove and return the answers that were kept and are still of use."""
        held, client.held = client.held, []
        self._held_bytes -= sum(len(body) for _, _, body in held)
        return [(message, body) for until, message, body in held if until > now]

    def sweep(self, now: float) -> None:
        """Drop answers past their time and sessions that were silent for long."""
        for client in list(self._by_session.values()):
            if client.held and all(until <= now for until, _, _ in client.held):
                self.take_held(client, now)
            if (
                not client.pending
                and not client.held
                and client.seen + FORGET_AFTER < now
            ):
                del self._by_session[client.key]
                if self._by_identity.get(client.identity) is client:
                    del self._by_identity[client.identity]

"""Clients whose requests shall end with them: are they still there?

The transport does not say who leaves, but a message to somebody who left cannot be
sent. So those clients are asked now and then; nobody has to answer.
"""

from __future__ import annotations

from falconas.broker import endings
from falconas.broker.flow import Flow
from falconas.broker.records import Client, Pending, Send, Socket
from falconas.protocol import Ping

QUESTION = b"there?"
RETURN_WAIT = 3.0  # for a session that lost its connection


def watch(
    flow: Flow, client: Client, extras: dict[str, object], envelope: tuple[bytes, ...]
) -> bool:
    """Tell whether a request is to end with its client; if so, look after that.

    A REQ cuts its connection when it gets what is no answer, so it is never asked.
    """
    wanted = extras.get("cancel_on_disconnect") is True and not envelope
    if wanted:
        flow.clients.watching[client] = None
    return wanted


def ask(flow: Flow, now: float) -> None:
    """Look after those whom it concerns; cancel for those who did not come back."""
    for client in list(flow.clients.watching):
        if not _watched(client):
            del flow.clients.watching[client]
        elif client.gone_at is None:
            ping = Ping(QUESTION, {})
            flow.sends.append(Send(Socket.FRONTEND, client.identity, (), ping, b""))
        elif now >= client.gone_at + RETURN_WAIT:
            _cancel(flow, client, now)


def gone(flow: Flow, identity: bytes, now: float) -> None:
    """Note that a connection is gone; only a session can have another."""
    client = flow.clients.find(identity)
    if client is None:
        return
    if not client.session:
        _cancel(flow, client, now)
    elif client.gone_at is None:
        client.gone_at = now


def _watched(client: Client) -> list[Pending]:
    return [pending for pending in client.pending.values() if pending.watched]


def _cancel(flow: Flow, client: Client, now: float) -> None:
    for pending in _watched(client):
        if not pending.cancelled:
            flow.counters["clients_gone"] += 1
            endings.cancel(flow, pending, now)

from __future__ import annotations

import pytest

from falconas.broker import clients as module
from falconas.broker.clients import FORGET_AFTER, Clients
from falconas.protocol import Reply
from tests.unit.broker.desk import pending

REPLY = Reply(b"id", 0, 0, {})


def test_a_bare_connection_is_known_while_it_is_owed_something() -> None:
    clients = Clients()
    client = clients.of(b"link", 1.0)
    client.pending[b"id"] = pending()
    clients.ended(client)
    assert clients.of(b"link", 2.0) is client
    assert clients.find(b"link") is client

    client.pending.clear()
    clients.ended(client)

    assert clients.find(b"link") is None
    assert len(clients) == 0


def test_a_session_moves_to_its_new_connection() -> None:
    clients = Clients()
    client = clients.hello(b"link 1", b"session", 1.0)

    assert clients.hello(b"link 2", b"session", 2.0) is client
    assert clients.hello(b"link 2", b"session", 2.0) is client

    assert client.identity == b"link 2"
    assert clients.find(b"link 1") is None
    assert clients.everyone() == [client]
    clients.ended(client)
    assert clients.find(b"link 2") is client


def test_what_was_asked_before_hello_keeps_its_connection() -> None:
    clients = Clients()
    bare = clients.of(b"link", 1.0)
    session = clients.hello(b"link", b"session", 1.0)
    clients.ended(bare)

    assert clients.find(b"link") is session


def test_a_connection_has_one_session_at_a_time() -> None:
    clients = Clients()
    clients.hello(b"link", b"session", 1.0)
    other = clients.hello(b"link", b"other", 1.0)

    assert clients.find(b"link") is other
    assert clients.everyone() == [other]


def test_a_session_that_is_owed_something_keeps_its_connection() -> None:
    clients = Clients()
    assert clients.conflict(b"link", b"other") is None
    clients.of(b"link", 1.0)
    assert clients.conflict(b"link", b"other") is None
    client = clients.hello(b"link", b"session", 1.0)
    assert clients.conflict(b"link", b"other") is None

    client.pending[b"id"] = pending()

    assert clients.conflict(b"link", b"session") is None
    conflict = clients.conflict(b"link", b"other")
    assert conflict is not None
    assert conflict.code.name == "FAILED_PRECONDITION"


def test_answers_are_kept_for_sessions_and_while_of_use() -> None:
    clients = Clients()
    client = clients.hello(b"link", b"session", 1.0)
    clients.of(b"bare", 1.0)
    late = Reply(b"late", 0, 0, {})

    assert clients.hold(b"link", REPLY, b"body", until=5.0)
    assert clients.hold(b"link", late, b"body", until=9.0)
    assert not clients.hold(b"bare", REPLY, b"", until=5.0)
    assert not clients.hold(b"gone", REPLY, b"", until=5.0)

    assert clients.take_held(client, 5.0) == [(late, b"body")]
    assert clients.take_held(client, 5.0) == []


def test_kept_answers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HELD_BYTES", 8)
    clients = Clients()
    client = clients.hello(b"link", b"session", 1.0)

    assert clients.hold(b"link", REPLY, b"12345678", until=5.0)
    assert not clients.hold(b"link", REPLY, b"9", until=5.0)
    clients.take_held(client, 1.0)
    assert clients.hold(b"link", REPLY, b"12345678", until=5.0)


def test_sweep_drops_what_is_past_and_who_was_silent() -> None:
    clients = Clients()
    owed = clients.hello(b"1", b"owed", 1.0)
    clients.hello(b"2", b"silent", 1.0)
    clients.hello(b"3", b"moved", 1.0)
    clients.hello(b"3", b"young", FORGET_AFTER)
    holds = clients.hello(b"4", b"holds", 1.0)
    owed.pending[b"id"] = pending()
    clients.hold(b"4", REPLY, b"", until=FORGET_AFTER + 9)
    clients.hold(b"1", REPLY, b"", until=5.0)

    clients.sweep(FORGET_AFTER + 2.0)

    assert {client.key for client in clients.everyone()} == {
        b"owed",
        b"young",
        b"holds",
    }
    assert not owed.held
    assert len(holds.held) == 1
    assert clients.find(b"2") is None
    assert clients.find(b"3") is not None

from __future__ import annotations

from typing import get_args

from falconas import messages
from falconas.messages import BACKEND, COMMANDS, CONTROL, FRONTEND, Command

TO_PEERS = {messages.Welcome, messages.Pong}


def test_each_message_has_its_own_command() -> None:
    assert set(COMMANDS) == set(get_args(messages.Message))
    assert len(set(COMMANDS.values())) == len(COMMANDS)


def test_commands_without_a_message_are_the_reserved_ones() -> None:
    reserved = set(Command) - set(COMMANDS.values())

    assert reserved == {Command.CREDIT, Command.KILL}


def test_numbers_of_commands_are_for_ever() -> None:
    assert [(c.name, int(c)) for c in Command] == [
        ("HELLO", 1),
        ("WELCOME", 2),
        ("REQUEST", 3),
        ("REPLY", 4),
        ("CANCEL", 5),
        ("PING", 6),
        ("PONG", 7),
        ("CATALOGUE", 8),
        ("CREDIT", 9),
        ("READY", 16),
        ("STATUS", 17),
        ("RETURN", 18),
        ("DISCONNECT", 19),
        ("REGISTER", 32),
        ("HEARTBEAT", 33),
        ("LOST", 34),
        ("KILL", 35),
        ("RELOAD", 36),
        ("DRAIN", 37),
        ("INSPECT", 38),
    ]


def test_each_message_is_sent_to_the_broker_or_by_it() -> None:
    assert set(COMMANDS) == FRONTEND | BACKEND | CONTROL | TO_PEERS


def test_clients_have_no_verb_of_workers_or_operators() -> None:
    common = {messages.Ping}

    assert common == FRONTEND & (BACKEND | CONTROL)


def test_id_is_first_and_extras_are_last() -> None:
    for cls in COMMANDS:
        assert cls._fields[0] == "id"
        assert cls._fields[-1] == "extras"

from __future__ import annotations

import pytest

from falconas.database.wording import LIMIT, in_short, is_refusal


@pytest.mark.parametrize(
    ("said", "short"),
    [
        (
            (
                'connection failed: connection to server at "127.0.0.1", port 5 failed:'
                " Connection refused\n\tIs the server running on that host and"
                " accepting TCP/IP connections?"
            ),
            'connection to server at "127.0.0.1", port 5 failed: Connection refused',
        ),
        (
            (
                'connection failed: connection to server on socket "/run/.s.PGSQL.5"'
                " failed: No such file or directory\n\tIs the server running locally"
                " and accepting connections on that socket?\nMultiple connection"
                " attempts failed. All failures were:\n- host: 'a':"
                " connection failed: no"
            ),
            (
                'connection to server on socket "/run/.s.PGSQL.5" failed: No such file'
                " or directory Multiple connection attempts failed. All failures were:"
                " - host: 'a': no"
            ),
        ),
        (
            (
                "consuming input failed: server closed the connection unexpectedly\n"
                "\tThis probably means the server terminated abnormally\n"
                "\tbefore or while processing the request."
            ),
            "consuming input failed: server closed the connection unexpectedly",
        ),
        ('role "nope" does not exist\n', 'role "nope" does not exist'),
    ],
)
def test_what_says_nothing_new_is_left_out(said: str, short: str) -> None:
    assert in_short(OSError(said)) == short


def test_who_says_nothing_is_named() -> None:
    assert in_short(TimeoutError()) == "TimeoutError"


def test_a_line_remains_one() -> None:
    assert len(in_short(OSError("x" * 3 * LIMIT))) == LIMIT


_SERVER = 'connection failed: connection to server at "127.0.0.1", port 5 failed: '


@pytest.mark.parametrize(
    ("said", "refusal"),
    [
        (_SERVER + "FATAL:  sorry, too many clients already", True),
        (_SERVER + 'FATAL:  password authentication failed for user "a"', True),
        (_SERVER + "ВАЖНО:  слишком много подключений", True),
        (_SERVER + "Connection refused\n" + _SERVER + "FATAL:  no entry", True),
        (_SERVER + "Connection refused\n\tIs the server running?", False),
        (_SERVER + "server closed the connection unexpectedly", False),
        (_SERVER + "FATAL:  the database system is starting up", False),
        (_SERVER + "FATAL:  the database system is shutting down", False),
        (_SERVER + "FATAL:  terminating connection due to administrator", False),
        ("failed to resolve host 'nope': Name or service not known", False),
        ("", False),
    ],
)
def test_a_refusal_is_what_a_server_says_that_serves(said: str, refusal: bool) -> None:
    assert is_refusal(OSError(said)) is refusal

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import psycopg
import pytest
from psycopg import pq

from falconas.database.bundle import bundle
from falconas.database.connection import Connection

IDLE, INTRANS = pq.TransactionStatus.IDLE, pq.TransactionStatus.INTRANS


def value(answers: list[pq.abc.PGresult]) -> bytes | None:
    (answer,) = answers
    return answer.get_value(0, 0)


def sender(here: Connection, *texts: bytes) -> Callable[[], None]:
    def send() -> None:
        for text in texts:
            here.pgconn.send_query_params(text, None)

    return send


def test_all_are_run_and_the_last_one_is_answered(here: Connection) -> None:
    send = sender(here, b"SELECT 1", b"SELECT 2", b"SELECT 3")
    assert value(here.wait(bundle(here.pgconn, b"BEGIN", send, 3))) == b"3"
    assert here.pgconn.transaction_status == INTRANS
    assert not here.pgconn.pipeline_status


def test_nothing_has_to_go_before(here: Connection) -> None:
    send = sender(here, b"SELECT 1")
    assert value(here.wait(bundle(here.pgconn, None, send, 0))) == b"1"
    assert here.pgconn.transaction_status == IDLE


@pytest.mark.parametrize("begin", [b"BEGIN nonsense", b"BEGIN"])
def test_an_earlier_error_is_raised_and_the_last_is_not_run(
    here: Connection, begin: bytes
) -> None:
    send = sender(here, b"SELECT 1 / 0", b"CREATE TABLE never ()")
    with pytest.raises((psycopg.errors.SyntaxError, psycopg.errors.DivisionByZero)):
        here.wait(bundle(here.pgconn, begin, send, 2))
    assert not here.pgconn.pipeline_status
    here.rollback()
    assert here.execute("SELECT to_regclass('never')").fetchone() == (None,)


def test_the_last_error_is_its_answer(here: Connection) -> None:
    send = sender(here, b"SELECT 1 / 0")
    (answer,) = here.wait(bundle(here.pgconn, b"BEGIN", send, 1))
    assert answer.status == pq.ExecStatus.FATAL_ERROR


def test_what_cannot_be_sent_is_raised(here: Connection) -> None:
    send = partial(here.pgconn.send_query_params, b"SELECT $1", [b"1"] * 70_000)
    with pytest.raises(psycopg.OperationalError):
        here.wait(bundle(here.pgconn, b"BEGIN", send, 1))


def test_the_server_tells_why_it_ended(here: Connection) -> None:
    end = b"SELECT pg_terminate_backend(pg_backend_pid())"
    with pytest.raises(psycopg.errors.AdminShutdown):
        here.wait(bundle(here.pgconn, None, sender(here, end, b"SELECT 2"), 1))
    assert here.closed

from __future__ import annotations

import signal
import threading
from contextlib import closing
from typing import NoReturn

import psycopg
import pytest
from psycopg.pq import TransactionStatus

from falconas.database.connection import Connection


class Interrupted(KeyboardInterrupt):
    pass


def test_signals_are_heard_however_often_they_come(database: str) -> None:
    def interrupt(*_: object) -> NoReturn:
        raise Interrupted

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with closing(Connection.connect(database, autocommit=True)) as connection:
            signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
            with pytest.raises(Interrupted):
                connection.execute("SELECT pg_sleep(2)")  # else it comes to its end
            signal.setitimer(signal.ITIMER_REAL, 0.0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


def test_it_knows_how_long_the_server_keeps_it_waiting(database: str) -> None:
    seen: list[float] = []

    def look(*_: object) -> None:
        seen.append(connection.awaited)

    before = signal.signal(signal.SIGALRM, look)
    try:
        with closing(Connection.connect(database, autocommit=True)) as connection:
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            connection.execute("SELECT pg_sleep(0.2)")
            assert connection.awaited == 0.0
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
    assert 0.0 < seen[0] < 60.0


def test_a_connection_is_not_freed_while_a_thread_is_in_its_midst(
    database: str,
) -> None:
    """The thread ends with an error, and gets nothing of the next connection."""
    connection = Connection.connect(database, autocommit=True)
    failures: list[BaseException] = []

    def work() -> None:
        try:
            connection.execute("SELECT pg_sleep(60)")
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    while connection.pgconn.transaction_status != TransactionStatus.ACTIVE:
        pass

    connection.end()

    thread.join()
    assert isinstance(failures[0], psycopg.OperationalError)
    assert connection.closed
    connection.end()
    with Connection.connect(database, autocommit=True) as other:
        assert other.execute("SELECT 1").fetchone() == (1,)

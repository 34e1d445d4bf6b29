from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import zmq

from falconas.database.blocks import Lease
from falconas.database.facade import Database
from falconas.database.session import Session
from falconas.worker.forks import LEFT, Forks
from tests.child import in_child

if TYPE_CHECKING:
    from falconas.database.embedded import EmbeddedPostgres


def fork(work: Callable[[], object]) -> int:
    """Have a copy do `work` and end as Python would; return its exit code."""
    pid = os.fork()
    if not pid:
        try:
            work()
        finally:
            os._exit(3)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def select(db: Database) -> Any:
    return db.execute("SELECT 42").fetchone()


def test_a_copy_cannot_hurt_the_connection(postgres: EmbeddedPostgres) -> None:
    def work() -> list[Any]:
        forks = Forks()
        with closing(Session.connect(postgres.dsn())) as session:
            forks.guard(session.fileno())
            session.begin_read()
            lease = Lease(session)
            forks.in_child(lease.end)
            db = Database(lease)
            select(db)

            def use() -> None:
                with pytest.raises(psycopg.InterfaceError):
                    select(db)
                os._exit(10)

            codes = [fork(use), fork(session.close), fork(session.check)]
            return [codes, select(db), session.reset()]

    codes, row, sound = in_child(work)

    assert codes == [10, 3, 3]
    assert row == [42]
    assert sound


def test_a_socket_that_is_closed_is_forgotten() -> None:
    def work() -> int:
        forks = Forks()
        reader, writer = os.pipe()
        forks.guard(writer)
        forks.unguard(writer)
        fork(lambda: os.write(writer, b"x"))
        return len(os.read(reader, 9))

    assert in_child(work) == 1


def test_a_copy_that_comes_back_ends() -> None:
    def work() -> list[int]:
        forks = Forks()
        forks.leave_if_child()
        assert not forks.is_child()

        def leave(error: BaseException | None) -> Callable[[], None]:
            return lambda: forks.leave_if_child(error)

        errors = None, ValueError(), SystemExit(), SystemExit(4), SystemExit("no")
        return [fork(leave(error)) for error in errors]

    assert in_child(work) == [LEFT, LEFT, 0, 4, 1]


def test_signals_mean_to_a_copy_what_they_mean_to_a_program() -> None:
    def work() -> list[int]:
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGALRM, signal.SIGUSR1):
            signal.signal(number, lambda *_: None)
        Forks()
        codes = [
            fork(lambda n=number: signal.raise_signal(n))  # type: ignore[misc]
            for number in (signal.SIGTERM, signal.SIGALRM, signal.SIGUSR1)
        ]
        os.set_blocking(reader, False)
        try:
            os.read(reader, 1)
        except BlockingIOError:
            codes.append(0)
        return codes

    assert in_child(work) == [-signal.SIGTERM, -signal.SIGALRM, 3, 0]


def test_what_a_copy_has_to_do_first_may_fail() -> None:
    def work() -> int:
        forks = Forks()
        forks.in_child(lambda: 1 / 0)
        forks.in_child(lambda: os._exit(11))
        return fork(lambda: None)

    assert in_child(work) == 11


def test_programs_and_pools_go_on_working() -> None:
    def work() -> list[Any]:
        forks = Forks()
        reader, writer = os.pipe()
        forks.guard(writer)
        echo = [sys.executable, "-c", "print(7)"]
        plain = subprocess.run(echo, capture_output=True, check=True)
        before = subprocess.run(
            echo,
            capture_output=True,
            check=True,
            preexec_fn=lambda: None,
        )
        context = multiprocessing.get_context("fork")
        with context.Pool(2) as pool:
            squares = pool.map(abs, [-1, -2])
        os.write(writer, b"ours")
        return [
            plain.stdout.decode(),
            before.stdout.decode(),
            squares,
            os.read(reader, 9).decode(),
        ]

    assert in_child(work) == ["7\n", "7\n", [1, 2], "ours"]


def test_a_copy_that_collects_zeromq_objects_hurts_nobody() -> None:
    def work() -> list[Any]:
        Forks()
        context: zmq.Context[Any] = zmq.Context()
        ours, theirs = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
        port = ours.bind_to_random_port("tcp://127.0.0.1")
        theirs.connect(f"tcp://127.0.0.1:{port}")
        theirs.send(b"one")
        got = [ours.recv().decode()]

        def end() -> None:
            ours.close()
            theirs.close()
            context.term()

        code = fork(end)
        theirs.send(b"two")
        got.append(ours.recv().decode())
        context.destroy(linger=0)
        return [code, got]

    assert in_child(work) == [3, ["one", "two"]]

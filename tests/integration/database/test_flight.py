"""Resets under way: whatever happens meanwhile, the next request finds nothing."""

from __future__ import annotations

import select
from contextlib import closing
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from falconas.database import flight
from falconas.database.blocks import Lease
from falconas.database.facade import Database
from falconas.database.session import Session
from tests.proxy import Proxy
from tests.session_probe import probe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from falconas.database.embedded import EmbeddedPostgres

LOCK = 4711
# COMMIT computes what such a cursor holds: so the sweep waits, fails, or is late.
HANGS = f"DECLARE c CURSOR WITH HOLD FOR SELECT pg_advisory_lock({LOCK})"
FAILS = "DECLARE c CURSOR WITH HOLD FOR SELECT 1 / n FROM generate_series(1, 0, -1) n"


@pytest.fixture(scope="module")
def database(postgres: EmbeddedPostgres) -> Iterator[str]:
    yield postgres.create_database("flight")
    postgres.drop_database("flight")


@pytest.fixture
def admin(database: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database, autocommit=True) as connection:
        yield connection


@pytest.fixture
def session(database: str) -> Iterator[Session]:
    with closing(Session.connect(database)) as session:
        yield session


@pytest.fixture
def hanging(session: Session, admin: psycopg.Connection[Any]) -> Session:
    """A session whose reset is under way and waits for a lock."""
    admin.execute("SELECT pg_advisory_lock(%s)", (LOCK,))
    read(session, HANGS)
    assert session.begin_reset()
    waiting = (
        "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND wait_event = 'advisory'"
    )
    while not admin.execute(waiting, (pid(session),)).fetchall():
        pass
    return session


def pid(session: Session) -> int:
    return session.connection.info.backend_pid


def read(session: Session, *statements: str) -> list[Any]:
    session.begin_read()
    db = Database(Lease(session))
    answers = [db.execute(each) for each in statements]
    session.verify()
    return [each.fetchall() if each.description else [] for each in answers]


def ask(session: Session) -> dict[str, Any]:
    session.begin_read()
    found = probe(Database(Lease(session)).execute)
    session.verify()
    return found


def news(session: Session) -> None:
    """Wait as an idle worker does."""
    assert select.select([session.fileno()], [], [], 60)[0]


def test_nobody_waits_for_a_reset_that_has_begun(
    hanging: Session, admin: psycopg.Connection[Any]
) -> None:
    assert hanging.resetting
    assert hanging.sound

    admin.execute("SELECT pg_advisory_unlock(%s)", (LOCK,))

    assert hanging.finish_reset()
    assert not hanging.resetting
    count = "SELECT count(*) FROM pg_cursors WHERE is_holdable"
    assert read(hanging, count) == [[(0,)]]


def test_news_of_an_idle_session_end_its_reset(session: Session) -> None:
    fresh = ask(session)
    assert session.reset()
    read(session, "SET work_mem = '9MB'", "SELECT pg_advisory_lock(7)", "LISTEN news")

    assert session.begin_reset()
    news(session)

    assert session.check()
    assert not session.resetting
    assert ask(session) == fresh


def test_a_session_that_was_not_touched_has_nothing_under_way(session: Session) -> None:
    session.begin_read()
    session.verify()

    assert session.begin_reset()

    assert not session.resetting
    assert session.finish_reset()


def test_a_server_that_does_not_answer_costs_the_connection(
    hanging: Session, caplog: pytest.LogCaptureFixture
) -> None:
    assert not hanging.finish_reset(0.05)

    assert not hanging.sound
    assert hanging.lost
    assert "reset failed" in caplog.text


def kill(admin: psycopg.Connection[Any], session: Session) -> None:
    admin.execute("SELECT pg_terminate_backend(%s, 5000)", (pid(session),))


def cancel(admin: psycopg.Connection[Any], session: Session) -> None:
    admin.execute("SELECT pg_cancel_backend(%s)", (pid(session),))


@pytest.mark.parametrize("stop", [kill, cancel])
@pytest.mark.parametrize("how", [Session.finish_reset, Session.check])
def test_a_reset_that_is_stopped_under_way_costs_the_connection(
    hanging: Session,
    admin: psycopg.Connection[Any],
    stop: Callable[[psycopg.Connection[Any], Session], None],
    how: Callable[[Session], bool],
) -> None:
    stop(admin, hanging)
    news(hanging)

    assert not how(hanging)
    assert not hanging.sound


def test_a_cancel_that_comes_after_the_sweep_hits_nobody(
    session: Session, admin: psycopg.Connection[Any]
) -> None:
    fresh = ask(session)
    assert session.reset()
    read(session, "SET work_mem = '9MB'")
    assert session.begin_reset()
    news(session)

    cancel(admin, session)

    assert session.finish_reset()
    assert ask(session) == fresh


def test_a_backend_killed_after_its_answer_is_found_before_the_next_request(
    session: Session, admin: psycopg.Connection[Any]
) -> None:
    read(session, "SELECT 1")
    assert session.begin_reset()
    news(session)

    kill(admin, session)

    # The answer and the end may be read at once: then the end makes news again.
    if session.check():
        news(session)
        assert not session.check()
    assert not session.sound


def test_what_only_the_answer_tells_is_heard(
    session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    read(session, FAILS, "SET work_mem = '9MB'")

    assert session.begin_reset()

    assert not session.finish_reset()
    assert "division by zero" in caplog.text


def test_something_that_ends_the_wait_does_not_end_it_well(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    read(session, "SET work_mem = '9MB'")
    assert session.begin_reset()
    monkeypatch.setattr("falconas.database.session.arrive", interrupted)

    with pytest.raises(KeyboardInterrupt):
        session.finish_reset()

    assert not session.sound
    assert not session.finish_reset()


def test_an_answer_that_is_missing_is_no_answer(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    read(session, "SELECT 1")
    assert session.begin_reset()
    monkeypatch.setattr(
        "falconas.database.session.arrive", lambda *a: flight.arrive(*a)[:-1]
    )

    assert not session.finish_reset()


def test_a_black_hole_costs_the_connection(postgres: EmbeddedPostgres) -> None:
    with (
        Proxy(postgres.dsn(tcp=True)) as proxy,
        closing(Session.connect(proxy.dsn)) as session,
    ):
        read(session, "SELECT 1")
        proxy.hold()
        assert session.begin_reset()

        assert not session.finish_reset(0.05)

        assert session.lost


def test_nothing_can_be_sent_while_a_reset_is_under_way(hanging: Session) -> None:
    hanging.begin_read()
    db = Database(Lease(hanging))

    with pytest.raises(psycopg.Error):
        db.execute("SELECT 1")

    assert not hanging.finish_reset(0.05)


def test_a_closed_session_has_no_reset(hanging: Session) -> None:
    hanging.close()

    assert not hanging.finish_reset()
    assert not hanging.sound

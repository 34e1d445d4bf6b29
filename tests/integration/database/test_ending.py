from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from falconas.database.ending import end
from falconas.database.session import Session
from falconas.database.transaction import POSITION
from falconas.errors import Code, FalconError, Started
from tests.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from falconas.database.embedded import EmbeddedPostgres

TAIL = 90  # about the bytes of the answer behind COMMIT's own
STEP = 4


@pytest.fixture(scope="module")
def database(postgres: EmbeddedPostgres) -> Iterator[str]:
    yield postgres.create_database("ending")
    postgres.drop_database("ending")


@pytest.fixture
def admin(database: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        connection.execute("CREATE TABLE item (id int PRIMARY KEY)")
        connection.execute("GRANT ALL ON SCHEMA public TO PUBLIC")
        connection.execute("GRANT ALL ON item TO PUBLIC")
        yield connection


def insert(session: Session, number: int) -> None:
    session.begin_write()
    with session.statement() as connection:
        connection.execute("INSERT INTO item VALUES (%s)", (number,))
    session.verify()


def items(admin: psycopg.Connection[Any]) -> set[int]:
    return {row[0] for row in admin.execute("SELECT id FROM item")}


def test_a_position_lies_behind_the_commit(
    database: str, admin: psycopg.Connection[Any]
) -> None:
    where = "SELECT pg_current_wal_insert_lsn() - '0/0'"
    last = 0
    with closing(Session.connect(database)) as session:
        for number, wait in enumerate(("on", "off"), 1):
            insert(session, number)
            with session.statement() as connection:
                connection.execute(f"SET LOCAL synchronous_commit = {wait}")
            position = session.commit()
            assert position is not None
            assert session.reset()
            (now,) = admin.execute(where).fetchone() or (0,)
            assert last < position <= now
            last = position


def test_without_a_position_it_is_committed_all_the_same(
    database: str, admin: psycopg.Connection[Any]
) -> None:
    function = "FUNCTION pg_current_wal_insert_lsn()"
    admin.execute(f"CREATE ROLE blind; REVOKE EXECUTE ON {function} FROM PUBLIC")
    try:
        with closing(Session.connect(database)) as session:
            insert(session, 1)
            with session.statement() as connection:
                connection.execute("SET ROLE blind")
            assert session.commit() is None
            assert session.reset()  # an error behind COMMIT costs nothing
            assert items(admin) == {1}
    finally:
        admin.execute(
            f"GRANT EXECUTE ON {function} TO PUBLIC; REVOKE ALL ON item FROM"
            " blind; DROP ROLE blind"
        )


def test_what_is_not_committed_asks_for_nothing(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        wire = connection.pgconn
        rolled_back = b"BEGIN; DO $$ BEGIN RAISE 'no'; END $$; COMMIT; " + POSITION
        ending = end(wire, rolled_back)
        assert not ending.committed
        assert isinstance(ending.error, psycopg.errors.RaiseException)
        assert ending.position is None
        connection.execute("ROLLBACK")
        gone = end(wire, b"SELECT pg_terminate_backend(pg_backend_pid()); COMMIT")
        assert not gone.committed
        assert gone.error is not None
        assert not end(wire, b"COMMIT").committed  # nor on a connection that is gone


def test_a_cut_anywhere_in_the_answer_is_ok_only_behind_commits_own(
    postgres: EmbeddedPostgres, database: str, admin: psycopg.Connection[Any]
) -> None:
    name = str(psycopg.conninfo.conninfo_to_dict(database)["dbname"])
    verdicts = set()
    with Proxy(postgres.dsn(name, tcp=True)) as proxy:

        def commit(number: int, cut: int | None) -> tuple[bool, int | None, int]:
            """Return whether it was OK, with which position, in how many bytes."""
            with closing(Session.connect(proxy.dsn)) as session:
                insert(session, number)
                before = proxy.answers.bytes
                if cut is not None:
                    proxy.answers.cut_after(cut)
                try:
                    position = session.commit()
                except FalconError as error:
                    verdicts.add((error.code, error.started))
                    return False, None, 0
                assert session.sound is (cut is None)
                return True, position, proxy.answers.bytes - before

        _, _, whole = commit(0, None)
        cuts = range(1, whole, STEP)
        told = [commit(number, cut)[:2] for number, cut in enumerate(cuts, 1)]
    assert verdicts == {(Code.UNAVAILABLE, Started.UNKNOWN)}
    fine = [ok for ok, _ in told]
    assert fine == sorted(fine)  # once COMMIT's answer is there, it stays OK
    assert TAIL / 2 < STEP * sum(fine) < 1.5 * TAIL
    positions = [position is not None for ok, position in told if ok]
    assert positions == sorted(positions)
    assert not positions[0]
    assert positions[-1]
    assert items(admin) == set(range(len(told) + 1))  # the server knew of no cut

from __future__ import annotations

from contextlib import closing, suppress
from typing import TYPE_CHECKING

import psycopg
import pytest

from falconas.database.blocks import Lease, refuse
from falconas.database.facade import Database
from falconas.database.session import Session

if TYPE_CHECKING:
    from collections.abc import Iterator

    from falconas.database.embedded import EmbeddedPostgres

COUNT = "SELECT count(*) FROM item"


@pytest.fixture(scope="module")
def database(postgres: EmbeddedPostgres) -> Iterator[str]:
    yield postgres.create_database("blocks")
    postgres.drop_database("blocks")


@pytest.fixture
def session(database: str) -> Iterator[Session]:
    with closing(Session.connect(database)) as session:
        session.begin_write(autocommit=True)
        Database(Lease(session)).execute(
            "DROP TABLE IF EXISTS item; CREATE TABLE item (id int PRIMARY KEY)"
        )
        session.verify()
        assert session.reset()
        yield session


@pytest.fixture
def db(session: Session) -> Database:
    session.begin_write(autocommit=True)
    return Database(Lease(session))


def fail(db: Database) -> None:
    with db.transaction():
        db.execute("INSERT INTO item VALUES (2)")
        raise ValueError("why")


def swallow(db: Database) -> None:
    with db.transaction():
        db.execute("INSERT INTO item VALUES (1)")
        with suppress(psycopg.errors.UniqueViolation):
            db.execute("INSERT INTO item VALUES (1)")


def count(database: str) -> int:
    with psycopg.connect(database) as other:
        return int((other.execute(COUNT).fetchone() or [0])[0])


def test_under_autocommit_a_block_is_a_transaction(db: Database, database: str) -> None:
    with db.transaction():
        db.execute("INSERT INTO item VALUES (1)")
        with db.transaction(force_rollback=True):
            db.execute("INSERT INTO item VALUES (2)")
        assert count(database) == 0
    assert count(database) == 1
    with pytest.raises(ValueError, match="why"):
        fail(db)
    assert count(database) == 1
    with db.transaction() as block:
        db.execute("INSERT INTO item VALUES (2)")
        raise psycopg.Rollback(block)
    assert count(database) == 1


def test_a_block_that_failed_inside_says_so(
    db: Database, session: Session, database: str
) -> None:
    """PostgreSQL answers such a COMMIT with ROLLBACK, and no error."""
    with pytest.raises(psycopg.errors.InFailedSqlTransaction, match="rolled back"):
        swallow(db)
    assert count(database) == 0
    db.execute("INSERT INTO item VALUES (2)")
    session.verify()
    assert session.reset()
    assert count(database) == 1


def test_within_a_transaction_a_block_is_a_savepoint(session: Session) -> None:
    session.begin_write()
    db = Database(Lease(session))
    with db.transaction() as block:
        assert block.savepoint_name
    with pytest.raises(ValueError, match="why"):
        fail(db)
    assert db.execute(COUNT).fetchone() == (0,)


def test_scripts_get_no_connection(db: Database) -> None:
    with db.transaction() as block, pytest.raises(AttributeError, match=r"ctx\.db"):
        _ = block.connection
    with pytest.raises(AttributeError):
        refuse()


def test_a_copy_reads_and_writes(db: Database) -> None:
    with db.copy("COPY item FROM STDIN") as copy:
        copy.write("1\n")
        copy.write_row([2])
    with db.copy("COPY item TO STDOUT") as copy:
        assert b"".join(copy) == b"1\n2\n"

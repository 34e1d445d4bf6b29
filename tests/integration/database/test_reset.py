"""The leak matrix: what one request sets, the next one must not find."""

from __future__ import annotations

from contextlib import closing
from select import select as wait_for
from typing import TYPE_CHECKING, Any, NamedTuple

import psycopg
import pytest
from psycopg.rows import dict_row
from psycopg.types.string import StrDumper

from falconas.database import flight
from falconas.database.blocks import Lease
from falconas.database.facade import Database
from falconas.database.reset import DISCARD, ROLLBACK, SOFT
from falconas.database.session import Session
from tests.session_probe import probe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from falconas.database.embedded import EmbeddedPostgres


class Leak(NamedTuple):
    """Something that a request leaves.

    Attributes:
        leave: SQL, or a script.
        where: Where the probe finds it, before the reset; empty: it cannot.
        outlives: It is there after a commit without a reset, so under `rollback`.
        replaced: The policies under which it costs the connection.
    """

    leave: str | Callable[[Database], object]
    where: str = ""
    outlives: bool = True
    replaced: tuple[str, ...] = ()


def adapt(db: Database) -> None:
    with db.cursor(row_factory=dict_row) as cursor:
        cursor.adapters.register_dumper(int, StrDumper)
        cursor.execute("SELECT 1 AS one")


PREPARED = (SOFT, ROLLBACK)
HIDDEN = "DO $$ BEGIN EXECUTE '{}'; END $$"
LEAKS = {
    "work_mem": Leak("SET work_mem = '9MB'", "settings"),
    "search_path": Leak("SET search_path = other", "search_path"),
    "time zone": Leak("SET TimeZone = 'Asia/Tokyo'", "settings"),
    "date style": Leak("SET DateStyle = 'German'", "settings"),
    "client encoding": Leak("SET client_encoding = 'LATIN1'", "settings"),
    "statement_timeout": Leak("SET statement_timeout = '77s'", "settings"),
    "lock_timeout": Leak("SET lock_timeout = '77s'", "settings"),
    "replica role": Leak("SET session_replication_role = replica", "settings"),
    "notices": Leak("SET client_min_messages = error", "settings"),
    "read only": Leak("SET default_transaction_read_only = on", outlives=False),
    "characteristics": Leak(
        "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE",
        "isolation_defaults",
    ),
    "set local": Leak("SET LOCAL work_mem = '9MB'", "settings", outlives=False),
    "set_config": Leak("SELECT set_config('work_mem', '9MB', false)", "settings"),
    "tenant": Leak("SET my.tenant = 'acme'", "tenant"),
    "role": Leak("SET ROLE leaker", "role"),
    "role of a role": Leak("SET SESSION AUTHORIZATION leaker", "authorization"),
    "advisory lock": Leak("SELECT pg_advisory_lock(7)", "advisory_locks"),
    "shared advisory lock": Leak(
        "SELECT pg_advisory_lock_shared(1, 2)", "advisory_locks"
    ),
    "advisory lock of the transaction": Leak(
        "SELECT pg_advisory_xact_lock(7)", "advisory_locks", outlives=False
    ),
    "temporary table": Leak("CREATE TEMP TABLE mine AS SELECT 1", "temporary"),
    "temporary view": Leak("CREATE TEMP VIEW mine AS SELECT 1", "temporary"),
    "temporary function": Leak(
        "CREATE FUNCTION pg_temp.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "temporary",
    ),
    "temporary type": Leak("CREATE TYPE pg_temp.mine AS ENUM ('a', 'b')", "temporary"),
    "temporary table of the transaction": Leak(
        "CREATE TEMP TABLE mine (i int) ON COMMIT DROP", "temporary", outlives=False
    ),
    "listen": Leak("LISTEN news", outlives=False),
    "cursor with hold": Leak("DECLARE mine CURSOR WITH HOLD FOR SELECT 1", "cursors"),
    "cursor": Leak("DECLARE mine CURSOR FOR SELECT 1", outlives=False),
    "sequence": Leak("SELECT nextval('numbers')", "lastval"),
    "prepared": Leak("PREPARE mine AS SELECT 1", "prepared_by_sql", replaced=PREPARED),
    "hidden prepared": Leak(
        HIDDEN.format("PREPARE mine AS SELECT 1"), "prepared_by_sql"
    ),
    "hidden deallocate": Leak(HIDDEN.format("DEALLOCATE ALL"), outlives=False),
    "lock table": Leak("LOCK TABLE item", "table_locks", outlives=False),
    "constraints": Leak("SET CONSTRAINTS ALL DEFERRED", outlives=False),
    "large object": Leak("SELECT lo_open(lo_create(0), 131072)", outlives=False),
    "uncommitted": Leak(
        "INSERT INTO item VALUES (99) ON CONFLICT (id) DO UPDATE SET id = 99",
        "uncommitted",
        outlives=False,
    ),
    "row factory and adapters": Leak(adapt, outlives=False),
}
# After these, `item` is another table: what was prepared with it would remain so.
RENAMING = {
    "temporary table": "CREATE TEMP TABLE item (x text, y text)",
    "temporary table of a query": "CREATE TEMP TABLE item AS SELECT 'x' AS x",
    "select into": "SELECT 'x' AS x INTO TEMP item",
    "one of several": "SELECT 1; SELECT 'x' AS x INTO TEMP item; SELECT 2",
    "explained": "EXPLAIN ANALYZE CREATE TEMP TABLE item AS SELECT 'x' AS x",
    "search_path": "SET search_path = elsewhere",
    "search_path of the transaction": "SET LOCAL search_path = elsewhere",
    "hidden": HIDDEN.format("CREATE TEMP TABLE item (x text)"),
}


@pytest.fixture(scope="module")
def database(postgres: EmbeddedPostgres) -> Iterator[str]:
    dsn = postgres.create_database("reset")
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute("CREATE TABLE item (id int PRIMARY KEY)")
        admin.execute("CREATE SCHEMA elsewhere")
        admin.execute("CREATE TABLE elsewhere.item (x text, y text)")
        admin.execute("CREATE SEQUENCE numbers")
        admin.execute("CREATE ROLE leaker")
        admin.execute("ALTER ROLE leaker SET work_mem = '7MB'")
        admin.execute("GRANT ALL ON SCHEMA public TO leaker")
        yield dsn
        admin.execute("REVOKE ALL ON SCHEMA public FROM leaker")
        admin.execute("DROP ROLE leaker")
    postgres.drop_database("reset")


def serve(
    session: Session, script: Callable[[Database], Any], access: str = "write"
) -> Any:
    """Do what a runner does with a request; the caller resets."""
    if access == "write":
        session.begin_write()
    else:
        session.begin_read()
    lease = Lease(session)
    try:
        result = script(Database(lease))
    finally:
        lease.end()
    session.verify()
    if access == "write":
        session.commit()
    return result


def run(leave: str | Callable[[Database], object]) -> Callable[[Database], Any]:
    if callable(leave):
        return leave
    return lambda db: db.execute(leave)


def ask(db: Database) -> dict[str, Any]:
    return probe(db.execute)


def asking(session: Session) -> dict[str, Any]:
    found: dict[str, Any] = serve(session, ask, "read")
    return found


def select(number: int, *, prepare: bool | None = None) -> Callable[[Database], Any]:
    return lambda db: db.execute("SELECT %s::int", [number], prepare=prepare).fetchone()


def at_once(session: Session) -> bool:
    return session.reset()


def under_way(session: Session) -> bool:
    """Reset as an idle worker does: with the news of its socket."""
    if session.begin_reset() and session.resetting:
        assert wait_for([session.fileno()], [], [], 60)[0]
        assert session.check() == session.sound
    return session.sound


def warm(session: Session) -> None:
    """Have psycopg prepare a statement."""
    for number in range(7):
        serve(session, select(number))
        assert session.reset()


@pytest.fixture
def fresh(database: str) -> dict[str, Any]:
    """What a new connection says."""
    with closing(Session.connect(database)) as session:
        return asking(session)


@pytest.mark.parametrize("name", LEAKS)
def test_the_matrix_leaks(database: str, fresh: dict[str, Any], name: str) -> None:
    """Before the reset it is there: else there is nothing to prove."""
    leak = LEAKS[name]
    with closing(Session.connect(database)) as session:
        session.begin_write()
        db = Database(Lease(session))
        run(leak.leave)(db)
        if leak.where:
            assert ask(db)[leak.where] != fresh[leak.where]


@pytest.mark.parametrize("reset", [at_once, under_way])
@pytest.mark.parametrize("policy", [SOFT, DISCARD])
@pytest.mark.parametrize("name", LEAKS)
def test_nothing_of_a_request_is_found_by_the_next(
    database: str,
    fresh: dict[str, Any],
    name: str,
    policy: str,
    reset: Callable[[Session], bool],
) -> None:
    leak = LEAKS[name]
    with closing(Session.connect(database, reset=policy)) as session:
        warm(session)
        serve(session, run(leak.leave))

        sound = reset(session)

        assert sound == (policy not in leak.replaced)
        if sound:
            assert asking(session) == fresh
            assert session.reset()


@pytest.mark.parametrize("name", LEAKS)
def test_nor_of_a_request_that_sent_it_in_a_pipeline(
    database: str, fresh: dict[str, Any], name: str
) -> None:
    leak = LEAKS[name]

    def piped(db: Database) -> None:
        with db.pipeline():
            run(leak.leave)(db)

    with closing(Session.connect(database)) as session:
        warm(session)
        serve(session, piped)

        sound = session.reset()

        assert sound == (SOFT not in leak.replaced)
        if sound:
            assert asking(session) == fresh
            assert session.reset()


@pytest.mark.parametrize("name", LEAKS)
def test_rollback_ends_the_transaction_and_no_more(
    database: str, fresh: dict[str, Any], name: str
) -> None:
    leak = LEAKS[name]
    with closing(Session.connect(database, reset=ROLLBACK)) as session:
        serve(session, run(leak.leave))

        assert session.reset() == (ROLLBACK not in leak.replaced)

        if session.sound and leak.where:
            found = asking(session)
            assert (found[leak.where] != fresh[leak.where]) == leak.outlives


@pytest.mark.parametrize("policy", [SOFT, DISCARD, ROLLBACK])
def test_a_failed_request_leaves_nothing_either(
    database: str, fresh: dict[str, Any], policy: str
) -> None:
    with closing(Session.connect(database, reset=policy)) as session:
        session.begin_write()
        db = Database(Lease(session))
        db.execute("INSERT INTO item VALUES (98)")
        with pytest.raises(psycopg.errors.DivisionByZero):
            db.execute("SELECT 1/0")

        assert session.reset()

        assert asking(session) == fresh


def columns(db: Database) -> Any:
    """Say what the table is, often enough to have the question prepared."""
    for _ in range(8):
        cursor = db.execute("SELECT * FROM item")
    return [column.name for column in cursor.description or ()]


@pytest.mark.parametrize("policy", [SOFT, DISCARD])
@pytest.mark.parametrize("name", RENAMING)
def test_names_mean_for_the_next_what_they_meant_before(
    database: str, name: str, policy: str
) -> None:
    def rename(db: Database) -> Any:
        db.execute(RENAMING[name])
        return columns(db)

    access = "read" if "path" in name else "write"
    with closing(Session.connect(database, reset=policy)) as session:
        assert serve(session, rename, access)[0] == "x"
        assert session.reset()

        assert serve(session, columns, "read") == ["id"]


@pytest.mark.parametrize(
    "name", [name for name in RENAMING if name != "one of several"]
)
def test_names_given_in_a_pipeline_mean_nothing_to_the_next(
    database: str, name: str
) -> None:
    def rename(db: Database) -> None:
        with db.pipeline():
            db.execute(RENAMING[name])
            columns(db)

    with closing(Session.connect(database)) as session:
        serve(session, rename)
        assert session.reset()

        assert serve(session, columns, "read") == ["id"]


@pytest.mark.parametrize("policy", [SOFT, ROLLBACK])
@pytest.mark.parametrize("name", RENAMING)
def test_a_request_is_not_served_what_was_prepared_before_it_renamed(
    database: str, name: str, policy: str
) -> None:
    def rename(db: Database) -> Any:
        db.execute(RENAMING[name])
        return columns(db)

    access = "read" if "path" in name else "write"
    with closing(Session.connect(database, reset=policy)) as session:
        assert serve(session, columns, "read") == ["id"]
        assert session.reset()

        assert serve(session, rename, access)[0] == "x"
        assert session.reset()


def test_names_of_a_request_that_failed_mean_nothing_either(database: str) -> None:
    with closing(Session.connect(database)) as session:
        session.begin_write()
        db = Database(Lease(session))
        db.execute(RENAMING["temporary table"])
        assert columns(db) == ["x", "y"]
        assert session.reset()

        assert serve(session, columns, "read") == ["id"]


def test_psycopg_and_the_server_agree_on_what_is_prepared(database: str) -> None:
    def count(db: Database) -> Any:
        return db.execute("SELECT count(*) FROM pg_prepared_statements").fetchone()[0]  # type: ignore[index]

    with closing(Session.connect(database)) as session:
        for _ in range(2):
            warm(session)
            assert serve(session, count, "read") == 1
            assert session.reset()
            serve(session, run("SET LOCAL work_mem = '9MB'"))
            assert session.reset()
            assert serve(session, count, "read") == 0
            assert session.reset()


@pytest.mark.parametrize("policy", [SOFT, ROLLBACK])
def test_prepared_statements_are_kept_and_used(database: str, policy: str) -> None:
    def count(db: Database) -> Any:
        return db.execute(
            "SELECT count(*), sum(generic_plans + custom_plans)"
            " FROM pg_prepared_statements WHERE statement LIKE 'SELECT $1::int%'"
        ).fetchone()

    with closing(Session.connect(database, reset=policy)) as session:
        warm(session)
        before = serve(session, count, "read")
        assert session.reset()
        serve(session, select(1), "read")
        assert session.reset()
        after = serve(session, count, "read")

    assert before[0] == after[0] == 1
    assert after[1] == before[1] + 1


def test_discard_prepares_nothing_even_if_told_to(database: str) -> None:
    with closing(Session.connect(database, reset=DISCARD)) as session:
        for number in range(3):
            serve(session, select(number, prepare=True))
            assert session.reset()


@pytest.mark.parametrize("policy", [SOFT, DISCARD])
def test_nobody_can_foresee_the_random_numbers_of_the_next(
    database: str, policy: str
) -> None:
    def roll(db: Database) -> Any:
        return db.execute("SELECT random()").fetchone()

    numbers: list[float] = []
    for _ in range(2):
        with closing(Session.connect(database, reset=policy)) as session:
            serve(session, lambda db: db.execute("SELECT setseed(0.5)"))
            assert session.reset()
            numbers += serve(session, roll)

    assert numbers[0] != numbers[1]


def test_what_a_failed_statement_prepared_is_gone(
    database: str, fresh: dict[str, Any]
) -> None:
    """PREPARE is not undone with the transaction."""
    body = "BEGIN EXECUTE 'PREPARE mine AS SELECT 1'; RAISE 'no'; END"
    with closing(Session.connect(database)) as session:
        session.begin_write()
        with pytest.raises(psycopg.errors.RaiseException):
            Database(Lease(session)).execute(f"DO $$ {body} $$")

        assert session.reset()

        assert asking(session) == fresh


@pytest.mark.parametrize("policy", [SOFT, DISCARD, ROLLBACK])
def test_reads_without_a_snapshot_leave_nothing(
    database: str, fresh: dict[str, Any], policy: str
) -> None:
    with closing(Session.connect(database, reset=policy)) as session:
        session.begin_read(snapshot=False)
        Database(Lease(session)).execute("SELECT 1")
        session.verify()

        assert session.reset()

        assert asking(session) == fresh


@pytest.mark.parametrize("policy", [SOFT, DISCARD, ROLLBACK])
def test_the_role_of_the_dsn_is_the_role_of_the_next(
    database: str, policy: str
) -> None:
    dsn = f"{database} options='-c role=leaker'"
    with closing(Session.connect(dsn, reset=policy)) as session:
        before = serve(session, ask, "read")
        assert session.reset()
        leave = "SET ROLE NONE" if policy != ROLLBACK else "SELECT 1"
        serve(session, run(leave))
        assert session.reset()

        assert serve(session, ask, "read") == before


@pytest.mark.parametrize("policy", [SOFT, DISCARD])
def test_a_sweep_that_is_not_proven_costs_the_connection(
    database: str, policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(Session.connect(database, reset=policy)) as session:
        serve(session, run("SELECT 1"))
        monkeypatch.setattr(
            "falconas.database.session.depart",
            lambda to, _: flight.depart(to, b"SET work_mem = 64"),
        )

        assert not session.reset()


@pytest.mark.parametrize("policy", [SOFT, DISCARD, ROLLBACK])
def test_rows_and_parameters_are_as_ever_for_the_next(
    database: str, policy: str
) -> None:
    def look(db: Database) -> Any:
        cursor = db.cursor()
        return cursor.execute("SELECT 1, pg_typeof(%s)::text", [5]).fetchone()

    with closing(Session.connect(database, reset=policy)) as session:
        before = serve(session, look, "read")
        assert session.reset()
        serve(session, adapt)
        assert session.reset()

        assert serve(session, look, "read") == before


@pytest.mark.parametrize("policy", [SOFT, DISCARD, ROLLBACK])
def test_descriptors_of_large_objects_end_with_the_request(
    database: str, policy: str
) -> None:
    with closing(Session.connect(database, reset=policy)) as session:
        serve(session, run(LEAKS["large object"].leave))
        assert session.reset()

        with pytest.raises(psycopg.errors.UndefinedObject):
            serve(session, run("SELECT loread(0, 1)"), "read")

"""A real PostgreSQL for the tests: one server, a database for each test.

Fixtures: `postgres` (the server), `database` (DSN of a fresh, empty database), `tpch`
(DSN of a fresh database with TPC-H's tables), `tpch_reader` (DSN of one for all tests
that only read), `tpch_files` (the same data as CSV), `tpch_answers` (TPC-H's queries
and their stored answers). Those of several nodes are in `tests/cluster.py`.
"""

from __future__ import annotations

import logging
import signal
from importlib.resources import files
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import pytest
from hypothesis import HealthCheck, settings

from falconas.database import tpch as data
from falconas.database.embedded import EmbeddedPostgres

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest_plugins = ["tests.cluster"]

# The same examples in each run: what fails is what was changed, and not the dice, which
# campaigns throw. No time limits: machines are slow at times.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("dice", unhurried)
settings.register_profile("same", unhurried, derandomize=True)
settings.load_profile("same")

SCALE = 0.01

numbers = count(1)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell's background job ignores Ctrl-C, and so would whom the tests send one.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """Undo what commands that run in this process do to the process's log."""
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    yield
    root.setLevel(level)
    root.handlers[:] = handlers


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """One server for the session, in a temporary folder."""
    server = EmbeddedPostgres(tmp_path_factory.mktemp("postgres"), durable=False)
    server.start()
    yield server
    server.delete()


@pytest.fixture
def database(postgres: EmbeddedPostgres) -> Iterator[str]:
    """DSN of a fresh, empty database."""
    name = f"test_{next(numbers)}"
    yield postgres.create_database(name)
    postgres.drop_database(name)


@pytest.fixture(scope="session")
def tpch_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with TPC-H's tables as CSV files."""
    return data.generate(tmp_path_factory.mktemp("files"), SCALE)


@pytest.fixture(scope="session")
def tpch_template(postgres: EmbeddedPostgres, tpch_files: Path) -> str:
    """Name of the template database with TPC-H's tables; nobody writes to it."""
    return data.make_template(postgres, tpch_files)


@pytest.fixture(scope="session")
def tpch_reader(postgres: EmbeddedPostgres, tpch_template: str) -> str:
    """DSN of one clone for all tests that only read."""
    name = data.clone(postgres, tpch_template)
    return f"{postgres.dsn(name)} options='-c default_transaction_read_only=on'"


@pytest.fixture
def tpch(postgres: EmbeddedPostgres, tpch_template: str) -> Iterator[str]:
    """DSN of a fresh database with TPC-H's tables."""
    name = data.clone(postgres, tpch_template)
    yield postgres.dsn(name)
    postgres.drop_database(name)


@pytest.fixture(scope="session")
def tpch_answers() -> dict[int, tuple[str, list[list[str]]]]:
    """TPC-H's queries by number, with the names and rows of their stored answers."""
    package = Path(str(files("duckdb_extension_tpch")))
    extension = next(package.rglob("tpch.duckdb_extension"))
    with duckdb.connect(config={"allow_unsigned_extensions": True}) as engine:
        engine.execute(f"LOAD '{extension}'")
        found = engine.execute(
            "SELECT query_nr, query, answer FROM tpch_queries()"
            " JOIN tpch_answers() USING (query_nr) WHERE scale_factor = ?",
            [SCALE],
        ).fetchall()
    return {
        number: (query, [line.split("|") for line in answer.splitlines()])
        for number, query, answer in found
    }

"""The example scripts on TPC-H data, as a worker runs them.

Results are compared with DuckDB, which reads the same files and is asked in other
words, and for TPC-H's query 1 with the answer that comes with DuckDB.
"""

from __future__ import annotations

import statistics
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import psycopg
import pytest

from falconas.codec import decode_value, encode_params
from falconas.database import tpch as data
from falconas.database.session import Session
from falconas.errors import Code, InvalidArgument, error_for
from falconas.protocol import Kind, Request
from falconas.testing import run
from falconas.worker.runner import Runner
from falconas.worker.scripts import Library, load
from falconas.worker.slot import NoSlot

if TYPE_CHECKING:
    from collections.abc import Iterator

SCRIPTS = Path(__file__).parents[2] / "workers"
CUSTOMER = 370
CUSTOMER_WITHOUT_ORDERS = 3  # TPC-H gives every third customer none
YEAR = 1995


@pytest.fixture(scope="module")
def library() -> Library:
    return load(SCRIPTS)


@pytest.fixture(scope="module")
def engine(tpch_files: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """DuckDB with the same data."""
    with duckdb.connect() as connection:
        for table in data.TABLES:
            connection.execute(
                f"CREATE TABLE {table} AS SELECT * FROM '{tpch_files}/{table}.csv'"
            )
        yield connection


@contextmanager
def worker(library: Library, dsn: str) -> Iterator[Runner]:
    session = Session.connect(dsn)
    try:
        yield Runner(library, session, NoSlot())
    finally:
        session.close()


def call(runner: Runner, script: str, **params: Any) -> Any:
    request = Request(uuid.uuid4().bytes, script, None, {"accept": ["ext"]})
    outcome = runner.run(request, encode_params(params), inf)
    value = decode_value(outcome.body)
    assert runner.reset()
    if outcome.kind is Kind.ERROR:
        raise error_for(outcome.code, value)
    return value


def rows(dsn: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn) as connection:
        return connection.execute(query.encode()).fetchall()


def test_all_example_scripts_load_and_say_what_they_are_for(library: Library) -> None:
    assert library.errors == {}
    assert {name: found.access for name, found in library.scripts.items()} == {
        "customer_overview": "read",
        "echo": "read",
        "place_order": "write",
        "pricing_summary": "read",
        "shipping_cohorts": "read",
    }
    assert all("Try: falconas call" in s.description for s in library.scripts.values())
    assert not library.scripts["place_order"].idempotent


@pytest.mark.parametrize(
    "value",
    [
        None,
        "text ü",
        [1, 2.5, {"a": b"\0"}],
        Decimal("1.10"),
        datetime(2026, 1, 2, 3, 4, tzinfo=UTC),
    ],
)
def test_echo_returns_what_it_was_given(tpch_reader: str, value: Any) -> None:
    assert run(SCRIPTS / "echo.py", {"value": value}, dsn=tpch_reader) == value


def test_customer_overview_agrees_with_duckdb(
    tpch_reader: str, engine: duckdb.DuckDBPyConnection
) -> None:
    found = overview(tpch_reader, customer_id=CUSTOMER, limit=3)
    expected = engine.execute(
        "SELECT c.c_custkey, c.c_name, c.c_mktsegment, c.c_phone, c.c_address,"
        " n.n_name, r.r_name, c.c_acctbal::DECIMAL(15,2)"
        " FROM customer c, nation n, region r"
        " WHERE c_nationkey = n_nationkey AND n_regionkey = r_regionkey"
        " AND c_custkey = ?",
        [CUSTOMER],
    ).fetchone()
    assert tuple(found["customer"].values()) == expected
    orders = engine.execute(
        "SELECT o_orderkey, o_orderdate, o_orderstatus, o_totalprice::DECIMAL(15,2),"
        " count(*), sum(l_quantity)::DECIMAL(15,2)"
        " FROM orders JOIN lineitem ON l_orderkey = o_orderkey WHERE o_custkey = ?"
        " GROUP BY ALL ORDER BY o_orderdate DESC, o_orderkey DESC",
        [CUSTOMER],
    ).fetchall()
    assert [tuple(order.values()) for order in found["last_orders"]] == orders[:3]
    totals = [order[3] for order in orders]
    assert found["orders"] == {
        "count": len(orders),
        "open": sum(order[2] == "O" for order in orders),
        "total": sum(totals),
        "average": round(statistics.mean(totals), 2),
        "first": orders[-1][1],
        "last": orders[0][1],
    }


def test_customer_overview_of_one_who_never_ordered(tpch_reader: str) -> None:
    found = overview(tpch_reader, customer_id=CUSTOMER_WITHOUT_ORDERS)
    assert found["orders"] == {
        "count": 0,
        "open": 0,
        "total": 0,
        "average": None,
        "first": None,
        "last": None,
    }
    assert found["last_orders"] == []


@pytest.mark.parametrize("customer", [0, -1, 1501, 2**63])
def test_customer_overview_refuses_an_unknown_customer(
    tpch_reader: str, customer: int
) -> None:
    with pytest.raises(InvalidArgument, match=f"there is no customer {customer}"):
        overview(tpch_reader, customer_id=customer)


def test_pricing_summary_gives_the_stored_answer_of_query_1(
    tpch_reader: str, tpch_answers: dict[int, tuple[str, list[list[str]]]]
) -> None:
    found = run(SCRIPTS / "pricing_summary.py", {}, dsn=tpch_reader)
    _, (names, *expected) = tpch_answers[1]
    assert [list(row) for row in found] == [names] * len(expected)
    for row, texts in zip(found, expected, strict=True):
        for name, text in zip(names, texts, strict=True):
            value = row[name]
            wanted: Any = text if isinstance(value, str) else pytest.approx(float(text))
            assert (value if isinstance(value, str) else float(value)) == wanted


@pytest.mark.parametrize("delta", [0, 60, 1200, 3000])
def test_pricing_summary_agrees_with_duckdb(
    tpch_reader: str, engine: duckdb.DuckDBPyConnection, delta: int
) -> None:
    found = run(SCRIPTS / "pricing_summary.py", {"delta_days": delta}, dsn=tpch_reader)
    expected = engine.execute(
        "SELECT l_returnflag, l_linestatus, sum(l_quantity::DECIMAL(15,2)),"
        " sum(l_extendedprice::DECIMAL(15,2)), count(*) FROM lineitem"
        " WHERE l_shipdate <= ? GROUP BY ALL ORDER BY ALL",
        [date(1998, 12, 1) - timedelta(days=delta)],
    ).fetchall()
    columns = (
        "l_returnflag",
        "l_linestatus",
        "sum_qty",
        "sum_base_price",
        "count_order",
    )
    assert [tuple(row[name] for name in columns) for row in found] == expected


def test_shipping_cohorts_agree_with_duckdb(
    tpch_reader: str, engine: duckdb.DuckDBPyConnection
) -> None:
    found = run(SCRIPTS / "shipping_cohorts.py", {"year": YEAR}, dsn=tpch_reader)
    lines = (
        "SELECT l_shipmode AS mode, date_diff('day', o_orderdate, l_shipdate) AS days,"
        " date_diff('month', o_orderdate, l_shipdate) AS months"
        " FROM orders JOIN lineitem ON l_orderkey = o_orderkey"
        f" WHERE year(o_orderdate) = {YEAR}"
    )
    expected = engine.execute(
        f"SELECT mode, count(*), median(days) FROM ({lines}) GROUP BY 1 ORDER BY 1"
    ).fetchall()
    assert [tuple(row.values())[:3] for row in found] == expected
    shares = engine.execute(
        "SELECT mode, months,"
        " 100.0 * count(*) / sum(count(*)) OVER (PARTITION BY mode)"
        f" FROM ({lines}) GROUP BY 1, 2"
    ).fetchall()
    assert len(shares) >= 7 * 4
    by_mode = {row["ship_mode"]: row["percent_by_month"] for row in found}
    assert len({len(percents) for percents in by_mode.values()}) == 1
    assert sum(len(percents) for percents in by_mode.values()) >= len(shares)
    for mode, months, share in shares:
        assert by_mode[mode][months] == pytest.approx(share, abs=0.051)
    for percents in by_mode.values():
        assert sum(percents) == pytest.approx(100, abs=0.5)


def test_shipping_cohorts_of_a_year_without_orders_are_none(tpch_reader: str) -> None:
    assert run(SCRIPTS / "shipping_cohorts.py", {"year": 2020}, dsn=tpch_reader) == []


def test_place_order_writes_order_and_lines(library: Library, tpch: str) -> None:
    lines = [{"part_id": 1, "quantity": 3}, {"part_id": 7, "quantity": 50}]
    with worker(library, tpch) as runner:
        placed = call(runner, "place_order", customer_id=CUSTOMER, lines=lines)
        seen = call(runner, "customer_overview", customer_id=CUSTOMER, limit=1)
    # Retail prices are 901.00 and 907.00; the tax is 8 %.
    total = Decimal("2703.00") * Decimal("1.08") + Decimal("45350.00") * Decimal("1.08")
    assert placed == {"order_id": 60001, "total": total}
    assert seen["last_orders"][0]["id"] == 60001
    assert seen["last_orders"][0]["total"] == total
    assert seen["last_orders"][0]["lines"] == 2
    assert rows(
        tpch,
        "SELECT o_custkey, o_totalprice, o_orderdate = current_date FROM orders"
        " WHERE o_orderkey = 60001",
    ) == [(CUSTOMER, total, True)]
    assert rows(
        tpch,
        "SELECT l_linenumber, l_partkey, l_quantity, l_extendedprice, ps_supplycost ="
        " (SELECT min(ps_supplycost) FROM partsupp WHERE ps_partkey = l_partkey)"
        " FROM lineitem JOIN partsupp ON (ps_partkey, ps_suppkey) ="
        " (l_partkey, l_suppkey) WHERE l_orderkey = 60001 ORDER BY 1",
    ) == [(1, 1, 3, Decimal("2703.00"), True), (2, 7, 50, Decimal("45350.00"), True)]


def test_place_order_takes_a_part_twice(library: Library, tpch: str) -> None:
    line = {"part_id": 1, "quantity": 1}
    with worker(library, tpch) as runner:
        placed = call(runner, "place_order", customer_id=1, lines=[line, line])
    assert placed["total"] == 2 * Decimal("973.08")


LINE = {"part_id": 1, "quantity": 1}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "unknown customer": ({"customer_id": 1501}, "there is no customer 1501"),
    "customer 0": ({"customer_id": 0}, "customer_id: .* >= 1"),
    "no customer": ({"customer_id": None}, "customer_id: Expected `?int"),
    "no lines": ({"lines": []}, "lines: .*length >= 1"),
    "too many lines": ({"lines": [LINE] * 101}, "lines: .*length <= 100"),
    "unknown part": (
        {"lines": [LINE, {"part_id": 2001, "quantity": 1}]},
        "there is no part 2001",
    ),
    "quantity 0": ({"lines": [LINE | {"quantity": 0}]}, r"lines\[.*quantity: .* >= 1"),
    "quantity 51": ({"lines": [LINE | {"quantity": 51}]}, r"quantity: .* <= 50"),
    "half a part": ({"lines": [LINE | {"quantity": 0.5}]}, r"quantity: Expected `?int"),
    "huge part": ({"lines": [LINE | {"part_id": 2**63}]}, r"part_id: .* <= "),
    "unknown field": ({"lines": [LINE | {"price": 1}]}, "unknown field `?price"),
    "missing field": ({"lines": [{"part_id": 1}]}, "missing required field `?quantity"),
    "one line bare": ({"lines": LINE}, "lines: Expected `?array"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_place_order_refuses(tpch_reader: str, case: str) -> None:
    wrong, message = REFUSED[case]
    params = {"customer_id": CUSTOMER, "lines": [LINE]} | wrong
    with pytest.raises(InvalidArgument, match=message):
        run(SCRIPTS / "place_order.py", params, dsn=tpch_reader)


def test_a_part_without_supplier_is_refused(library: Library, tpch: str) -> None:
    with psycopg.connect(tpch) as connection:
        connection.execute("DELETE FROM lineitem WHERE l_partkey = 1")
        connection.execute("DELETE FROM partsupp WHERE ps_partkey = 1")
    with (
        worker(library, tpch) as runner,
        pytest.raises(InvalidArgument, match="part 1 has no supplier"),
    ):
        call(runner, "place_order", customer_id=1, lines=[LINE])


def test_an_order_that_fails_half_way_leaves_nothing(
    library: Library, tpch: str
) -> None:
    with psycopg.connect(tpch) as connection:
        connection.execute("ALTER TABLE lineitem ADD CHECK (l_linenumber < 8)")
    with worker(library, tpch) as runner, pytest.raises(Exception, match="check") as e:
        call(runner, "place_order", customer_id=1, lines=[LINE] * 8)
    assert getattr(e.value, "code", None) == Code.UNKNOWN
    assert rows(tpch, "SELECT count(*) FROM orders") == [(15000,)]
    assert rows(tpch, "SELECT count(*) FROM lineitem") == [(60175,)]


def test_orders_at_the_same_time_get_different_keys(
    library: Library, tpch: str
) -> None:
    def place(_: int) -> list[int]:
        with worker(library, tpch) as runner:
            placed = [
                call(runner, "place_order", customer_id=CUSTOMER, lines=[LINE, LINE])
                for _ in range(10)
            ]
        return [order["order_id"] for order in placed]

    with ThreadPoolExecutor(4) as threads:
        keys = sorted(key for found in threads.map(place, range(4)) for key in found)
    assert len(set(keys)) == 40
    assert rows(
        tpch,
        "SELECT DISTINCT o_orderkey, count(*) OVER (PARTITION BY o_orderkey)"
        " FROM orders JOIN lineitem ON l_orderkey = o_orderkey"
        " WHERE o_orderkey > 60000 ORDER BY 1",
    ) == [(key, 2) for key in keys]


def overview(dsn: str, **params: Any) -> Any:
    return run(SCRIPTS / "customer_overview.py", params, dsn=dsn)

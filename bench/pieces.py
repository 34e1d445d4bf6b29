"""The three pieces of work in the database, the same for each peer.

All take psycopg's interface, be it a pool's connection or a script's `ctx.db`, and
return what JSON and msgpack carry alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import psycopg
from psycopg.rows import dict_row

ROWS = 100_000
READS = 20
AGGREGATED = 10_000
REGIONS = 7

TABLE = """
CREATE TABLE item AS
SELECT id, 'item ' || id AS name, 'region ' || id %% %(regions)s AS region,
       (id::bigint * 7919 %% 1000)::int AS quantity,
       ((id::bigint * 104729 %% 9973) / 8.0)::float8 AS price
FROM generate_series(0, %(rows)s - 1) AS id;
ALTER TABLE item ADD PRIMARY KEY (id);
"""
ONE = "SELECT id, name, region, quantity, price FROM item WHERE id = %s"
MANY = "SELECT region, quantity, price FROM item WHERE id >= %s AND id < %s"


def row(key: int) -> dict[str, Any]:
    """Return what is in a row, worked out without a database."""
    return {
        "id": key,
        "name": f"item {key}",
        "region": f"region {key % REGIONS}",
        "quantity": key * 7919 % 1000,
        "price": key * 104729 % 9973 / 8.0,
    }


def make_table(dsn: str) -> None:
    """Make the table, in a database that is ours."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        cursor = psycopg.ClientCursor(connection)
        cursor.execute(TABLE, {"regions": REGIONS, "rows": ROWS})
        cursor.execute("VACUUM ANALYZE item")
        cursor.execute("CHECKPOINT")


def one_row(db: Any, key: int) -> dict[str, Any]:
    """Read one row by its primary key."""
    row: dict[str, Any] = (
        db.cursor(row_factory=dict_row).execute(ONE, [key % ROWS]).fetchone()
    )
    return row


def gathered(db: Any, key: int) -> list[dict[str, Any]]:
    """Read 20 rows, one statement after the other, and return them together."""
    cursor = db.cursor(row_factory=dict_row)
    return [cursor.execute(ONE, [each]).fetchone() for each in spread(key)]


def pipelined(db: Any, key: int) -> list[dict[str, Any]]:
    """Read the same rows, sending all before the first answer is read."""
    with db.pipeline():
        cursors = [
            db.cursor(row_factory=dict_row).execute(ONE, [each]) for each in spread(key)
        ]
        return [cursor.fetchone() for cursor in cursors]


def spread(key: int) -> list[int]:
    """Return the keys of 20 rows."""
    return [(key + 4999 * number) % ROWS for number in range(READS)]


def aggregated(db: Any, key: int) -> dict[str, list[float]]:
    """Fetch 10,000 rows and sum them up in Python."""
    first = first_of(key)
    return summed(db.execute(MANY, [first, first + AGGREGATED]))


def first_of(key: int) -> int:
    """Return the first of 10,000 rows."""
    return key % (ROWS - AGGREGATED)


def summed(rows: Iterable[Sequence[Any]]) -> dict[str, list[float]]:
    """Sum up lines, items and turnover by region."""
    found: dict[str, list[float]] = {}
    for region, quantity, price in rows:
        sums = found.get(region)
        if sums is None:
            sums = found[region] = [0, 0, 0.0]
        sums[0] += 1
        sums[1] += quantity
        sums[2] += quantity * price
    return found


PIECES = {
    "one_row": one_row,
    "gathered": gathered,
    "pipelined": pipelined,
    "aggregated": aggregated,
}

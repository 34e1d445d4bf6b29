"""TPC-H query 1: prices, discounts and quantities of what was shipped."""

from typing import Annotated, Any

from msgspec import Meta
from psycopg.rows import dict_row

from falconas import Context, script

QUERY = """
SELECT l_returnflag, l_linestatus,
       sum(l_quantity) AS sum_qty,
       sum(l_extendedprice) AS sum_base_price,
       sum(l_extendedprice * (1 - l_discount)) AS sum_disc_price,
       sum(l_extendedprice * (1 - l_discount) * (1 + l_tax)) AS sum_charge,
       avg(l_quantity) AS avg_qty,
       avg(l_extendedprice) AS avg_price,
       avg(l_discount) AS avg_disc,
       count(*) AS count_order
FROM lineitem
WHERE l_shipdate <= date '1998-12-01' - %s::integer
GROUP BY l_returnflag, l_linestatus
ORDER BY l_returnflag, l_linestatus
"""


@script(access="read", budget=20.0)
def run(
    ctx: Context, delta_days: Annotated[int, Meta(ge=0, le=3000)] = 90
) -> list[dict[str, Any]]:
    """Sum up all lines shipped until `delta_days` before 1 December 1998.

    One row for each return flag and line status, under TPC-H's column names.

    Try: falconas call pricing_summary delta_days=60
    """
    return ctx.db.execute(QUERY, [delta_days], row_factory=dict_row).fetchall()

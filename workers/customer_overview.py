"""All that a service desk wants to see of one customer."""

from typing import Annotated, Any

from msgspec import Meta
from psycopg.rows import dict_row

from falconas import Context, InvalidArgument, script

CUSTOMER = """
SELECT c_custkey AS id, c_name AS name, c_mktsegment AS segment, c_phone AS phone,
       c_address AS address, n_name AS nation, r_name AS region, c_acctbal AS balance
FROM customer
JOIN nation ON n_nationkey = c_nationkey
JOIN region ON r_regionkey = n_regionkey
WHERE c_custkey = %s
"""

STATISTICS = """
SELECT count(*) AS count,
       count(*) FILTER (WHERE o_orderstatus = 'O') AS open,
       coalesce(sum(o_totalprice), 0) AS total,
       round(avg(o_totalprice), 2) AS average,
       min(o_orderdate) AS first, max(o_orderdate) AS last
FROM orders
WHERE o_custkey = %s
"""

LAST_ORDERS = """
SELECT o_orderkey AS id, o_orderdate AS date, o_orderstatus AS status,
       o_totalprice AS total, lines, quantity
FROM orders
CROSS JOIN LATERAL (
    SELECT count(*) AS lines, coalesce(sum(l_quantity), 0) AS quantity
    FROM lineitem
    WHERE l_orderkey = o_orderkey
) AS contents
WHERE o_custkey = %s
ORDER BY o_orderdate DESC, o_orderkey DESC
LIMIT %s
"""


@script(access="read", budget=5.0)
def run(
    ctx: Context, customer_id: int, limit: Annotated[int, Meta(ge=0, le=100)] = 5
) -> dict[str, Any]:
    """Master data, account balance, order statistics and last orders of a customer.

    Three queries in one snapshot, so that the figures fit together.

    Try: falconas call customer_overview customer_id=370
    """
    cursor = ctx.db.cursor(row_factory=dict_row)
    customer = cursor.execute(CUSTOMER, [customer_id]).fetchone()
    if customer is None:
        raise InvalidArgument(f"there is no customer {customer_id}")
    return {
        "customer": customer,
        "orders": cursor.execute(STATISTICS, [customer_id]).fetchone(),
        "last_orders": cursor.execute(LAST_ORDERS, [customer_id, limit]).fetchall(),
    }

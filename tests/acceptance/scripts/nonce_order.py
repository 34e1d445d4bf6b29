from typing import Any

import _witness

from falconas import Context, script

ORDER = """
INSERT INTO orders (o_custkey, o_orderstatus, o_totalprice, o_orderdate,
                    o_orderpriority, o_clerk, o_shippriority, o_comment)
VALUES (%s, 'O', 0, current_date, '3-MEDIUM', 'storm', 0, %s)
RETURNING o_orderkey
"""
LINE = """
INSERT INTO lineitem (
    l_orderkey, l_partkey, l_suppkey, l_linenumber, l_quantity, l_extendedprice,
    l_discount, l_tax, l_returnflag, l_linestatus, l_shipdate, l_commitdate,
    l_receiptdate, l_shipinstruct, l_shipmode, l_comment)
SELECT %s, ps_partkey, ps_suppkey, %s, 1, 1, 0, 0, 'N', 'O', current_date,
       current_date, current_date, 'NONE', 'TRUCK', ''
FROM partsupp WHERE ps_partkey = %s ORDER BY ps_suppkey LIMIT 1
"""


@script(access="write")
def run(ctx: Context, nonce: str, customer_id: int) -> dict[str, Any]:
    """Place an order over two tables that carries the nonce."""
    _witness.write("start", nonce, ctx)
    (key,) = ctx.db.execute(ORDER, [customer_id, nonce]).fetchall()[0]
    for number in range(1, 4):
        ctx.db.execute(LINE, [key, number, number])
    _witness.write("end", nonce, ctx)
    return {"nonce": nonce, "order": key}

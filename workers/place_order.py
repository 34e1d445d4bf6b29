"""Take an order: the example of a write over several tables."""

from decimal import Decimal
from typing import Annotated, Any

from msgspec import Meta, Struct

from falconas import Context, InvalidArgument, script

TAX = Decimal("0.08")
CENT = Decimal("0.01")

# Each wanted part with its price and its cheapest supplier, in the order given.
PRICES = """
SELECT number, part_id, ps_suppkey, quantity * p_retailprice
FROM unnest(%s::bigint[], %s::integer[])
    WITH ORDINALITY AS wanted (part_id, quantity, number)
LEFT JOIN part ON p_partkey = part_id
LEFT JOIN LATERAL (
    SELECT ps_suppkey
    FROM partsupp
    WHERE ps_partkey = part_id
    ORDER BY ps_supplycost, ps_suppkey
    LIMIT 1
) AS cheapest ON true
ORDER BY number
"""

# The identity column hands out keys: two orders at once never get the same one.
ORDER = """
INSERT INTO orders (o_custkey, o_orderstatus, o_totalprice, o_orderdate,
                    o_orderpriority, o_clerk, o_shippriority, o_comment)
VALUES (%s, 'O', %s, current_date, '3-MEDIUM', 'Clerk#000000000', 0, '')
RETURNING o_orderkey
"""

LINE = """
INSERT INTO lineitem (
    l_orderkey, l_partkey, l_suppkey, l_linenumber, l_quantity, l_extendedprice,
    l_discount, l_tax, l_returnflag, l_linestatus, l_shipdate, l_commitdate,
    l_receiptdate, l_shipinstruct, l_shipmode, l_comment)
VALUES (%s, %s, %s, %s, %s, %s, 0, %s, 'N', 'O', current_date + 14, current_date + 21,
        current_date + 28, 'NONE', 'TRUCK', '')
"""

Key = Annotated[int, Meta(ge=1, le=2**63 - 1)]


class Line(Struct, forbid_unknown_fields=True):
    """What is ordered of one part."""

    part_id: Key
    quantity: Annotated[int, Meta(ge=1, le=50)]


@script(access="write", budget=5.0)
def run(
    ctx: Context,
    customer_id: Key,
    lines: Annotated[list[Line], Meta(min_length=1, max_length=100)],
) -> dict[str, Any]:
    """Place an order of one or more lines for a customer; taxes are added.

    All of it is written, or nothing. An unknown customer or part, a quantity that is
    not 1 to 50 and an order without lines are refused.

    Try: falconas call place_order customer_id=370
    lines:='[{"part_id": 1, "quantity": 2}]'
    """
    # The lock keeps the customer from being deleted meanwhile, and nothing else.
    known = "SELECT FROM customer WHERE c_custkey = %s FOR KEY SHARE"
    if ctx.db.execute(known, [customer_id]).fetchone() is None:
        raise InvalidArgument(f"there is no customer {customer_id}")
    wanted = [line.part_id for line in lines], [line.quantity for line in lines]
    priced = ctx.db.execute(PRICES, wanted).fetchall()
    for _, part_id, supplier_id, price in priced:
        if price is None:
            raise InvalidArgument(f"there is no part {part_id}")
        if supplier_id is None:
            raise InvalidArgument(f"part {part_id} has no supplier")
    prices: list[Decimal] = [row[-1] for row in priced]
    total = sum(((price * (1 + TAX)).quantize(CENT) for price in prices), Decimal(0))
    (order_id,) = ctx.db.execute(ORDER, [customer_id, total]).fetchall()[0]
    ctx.db.executemany(
        LINE,
        [
            (order_id, part_id, supplier_id, number, line.quantity, price, TAX)
            for line, (number, part_id, supplier_id, price) in zip(
                lines, priced, strict=True
            )
        ],
    )
    return {"order_id": order_id, "total": total}

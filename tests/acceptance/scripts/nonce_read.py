from typing import Any

import _witness

from falconas import Context, script

QUERY = """
SELECT count(*), sum(o_totalprice) FROM orders WHERE o_custkey BETWEEN %s AND %s + 300
"""


@script(access="read")
def run(ctx: Context, nonce: str, customer_id: int) -> dict[str, Any]:
    """Aggregate orders of some customers."""
    _witness.write("start", nonce, ctx)
    row = ctx.db.execute(QUERY, [customer_id, customer_id]).fetchone()
    _witness.write("end", nonce, ctx)
    return {"nonce": nonce, "orders": row}

from typing import Any

import _witness
import place_order

from falconas import Context, script


@script(access="write")
def run(ctx: Context, nonce: str, customer_id: int) -> dict[str, Any]:
    """Place an order as the example script does, and let it carry the nonce."""
    _witness.write("start", nonce, ctx)
    lines = [place_order.Line(part_id=n, quantity=n) for n in range(1, 4)]
    placed = place_order.run(ctx, customer_id, lines)
    ctx.db.execute(
        "UPDATE orders SET o_clerk = 'storm', o_comment = %s WHERE o_orderkey = %s",
        [nonce, placed["order_id"]],
    )
    _witness.write("end", nonce, ctx)
    return {"nonce": nonce, **placed}

from typing import Any

import _witness
import customer_overview
import shipping_cohorts

from falconas import Context, script


@script(access="read")
def run(ctx: Context, nonce: str, customer_id: int) -> dict[str, Any]:
    """Run one of the example scripts that read."""
    _witness.write("start", nonce, ctx)
    value: Any
    if customer_id % 10:
        value = customer_overview.run(ctx, customer_id)["orders"]
    else:
        value = shipping_cohorts.run(ctx, 1992 + customer_id // 10 % 7)
    _witness.write("end", nonce, ctx)
    return {"nonce": nonce, "value": value}

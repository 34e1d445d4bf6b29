"""What the neighbours of the zoo serve."""

from falconas import Context, script


@script(access="read")
def honest(ctx: Context, nonce: int) -> int:
    row = ctx.db.execute("SELECT %s::bigint", [nonce]).fetchone()
    assert row is not None
    found: int = row[0]
    return found

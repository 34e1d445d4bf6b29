"""Runs on node 2, as group "second" says."""

from falconas import Context, script


@script(access="read")
def run(ctx: Context) -> dict[str, object]:
    """Return which node and backend this is, and how many visits it knows of."""
    row = ctx.db.execute("SELECT pg_backend_pid(), count(*) FROM visit").fetchone()
    assert row is not None
    return {"node": ctx.node, "backend": row[0], "visits": row[1]}

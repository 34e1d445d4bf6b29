"""Runs on node 1, as group "first" says."""

from falconas import Context


def run(ctx: Context) -> dict[str, object]:
    """Write down which node and backend this is, and return it."""
    row = ctx.db.execute(
        "INSERT INTO visit (node, backend) VALUES (%s, pg_backend_pid())"
        " RETURNING backend",
        [ctx.node],
    ).fetchone()
    return {"node": ctx.node, "backend": row[0] if row else None}

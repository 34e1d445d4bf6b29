"""What the scripts of the zoo leave in the database when they are committed."""

from falconas import Context


def leave(ctx: Context) -> None:
    ctx.db.execute("INSERT INTO traces VALUES (%s)", [ctx.script])

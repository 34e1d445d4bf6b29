"""One of the pieces of work, as a script."""

from typing import Any

from bench import pieces
from falconas import Context, script


@script(access="read")
def run(ctx: Context, key: int) -> Any:
    return pieces.pipelined(ctx.db, key)

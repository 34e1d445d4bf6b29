"""Mostly short, now and then long, as the caller says."""

import time

from falconas import Context, script


@script(access="read")
def run(ctx: Context, seconds: float) -> float:  # noqa: ARG001
    """Take so long."""
    time.sleep(seconds)
    return seconds

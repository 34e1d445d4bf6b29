"""Return the value as it came: the shortest script, and the one to measure with."""

from typing import Any

from falconas import Context, script


@script(access="read")
def run(ctx: Context, value: Any = None) -> Any:  # noqa: ARG001
    """Return the value as it came; the database is not touched.

    Try: falconas call echo value=hello
    """
    return value

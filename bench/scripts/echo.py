"""The shortest script."""

from typing import Any

from falconas import Context, script


@script(access="read")
def run(ctx: Context, value: Any) -> Any:  # noqa: ARG001
    return value

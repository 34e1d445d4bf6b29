"""Scripts whose errors should not be repeated as they are."""

import os

from _zoo.trace import leave

from falconas import Context

CANARY = "canary-7f3a"  # not in the lines that a trace shows


class Spiteful(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def secret_in_the_text(ctx: Context) -> None:
    leave(ctx)
    password = CANARY
    raise ValueError(f"cannot reach postgresql://app:{password}@db/shop")


def secret_in_a_conninfo(ctx: Context) -> None:
    leave(ctx)
    password = CANARY
    raise ValueError(f"cannot reach host=db password={password} dbname=shop")


def values_of_a_row(ctx: Context) -> None:
    """Make PostgreSQL write a value into its DETAIL."""
    leave(ctx)
    ctx.db.execute("CREATE TEMP TABLE people (name text PRIMARY KEY)")
    for _ in range(2):
        ctx.db.execute("INSERT INTO people VALUES ('Rumpelstilzchen')")


def ten_megabytes(ctx: Context) -> None:
    leave(ctx)
    raise ValueError("x" * 10_000_000)


def not_utf8(ctx: Context) -> None:
    leave(ctx)
    raise ValueError(os.fsdecode(b"\xff\xfe") + "\ud800")


def bytes_in_the_text(ctx: Context) -> None:
    leave(ctx)
    raise ValueError(b"\xff\xfe")


def error_without_text(ctx: Context) -> None:
    leave(ctx)
    raise Spiteful

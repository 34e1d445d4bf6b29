"""What is asked for: echoes of three sizes, and the three pieces of database work.

Every reply is checked by whoever sent the request: an echo must be what was sent, byte
by byte, a row must be that of the key, a sum must have seen all rows.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

from bench.pieces import AGGREGATED, row, spread


class Work(NamedTuple):
    """One kind of request.

    Attributes:
        title: For people.
        size: Bytes of the value of an echo, 0 for work in the database.
        outstanding: How many requests are kept on their way.
    """

    title: str
    size: int = 0
    outstanding: tuple[int, ...] = (1, 8, 64)


WORKS = {
    "echo": Work("Echo of 100 bytes", 100),
    "echo_10k": Work("Echo of 10 KB", 10_000),
    "echo_1m": Work("Echo of 1 MB", 1_000_000, (1, 16)),
    "one_row": Work("One row, by its primary key"),
    "gathered": Work("20 such reads, one answer"),
    "pipelined": Work("20 such reads in a pipeline (asyncpg: has none)"),
    "aggregated": Work("10,000 rows aggregated in Python"),
}
ECHOES = frozenset(name for name, work in WORKS.items() if work.size)
DATABASE = frozenset(WORKS) - ECHOES
PAYLOADS = 97


class Mismatch(Exception):
    """A reply is not the answer to the request."""


@cache
def _payloads(work: str) -> list[bytes]:
    size = WORKS[work].size
    return [(b"%08d" % number).ljust(size, b"x") for number in range(PAYLOADS)]


def payload(work: str, key: int) -> bytes:
    """Return what is to be echoed; it differs from one key to the next.

    Made once: to make a megabyte for each request would be most of a client's work.
    """
    return _payloads(work)[key % PAYLOADS]


def check(work: str, key: int, value: Any) -> None:
    """Raise unless the value is the answer.

    Raises:
        Mismatch: It is not.
    """
    if work == "one_row":
        right = value == row(key)
    elif work in {"gathered", "pipelined"}:
        keys = spread(key)
        right = [each["id"] for each in value] == keys and value[-1] == row(keys[-1])
    else:
        right = sum(sums[0] for sums in value.values()) == AGGREGATED
    if not right:
        raise Mismatch(f"{work} of {key} gave {str(value)[:200]}")

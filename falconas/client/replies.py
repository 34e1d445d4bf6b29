"""What a broker's messages tell besides the verdicts: values, limits, positions."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Any

from falconas import codec
from falconas.errors import InvalidArgument

# Far more than anybody has; a broker gone mad must not fill our requests.
DATABASES = 64
_END = 1 << 64

Lsn = Mapping[str, int]


class Positions:
    """Up to where in the logs of their databases a client's requests must see.

    Args:
        follow: Take it from the replies to this client's own writes as well.
    """

    def __init__(self, *, follow: bool = False) -> None:
        self.follow = follow
        self._seen: Lsn = {}  # never changed, only replaced: calls hold on to it

    @property
    def seen(self) -> dict[str, int]:
        """The highest positions that replies told, by database; a copy."""
        return dict(self._seen)

    def learn(self, info: dict[str, Any]) -> None:
        """Take in the extras of a reply."""
        told = info.get("lsn") if self.follow else None
        if told and _is_lsn(told) and len(self._seen.keys() | told.keys()) <= DATABASES:
            self._seen = _highest(self._seen, told)

    def wanted(self, min_lsn: Lsn | None) -> Lsn:
        """Return what a request asks for, of which its caller named `min_lsn`.

        Raises:
            InvalidArgument: `min_lsn` is no map of databases to positions.
        """
        if min_lsn is None:
            return self._seen
        if not _is_lsn(min_lsn):
            raise InvalidArgument(
                "min_lsn must be a map of databases to positions, such as the lsn of a"
                f" client or of a reply, got {ascii(min_lsn)[:80]}"
            )
        return _highest(self._seen, min_lsn)


def positive(limits: Any, name: str, default: float = inf) -> float:
    """Return one of the limits that a WELCOME tells."""
    value = limits.get(name) if isinstance(limits, dict) else None
    return float(value) if isinstance(value, int | float) and value > 0 else default


def value_of(body: bytes) -> Any:
    """Return what a body holds, None if it cannot be read."""
    try:
        return codec.decode_value(body)
    except ValueError:
        return None


def _is_lsn(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        type(name) is str and type(lsn) is int and 0 <= lsn < _END
        for name, lsn in value.items()
    )


def _highest(one: Lsn, other: Lsn) -> Lsn:
    if all(one.get(name, -1) >= lsn for name, lsn in other.items()):
        return one
    names = one.keys() | other.keys()
    return {name: max(one.get(name, 0), other.get(name, 0)) for name in names}

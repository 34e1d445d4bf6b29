from __future__ import annotations

import pytest

from falconas.database.unserved import Behind, Refused, SessionLost, Unserved


@pytest.mark.parametrize(
    ("kind", "reason", "extras"),
    [
        (SessionLost, "no database connection", {}),
        (Refused, "read-only", {"refused": True}),
        (Behind, "behind", {"behind": True}),
    ],
)
def test_each_tells_the_broker_why(
    kind: type[Unserved], reason: str, extras: dict[str, bool]
) -> None:
    error = kind("the text is for people")
    assert (error.reason, error.extras) == (reason, extras)


def test_whoever_refuses_writes_needs_a_new_connection_too() -> None:
    assert issubclass(Refused, SessionLost)

from __future__ import annotations

import pytest

from falconas.client.verdict import Verdict
from falconas.errors import Aborted, Internal, Started
from falconas.protocol import EXTRAS_DEPTH, Reply, Welcome, encode


def test_a_verdict_gives_its_value_or_raises_its_error() -> None:
    assert Verdict(b"\x07", None, {}).value() == 7
    assert Verdict(b"", None, {}).value() is None
    error = Aborted("deadlock", started=Started.YES)
    with pytest.raises(Aborted) as caught:
        Verdict(b"\x07", error, {}).value()
    assert caught.value is error


def test_a_value_that_cannot_be_read_is_an_internal_error() -> None:
    with pytest.raises(Internal, match="cannot be read") as caught:
        Verdict(b"\xc1", None, {}).value()
    assert caught.value.started is Started.YES


def test_what_it_tells_is_read_when_asked_for() -> None:
    assert Verdict(b"", None, {"verdict": "client"}).info == {"verdict": "client"}
    header = encode(Reply(bytes(16), 0, 0, {"node": "n1", "run_us": 7}))
    assert Verdict(b"", None, header).info == {"node": "n1", "run_us": 7}


def nested(depth: int) -> object:
    return [nested(depth - 1)] if depth else 1


@pytest.mark.parametrize(
    "header",
    [
        encode(Reply(bytes(16), 0, 0, {}))[:-1],
        encode(Reply(bytes(16), 0, 0, {}))[:-1] + b"\xc1",
        encode(Reply(bytes(16), 0, 0, {"deep": nested(EXTRAS_DEPTH + 1)})),
        encode(Welcome(bytes(16), b"", 0.0, {"node": "n1"})),
    ],
)
def test_what_is_not_of_the_protocol_tells_nothing(header: bytes) -> None:
    assert Verdict(b"", None, header).info == {}

"""The operator's questions at a control endpoint that the test plays."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import zmq

from falconas import codec
from falconas.client.operator import Operator
from falconas.errors import Code, Internal, Started, Unavailable
from falconas.protocol import CONTROL, Drain, Inspect, Kind, Reply, decode, encode

Answer = Callable[[Inspect | Drain], list[tuple[bytes, ...]]]


@contextmanager
def control(answer: Answer) -> Iterator[str]:
    """Answer one message with what `answer` makes of it."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        port = router.bind_to_random_port("tcp://127.0.0.1")

        def serve() -> None:
            if router.poll(10_000):
                identity, header, _ = router.recv_multipart()
                for frames in answer(decode(header, CONTROL)):
                    router.send_multipart((identity, *frames))

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"tcp://127.0.0.1:{port}"
        thread.join()


def ok(id_: bytes | str, value: object) -> tuple[bytes, bytes]:
    header = encode(Reply(id_, Kind.OK, Code.OK, {}))
    return header, codec.encode_value(value)


def test_inspect_returns_the_report() -> None:
    asked = []

    def answer(message: Inspect | Drain) -> list[tuple[bytes, ...]]:
        asked.append(type(message))
        return [ok(message.id, {"clients": 1})]

    with control(answer) as endpoint:
        assert Operator(endpoint).inspect() == {"clients": 1}
    assert asked == [Inspect]


def test_drain_waits_for_the_answer() -> None:
    asked = []

    def answer(message: Inspect | Drain) -> list[tuple[bytes, ...]]:
        asked.append(type(message))
        return [ok(message.id, None)]

    with control(answer) as endpoint:
        Operator(endpoint).drain()
    assert asked == [Drain]


def test_what_is_not_the_reply_is_passed_over() -> None:
    def answer(message: Inspect | Drain) -> list[tuple[bytes, ...]]:
        right = ok(message.id, {"clients": 1})
        return [(b"\xc1", b""), (b"",), ok(b"another", 2), right]

    with control(answer) as endpoint:
        assert Operator(endpoint).inspect() == {"clients": 1}


def test_an_error_is_raised() -> None:
    def answer(message: Inspect | Drain) -> list[tuple[bytes, ...]]:
        body = codec.encode_value(Internal("broken").body())
        return [(encode(Reply(message.id, Kind.ERROR, Code.INTERNAL, {})), body)]

    with control(answer) as endpoint, pytest.raises(Internal, match="broken"):
        Operator(endpoint).inspect()


def test_without_a_broker_the_endpoint_is_named(unused_endpoint: str) -> None:
    with pytest.raises(Unavailable, match=rf"^no broker at {unused_endpoint} after"):
        Operator(unused_endpoint, timeout=0.05).inspect()


def test_a_silent_broker_may_have_heard_it() -> None:
    with (
        control(lambda _: []) as endpoint,
        pytest.raises(Unavailable, match="no answer from") as caught,
    ):
        Operator(endpoint, timeout=0.5).drain()
    assert caught.value.started is Started.UNKNOWN
    assert caught.value.retry_safe


def test_an_endpoint_that_is_none_is_named() -> None:
    with pytest.raises(ValueError, match="a broker's endpoint is like"):
        Operator("5572").inspect()

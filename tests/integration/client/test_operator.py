"""The operator's questions at a control endpoint that the test plays."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import zmq

from falconas import codec
from falconas.client.operator import Operator, Reloaded
from falconas.errors import (
    Code,
    DeadlineExceeded,
    Internal,
    NotFound,
    Started,
    Unavailable,
)
from falconas.protocol import (
    CONTROL,
    Drain,
    Inspect,
    Kind,
    Reload,
    Reply,
    decode,
    encode,
)

Question = Inspect | Drain | Reload
Answer = Callable[[Question], list[tuple[bytes, ...]]]


@contextmanager
def control(answer: Answer, times: int = 1) -> Iterator[str]:
    """Answer so many messages, each with what `answer` makes of it."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        port = router.bind_to_random_port("tcp://127.0.0.1")

        def serve() -> None:
            for _ in range(times):
                assert router.poll(10_000)
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

    def answer(message: Question) -> list[tuple[bytes, ...]]:
        asked.append(type(message))
        return [ok(message.id, {"clients": 1})]

    with control(answer) as endpoint:
        assert Operator(endpoint).inspect() == {"clients": 1}
    assert asked == [Inspect]


def test_drain_waits_for_the_answer() -> None:
    asked = []

    def answer(message: Question) -> list[tuple[bytes, ...]]:
        asked.append(type(message))
        return [ok(message.id, None)]

    with control(answer) as endpoint:
        Operator(endpoint).drain()
    assert asked == [Drain]


def test_what_is_not_the_reply_is_passed_over() -> None:
    def answer(message: Question) -> list[tuple[bytes, ...]]:
        right = ok(message.id, {"clients": 1})
        return [(b"\xc1", b""), (b"",), ok(b"another", 2), right]

    with control(answer) as endpoint:
        assert Operator(endpoint).inspect() == {"clients": 1}


def test_an_error_is_raised() -> None:
    def answer(message: Question) -> list[tuple[bytes, ...]]:
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


class Host:
    """A broker with one host, whose supervisor does what it is told step by step."""

    def __init__(self, *steps: dict[str, Any] | None) -> None:
        self.epoch = "e1"
        self.heard: list[Question] = []
        self._steps = list(steps)

    def __call__(self, message: Question) -> list[tuple[bytes, ...]]:
        if isinstance(message, Inspect):
            return [ok(message.id, self._report())]
        self.heard.append(message)
        return [ok(message.id, {"hosts": ["a"]})]

    def _report(self) -> dict[str, Any]:
        step = self._steps.pop(0)
        known: list[dict[str, Any]] = []
        if step is not None:
            own = {"host": "a", "pid": 7, "manifest": "m1", "reload": None}
            told = [m.id for m in self.heard if isinstance(m.id, bytes)]
            if "state" in step:
                step["reload"] = {"id": told[0].hex(), "state": step["state"]}
            known = [own | step]
        return {"epoch": self.epoch, "supervisors": known}


def test_a_reload_is_followed_to_its_end() -> None:
    host = Host({}, {"state": "loading"}, {"state": "done", "manifest": "m2"})
    with control(host, 4) as endpoint:
        results = Operator(endpoint).reload()

    assert results == [Reloaded("a", 7, "done", "m1", "m2", "")]
    (told,) = host.heard
    assert (type(told), told.extras) == (Reload, {})


def test_a_reload_of_one_host_names_it() -> None:
    host = Host({}, {"state": "failed"})
    with control(host, 3) as endpoint:
        (result,) = Operator(endpoint).reload("a")

    assert result.result == "failed"
    assert [message.extras for message in host.heard] == [{"host": "a"}]


def test_a_reload_that_does_not_end_is_unknown() -> None:
    with control(Host({}, {"state": "rolling"}), 3) as endpoint:
        (result,) = Operator(endpoint).reload(wait=0.0)

    assert (result.result, result.reason) == ("unknown", "still rolling")


def test_a_host_that_is_not_there_is_an_error() -> None:
    def answer(message: Question) -> list[tuple[bytes, ...]]:
        if isinstance(message, Inspect):
            return [ok(message.id, {"supervisors": []})]
        body = codec.encode_value(NotFound("there is no host b").body())
        return [(encode(Reply(message.id, Kind.ERROR, Code.NOT_FOUND, {})), body)]

    with control(answer, 2) as endpoint, pytest.raises(NotFound, match="no host b"):
        Operator(endpoint).reload("b")


def test_a_drained_host_has_left() -> None:
    host = Host({}, {"draining": True}, None)
    with control(host, 4) as endpoint:
        assert Operator(endpoint).drain("a", wait=60.0) == ["a"]

    assert [message.extras for message in host.heard] == [{"host": "a"}]


def test_a_new_supervisor_of_a_drained_host_is_another_one() -> None:
    with control(Host({}, {"pid": 8}), 3) as endpoint:
        assert Operator(endpoint).drain("a", wait=60.0) == ["a"]


def test_a_drain_that_does_not_end_is_said() -> None:
    with (
        control(Host({}, {}), 3) as endpoint,
        pytest.raises(DeadlineExceeded, match="it still drains after 0 s") as caught,
    ):
        Operator(endpoint).drain("a", wait=1e-9)
    assert caught.value.started is Started.YES


def test_a_drained_broker_is_gone() -> None:
    with control(Host({}), 2) as endpoint:
        before = Operator(endpoint).inspect()
        Operator(endpoint).drain()

    assert Operator(endpoint, timeout=0.05)._until(
        lambda report: report.get("epoch") != before["epoch"], 60.0
    )


def test_a_drained_broker_may_have_a_successor() -> None:
    host = Host({}, {}, {})

    def answer(message: Question) -> list[tuple[bytes, ...]]:
        if isinstance(message, Drain):
            host.epoch = "e2"
        return host(message)

    with control(answer, 3) as endpoint:
        assert Operator(endpoint).drain(wait=60.0) == []


def test_a_broker_that_goes_without_an_answer_is_drained() -> None:
    host = Host({}, {})

    def answer(message: Question) -> list[tuple[bytes, ...]]:
        if isinstance(message, Drain):
            host.epoch = "e2"
            return []
        return host(message)

    with control(answer, 3) as endpoint:
        assert Operator(endpoint, timeout=0.5).drain(wait=60.0) == []

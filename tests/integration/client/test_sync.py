"""The client for threads, against a broker that the test plays."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from time import monotonic
from typing import TYPE_CHECKING

import pytest

from falconas.client.sync import TURN, Client
from falconas.errors import (
    Aborted,
    Cancelled,
    InvalidArgument,
    ResourceExhausted,
    Started,
    Unavailable,
)
from falconas.protocol import Cancel, Catalogue, Request

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.client.conftest import Broker


@pytest.fixture
def client(broker: Broker) -> Iterator[Client]:
    with Client(broker.endpoint) as client:
        broker.expect_hello()
        yield client


def test_call_returns_the_result(client: Client, broker: Broker) -> None:
    with broker.echoing():
        assert client.call("echo", {"value": Decimal("1.50")}) == {
            "value": Decimal("1.50")
        }
        assert client.call("echo") == {}


def test_submit_returns_at_once_and_the_call_tells_all(
    client: Client, broker: Broker
) -> None:
    call = client.submit("echo", {"value": 1}, budget=5.0)
    assert not call.done()
    assert call.info == {}
    request, params = broker.expect(Request)
    assert request.id == call.id
    assert request.budget is not None
    assert 4.0 < request.budget <= 5.0
    assert request.extras == {"accept": ["ext"]}
    assert params == {"value": 1}
    broker.reply(request.id, "one", worker="host/0", run_us=7)
    assert call.result(5) == "one"
    assert call.result() == "one"
    assert call.done()
    assert call.info == {"worker": "host/0", "run_us": 7}


def test_an_error_is_raised_as_often_as_asked(client: Client, broker: Broker) -> None:
    call = client.submit("place_order")
    request, _ = broker.expect(Request)
    broker.refuse(request.id, Aborted("deadlock", started=Started.YES), node="n1")
    for _ in range(2):
        with pytest.raises(Aborted, match="deadlock") as caught:
            call.result(5)
    assert caught.value.started is Started.YES
    assert call.info == {"node": "n1"}


def test_a_timeout_ends_the_wait_and_not_the_call(
    client: Client, broker: Broker
) -> None:
    call = client.submit("echo")
    request, _ = broker.expect(Request)
    for timeout in (0, -1, 0.01):
        with pytest.raises(TimeoutError, match="the call goes on"):
            call.result(timeout)
    broker.reply(request.id, 1)
    assert call.result(1e12) == 1


def test_cancel_is_sent_and_the_broker_decides(client: Client, broker: Broker) -> None:
    call, late = client.submit("echo"), client.submit("echo")
    first, _ = broker.expect(Request)
    second, _ = broker.expect(Request)
    call.cancel()
    assert broker.expect(Cancel)[0].id == first.id
    late.cancel()
    assert broker.expect(Cancel)[0].id == second.id
    broker.refuse(first.id, Cancelled())
    broker.reply(second.id, "too late")
    with pytest.raises(Cancelled):
        call.result(5)
    assert late.result(5) == "too late"
    call.cancel()


def test_what_cannot_be_sent_is_refused_at_once(client: Client) -> None:
    with pytest.raises(InvalidArgument, match="parameter value"):
        client.submit("echo", {"value": object()})
    with pytest.raises(InvalidArgument, match="mapping"):
        client.submit("echo", [])  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="name"):
        client.submit("../echo")
    assert client.stats().get("accepted", 0) == 0


def test_scripts_returns_the_catalogue(client: Client, broker: Broker) -> None:
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(client.scripts)
        question, _ = broker.expect(Catalogue)
        assert question.extras == {}
        broker.reply(question.id, {"scripts": {"echo": {"access": "read"}}})
        assert asked.result(5) == {"echo": {"access": "read"}}


def test_many_threads_get_their_own_results(client: Client, broker: Broker) -> None:
    def work(thread: int) -> bool:
        calls = [client.submit("echo", {"n": [thread, n]}) for n in range(100)]
        return all(
            call.result(20) == {"n": [thread, n]} for n, call in enumerate(calls)
        )

    with broker.echoing(), ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))
    assert client.stats()["replies"] == 800


def test_a_session_of_many_threads_asks_for_what_any_of_them_has_written(
    broker: Broker,
) -> None:
    with Client(broker.endpoint, session=True) as client:
        broker.expect_hello()
        calls = [client.submit("place_order") for _ in range(8)]
        asked = [broker.expect(Request)[0] for _ in calls]
        with ThreadPoolExecutor(8) as pool:
            waiting = [pool.submit(call.result, 5) for call in calls]
            for lsn, request in enumerate(asked, 100):
                broker.reply(request.id, None, lsn={"main": lsn, f"s{lsn}": 1})
            assert [future.result(5) for future in waiting] == [None] * 8
        assert client.lsn["main"] == 107
        assert len(client.lsn) == 9
        client.lsn.clear()  # a copy
        with ThreadPoolExecutor(4) as pool:
            for _ in range(4):
                pool.submit(client.submit, "echo", min_lsn={"main": 1})
            for _ in range(4):
                request, _ = broker.expect(Request)
                assert request.extras["min_lsn"]["main"] == 107


def test_without_a_session_only_the_call_says_what_it_must_see(
    client: Client, broker: Broker
) -> None:
    call = client.submit("place_order", min_lsn={"main": 5})
    request, _ = broker.expect(Request)
    assert request.extras["min_lsn"] == {"main": 5}
    broker.reply(request.id, None, lsn={"main": 7})
    call.result(5)
    assert call.info["lsn"] == {"main": 7}
    assert client.lsn == {}
    with pytest.raises(InvalidArgument, match="min_lsn"):
        client.call("echo", min_lsn={"main": "0/5"})  # type: ignore[dict-item]


def test_the_thread_sleeps_when_nothing_is_to_be_done(
    client: Client, broker: Broker
) -> None:
    with broker.echoing():
        client.call("echo")
    deadline = monotonic() + 5.0
    while select.select([client._io._ear], [], [], 0)[0]:
        assert monotonic() < deadline, "woken for ever"


def test_several_threads_may_wait_for_one_call(client: Client, broker: Broker) -> None:
    call = client.submit("echo")
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(call.result) for _ in range(4)]
        broker.reply(broker.expect(Request)[0].id, 1)
        assert [future.result(5) for future in waiting] == [1, 1, 1, 1]


def test_outstanding_calls_are_bounded(broker: Broker) -> None:
    with Client(broker.endpoint, outstanding=2) as client:
        client.submit("echo")
        client.submit("echo")
        with pytest.raises(ResourceExhausted):
            client.submit("echo")


def test_without_a_broker_a_call_ends_at_its_deadline(unused_endpoint: str) -> None:
    with Client(unused_endpoint, budget=0.1) as client:
        for call in (client.submit("echo"), client.submit("echo", budget=0.05)):
            with pytest.raises(Unavailable, match=f"no broker at {unused_endpoint}"):
                call.result(5)
        assert call.info == {"verdict": "client"}


def test_calls_made_before_the_broker_starts_are_kept(broker: Broker) -> None:
    broker.stop()
    with Client(broker.endpoint) as client:
        call = client.submit("echo")
        broker.start()
        broker.reply(broker.expect(Request)[0].id, 1)
        assert call.result(5) == 1


def test_a_restarted_broker_gets_idempotent_calls_again(
    client: Client, broker: Broker
) -> None:
    calls = {script: client.submit(script) for script in ("echo", "place_order")}
    first = [broker.expect(Request)[0] for _ in calls]
    broker.restart()
    again, _ = broker.expect(Request)
    assert again.script == "echo"
    assert again.id not in {request.id for request in first}
    broker.reply(again.id, 1)
    assert calls["echo"].result(5) == 1
    assert calls["echo"].id == again.id
    with pytest.raises(Unavailable, match="outcome is unknown") as caught:
        calls["place_order"].result(5)
    assert caught.value.started is Started.UNKNOWN
    assert not caught.value.retry_safe


def test_the_same_broker_still_answers_after_an_interruption(
    client: Client, broker: Broker
) -> None:
    call = client.submit("place_order")
    request, _ = broker.expect(Request)
    broker.stop()
    broker.held = [call.id]
    broker.start()
    broker.expect_hello()
    broker.reply(request.id, 1)
    assert call.result(5) == 1


def test_a_lost_broker_is_reported_long_before_the_deadline(
    client: Client, broker: Broker
) -> None:
    calls = [client.submit(script) for script in ("echo", "place_order")]
    for _ in calls:
        broker.expect(Request)
    broker.stop()
    for call, safe in zip(calls, (True, False), strict=True):
        with pytest.raises(Unavailable) as caught:
            call.result(5)
        assert caught.value.started is Started.UNKNOWN
        assert caught.value.retry_safe is safe
        assert call.info == {"verdict": "client"}
    broker.start()


def test_close_cancels_what_is_outstanding(broker: Broker) -> None:
    client = Client(broker.endpoint)
    broker.expect_hello()
    call = client.submit("echo")
    request, _ = broker.expect(Request)
    client.close()
    client.close()
    with pytest.raises(Cancelled, match="the client was closed") as caught:
        call.result(5)
    assert caught.value.started is Started.UNKNOWN
    assert broker.expect(Cancel)[0].id == request.id
    with pytest.raises(RuntimeError, match="the client is closed"):
        client.call("echo")
    call.cancel()


def test_close_cancels_all_of_many_calls(broker: Broker) -> None:
    client = Client(broker.endpoint)
    broker.expect_hello()
    for _ in range(350):
        client.submit("echo")
    sent = {broker.expect(Request)[0].id for _ in range(350)}
    client.close()
    assert {broker.expect(Cancel)[0].id for _ in range(350)} == sent


def test_a_silent_broker_does_not_keep_a_cancelled_call(
    client: Client, broker: Broker
) -> None:
    call = client.submit("place_order", budget=600.0)
    broker.expect(Request)
    call.cancel()
    with pytest.raises(Cancelled, match="no word of it") as caught:
        call.result(10)
    assert caught.value.started is Started.UNKNOWN
    assert call.info == {"verdict": "client"}


def test_the_broker_is_told_to_cancel_with_the_client(broker: Broker) -> None:
    with Client(broker.endpoint, cancel_on_disconnect=True) as client:
        client.submit("echo")
        assert broker.expect(Request)[0].extras["cancel_on_disconnect"] is True
        client.submit("echo", cancel_on_disconnect=False)
        assert "cancel_on_disconnect" not in broker.expect(Request)[0].extras


def test_a_fault_in_the_thread_ends_the_calls(
    client: Client, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = client.submit("echo")
    broker.expect(Request)

    def fail(_: object) -> bool:
        raise RuntimeError("bug")

    monkeypatch.setattr(client._io._link, "_look", fail)
    client.submit("echo")
    with pytest.raises(Cancelled, match="the client failed: bug"):
        call.result(5)
    with pytest.raises(RuntimeError, match="the client is closed"):
        client.call("echo")
    monkeypatch.undo()


def test_ctrl_c_cancels_the_call(client: Client, broker: Broker) -> None:
    def interrupt() -> None:
        broker.expect(Request)
        os.kill(os.getpid(), signal.SIGINT)

    with ThreadPoolExecutor() as pool:
        pool.submit(interrupt)
        with pytest.raises(KeyboardInterrupt):
            client.call("echo")
        broker.expect(Cancel)


def test_an_invalid_endpoint_or_budget_leaves_nothing_behind() -> None:
    with pytest.raises(ValueError, match="a broker's endpoint"):
        Client("localhost")
    with pytest.raises(InvalidArgument, match="budget"):
        Client(budget=float("nan"))


def test_a_forgotten_client_warns_and_ends_its_thread(broker: Broker) -> None:
    clients = [Client(broker.endpoint)]
    broker.expect_hello()
    thread = clients[0]._io._thread
    with pytest.warns(ResourceWarning, match="unclosed"):
        clients.clear()
    thread.join(5)
    assert not thread.is_alive()


FORGETFUL = """
import sys
from falconas.client.sync import Client
client = Client(sys.argv[1])
call = client.submit("echo")
print("end", flush=True)
"""


def test_a_forgotten_client_does_not_keep_the_interpreter(broker: Broker) -> None:
    program = [sys.executable, "-c", FORGETFUL, broker.endpoint]
    done = subprocess.run(
        program, timeout=20, capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("end\n", "")


FORKED = """
import os, sys
from falconas.client.sync import Client
with Client(sys.argv[1]) as client:
    call = client.submit("echo")
    child = os.fork()
    if child == 0:
        for use in (call.result, call.cancel, lambda: client.call("echo")):
            try:
                use()
            except RuntimeError as error:
                print(error, flush=True)
        client.close()
        sys.exit()
    os.waitpid(child, 0)
    print(call.result(10), flush=True)
"""


def test_a_child_of_the_process_is_told_to_make_its_own(broker: Broker) -> None:
    with broker.echoing():
        program = [sys.executable, "-c", FORKED, broker.endpoint]
        done = subprocess.run(
            program, timeout=20, capture_output=True, text=True, check=True
        )
    message = "a client does not survive os.fork(): make a new one"
    assert done.stdout.splitlines() == [message] * 3 + ["{}"]
    assert done.stderr == ""


def test_no_thread_is_left(broker: Broker) -> None:
    before = set(threading.enumerate())
    with Client(broker.endpoint):
        assert set(threading.enumerate()) > before
    assert set(threading.enumerate()) == before


def test_who_is_interrupted_while_it_rings_leaves_a_thread_that_can_be_woken(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with broker.echoing(), Client(broker.endpoint) as client:
        client.call("echo")
        deadline = monotonic() + 5.0
        while not client._io._asleep:
            assert monotonic() < deadline
        monkeypatch.setattr(client._io, "_ring", interrupt)
        with pytest.raises(KeyboardInterrupt):
            client.submit("echo")
        monkeypatch.undo()
        assert client.call("echo", {"value": 3}, budget=5.0) == {"value": 3}


def test_who_waits_for_a_result_looks_up_from_time_to_time(
    client: Client, broker: Broker
) -> None:
    class Gate:
        def __init__(self) -> None:
            self.waits: list[float] = []

        def acquire(self, *, timeout: float) -> bool:
            self.waits.append(timeout)
            return len(self.waits) == 3

        def release(self) -> None:
            pass

    call, gate = client.submit("echo"), Gate()
    broker.expect(Request)
    call._gate = gate  # type: ignore[assignment]
    call._wait(None)
    assert gate.waits == [TURN, TURN, TURN]

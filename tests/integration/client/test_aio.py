"""The client for asyncio, against a broker that the test plays."""

from __future__ import annotations

import asyncio
from asyncio import to_thread
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import pytest

from falconas.client.aio import AsyncClient
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
    from tests.integration.client.conftest import Broker

Scene = Callable[[AsyncClient], Coroutine[Any, Any, None]]


def play(broker: Broker, scene: Scene) -> None:
    """Run `scene` with a client that has met the broker."""

    async def main() -> None:
        async with AsyncClient(broker.endpoint) as client:
            await to_thread(broker.expect_hello)
            await scene(client)

    asyncio.run(main())


def test_call_returns_the_result(broker: Broker) -> None:
    async def scene(client: AsyncClient) -> None:
        assert await client.call("echo", {"value": 1}) == {"value": 1}
        assert await client.call("echo") == {}

    with broker.echoing():
        asyncio.run(with_client(broker.endpoint, scene))


async def with_client(endpoint: str, scene: Scene) -> None:
    async with AsyncClient(endpoint) as client:
        await scene(client)


def test_a_session_asks_for_what_it_has_written(broker: Broker) -> None:
    async def scene() -> None:
        async with AsyncClient(broker.endpoint, session=True) as client:
            await to_thread(broker.expect_hello)
            call = client.submit("place_order")
            request, _ = await to_thread(broker.expect, Request)
            broker.reply(request.id, None, lsn={"main": 7})
            await call
            assert client.lsn == {"main": 7}
            client.submit("echo", min_lsn={"main": 9})
            request, _ = await to_thread(broker.expect, Request)
            assert request.extras["min_lsn"] == {"main": 9}
            client.submit("echo")
            request, _ = await to_thread(broker.expect, Request)
            assert request.extras["min_lsn"] == {"main": 7}

    asyncio.run(scene())


def test_a_call_that_is_alone_leaves_at_once_and_others_together(
    broker: Broker,
) -> None:
    async def scene(client: AsyncClient) -> None:
        first = client.submit("echo")
        request, _ = await to_thread(broker.expect, Request)
        broker.reply(request.id, 1)
        assert await first == 1
        calls = [client.submit("echo") for _ in range(3)]
        # Not one turn of the event loop has passed.
        request, _ = broker.expect(Request)
        assert request.id == calls[0].id
        assert client._core._calls.first(9) == [call.outstanding for call in calls[1:]]
        await to_thread(lambda: [broker.expect(Request) for _ in calls[1:]])

    play(broker, scene)


def test_many_tasks_get_their_own_results(broker: Broker) -> None:
    async def scene(client: AsyncClient) -> None:
        values = await asyncio.gather(
            *(client.call("echo", {"n": n}) for n in range(800))
        )
        assert values == [{"n": n} for n in range(800)]

    with broker.echoing():
        asyncio.run(with_client(broker.endpoint, scene))


def test_it_works_on_uvloop(broker: Broker) -> None:
    uvloop = pytest.importorskip("uvloop")

    async def scene(client: AsyncClient) -> None:
        for n in range(20):
            assert await client.call("echo", {"n": n}) == {"n": n}

    with broker.echoing(), asyncio.Runner(loop_factory=uvloop.new_event_loop) as run:
        run.run(with_client(broker.endpoint, scene))


def test_a_call_tells_all(broker: Broker) -> None:
    async def scene(client: AsyncClient) -> None:
        call = client.submit("echo", {"value": 1}, budget=5.0)
        assert not call.done()
        assert call.info == {}
        request, params = await to_thread(broker.expect, Request)
        assert (request.id, params) == (call.id, {"value": 1})
        assert request.budget is not None
        assert 4.0 < request.budget <= 5.0
        broker.reply(request.id, "one", worker="host/0")
        assert await call == "one"
        assert await call == "one"
        assert call.done()
        assert call.info == {"worker": "host/0"}

    play(broker, scene)


def test_an_error_is_raised_and_nobody_need_wait_for_it(broker: Broker) -> None:
    async def scene(client: AsyncClient) -> None:
        waited, ignored = client.submit("place_order"), client.submit("echo")
        for _ in range(2):
            request, _ = await to_thread(broker.expect, Request)
            broker.refuse(request.id, Aborted("deadlock", started=Started.YES))
        with pytest.raises(Aborted, match="deadlock"):
            await waited
        del ignored

    play(broker, scene)


def test_to_cancel_the_task_cancels_the_request(broker: Broker) -> None:
    async def scene(client: AsyncClient) -> None:
        task = asyncio.create_task(client.call("echo"))
        request, _ = await to_thread(broker.expect, Request)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        cancel, _ = await to_thread(broker.expect, Cancel)
        assert cancel.id == request.id
        broker.refuse(request.id, Cancelled())

    play(broker, scene)


def test_a_cancel_leaves_although_the_client_is_closed_at_once(broker: Broker) -> None:
    async def scene(client: AsyncClient) -> None:
        task = asyncio.ensure_future(client.call("echo"))
        await to_thread(broker.expect, Request)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    play(broker, scene)
    broker.expect(Cancel)


def test_the_broker_is_told_to_cancel_with_the_client(broker: Broker) -> None:
    async def main() -> None:
        async with AsyncClient(broker.endpoint, cancel_on_disconnect=True) as client:
            client.submit("echo")
            client.submit("echo", cancel_on_disconnect=False)
            first, _ = await to_thread(broker.expect, Request)
            second, _ = await to_thread(broker.expect, Request)
            assert first.extras["cancel_on_disconnect"] is True
            assert "cancel_on_disconnect" not in second.extras

    asyncio.run(main())


def test_a_timeout_of_asyncio_cancels_the_request(broker: Broker) -> None:
    async def scene(client: AsyncClient) -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.submit("echo"), 0.05)
        await to_thread(broker.expect, Request)
        await to_thread(broker.expect, Cancel)

    play(broker, scene)


def test_the_timeout_of_result_ends_the_wait_and_not_the_call(broker: Broker) -> None:
    async def scene(client: AsyncClient) -> None:
        call = client.submit("echo")
        request, _ = await to_thread(broker.expect, Request)
        for timeout in (0, -1, 0.01):
            with pytest.raises(TimeoutError, match="the call goes on"):
                await call.result(timeout)
        waits = [asyncio.create_task(call.result(end)) for end in (20, None)]
        await asyncio.sleep(0)
        broker.reply(request.id, "done")
        assert await asyncio.gather(*waits) == ["done", "done"]
        assert await call.result(0) == "done"

    play(broker, scene)


def test_to_cancel_the_wait_for_a_result_cancels_the_request(broker: Broker) -> None:
    async def scene(client: AsyncClient) -> None:
        for timeout in (20, None):
            call = client.submit("echo")
            task = asyncio.create_task(call.result(timeout))
            request, _ = await to_thread(broker.expect, Request)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (await to_thread(broker.expect, Cancel))[0].id == request.id

    play(broker, scene)


def test_cancel_is_sent_and_the_broker_decides(broker: Broker) -> None:
    async def scene(client: AsyncClient) -> None:
        call = client.submit("echo")
        request, _ = await to_thread(broker.expect, Request)
        call.cancel()
        await to_thread(broker.expect, Cancel)
        broker.reply(request.id, "too late")
        assert await call == "too late"

    play(broker, scene)


def test_several_tasks_may_await_one_call(broker: Broker) -> None:
    async def scene(client: AsyncClient) -> None:
        call = client.submit("echo")

        async def wait() -> Any:
            return await call

        tasks = [asyncio.create_task(wait()) for _ in range(3)]
        request, _ = await to_thread(broker.expect, Request)
        tasks.pop().cancel()
        broker.reply(request.id, 1)
        assert await asyncio.gather(*tasks) == [1, 1]

    play(broker, scene)


def test_scripts_returns_the_catalogue(broker: Broker) -> None:
    async def scene(client: AsyncClient) -> None:
        asked = asyncio.create_task(client.scripts())
        question, _ = await to_thread(broker.expect, Catalogue)
        broker.reply(question.id, {"scripts": {"echo": {}}})
        assert await asked == {"echo": {}}
        assert client.stats()["replies"] == 1

    play(broker, scene)


def test_what_cannot_be_sent_is_refused_at_once(broker: Broker) -> None:
    async def scene(client: AsyncClient) -> None:
        with pytest.raises(InvalidArgument, match="parameter value"):
            client.submit("echo", {"value": object()})
        with pytest.raises(InvalidArgument, match="name"):
            await client.call("../echo")

    play(broker, scene)


def test_outstanding_calls_are_bounded(unused_endpoint: str) -> None:
    async def main() -> None:
        async with AsyncClient(unused_endpoint, outstanding=1) as client:
            call = client.submit("echo", budget=0.05)
            with pytest.raises(ResourceExhausted, match="larger outstanding=") as info:
                client.submit("echo")
            assert info.value.retry_after
            with pytest.raises(Unavailable, match="no broker at"):
                await call
            assert call.info == {"verdict": "client"}
            with pytest.raises(Unavailable, match="no broker at"):
                await asyncio.wait_for(client.call("echo", budget=0.05), 5)

    asyncio.run(main())


def test_a_restarted_broker_gets_idempotent_calls_again(broker: Broker) -> None:
    async def scene(client: AsyncClient) -> None:
        calls = [client.submit(script) for script in ("echo", "place_order")]
        for _ in calls:
            await to_thread(broker.expect, Request)
        broker.restart()
        again, _ = await to_thread(broker.expect, Request)
        assert again.script == "echo"
        broker.reply(again.id, 1)
        assert await calls[0] == 1
        with pytest.raises(Unavailable, match="outcome is unknown"):
            await calls[1]

    play(broker, scene)


def test_a_lost_broker_is_reported_long_before_the_deadline(broker: Broker) -> None:
    async def scene(client: AsyncClient) -> None:
        call = client.submit("echo")
        await to_thread(broker.expect, Request)
        broker.stop()
        with pytest.raises(Unavailable, match="was lost"):
            await asyncio.wait_for(call, 5)
        broker.start()

    play(broker, scene)


def test_close_cancels_what_is_outstanding(broker: Broker) -> None:
    async def scene(client: AsyncClient) -> None:
        call = client.submit("echo")
        request, _ = await to_thread(broker.expect, Request)
        await client.close()
        with pytest.raises(Cancelled, match="the client was closed"):
            await call
        cancel, _ = await to_thread(broker.expect, Cancel)
        assert cancel.id == request.id
        with pytest.raises(RuntimeError, match="the client is closed"):
            await client.call("echo")
        call.cancel()

    play(broker, scene)


def test_it_connects_with_the_first_call(broker: Broker) -> None:
    async def main() -> None:
        client = AsyncClient(broker.endpoint)
        await client.close()
        client = AsyncClient(broker.endpoint)
        assert await client.call("echo", {"n": 1}) == {"n": 1}
        await client.close()

    with broker.echoing():
        asyncio.run(main())


def test_it_belongs_to_one_event_loop(broker: Broker) -> None:
    client = AsyncClient(broker.endpoint)

    async def call() -> None:
        await client.call("echo")

    async def close() -> None:
        await client.close()

    with broker.echoing(), asyncio.Runner() as runner:
        runner.run(call())
        with pytest.raises(RuntimeError, match="another event loop"):
            asyncio.run(call())
        runner.run(close())

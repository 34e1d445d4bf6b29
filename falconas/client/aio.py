"""The client for asyncio, with the same core as the one for threads."""

from __future__ import annotations

import asyncio
import os
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any, Self

from falconas import codec
from falconas.client.calls import OUTSTANDING
from falconas.client.core import ClientCore
from falconas.client.link import Link
from falconas.client.outstanding import Outstanding
from falconas.client.replies import Lsn, Positions
from falconas.client.sync import FRONTEND
from falconas.client.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping


class AsyncClient:
    """Calls scripts from the tasks of one event loop; needs no thread.

    It connects with `async with` or with the first call, and belongs to that
    event loop from then on.

    Args:
        frontend: The broker's endpoint for clients.
        budget: Seconds to wait for a broker where a call names no budget; how
            long the script may take is then the script's own budget.
        outstanding: The largest number of calls without a verdict.
        cancel_on_disconnect: The broker ends the calls if this client vanishes.
        session: Each call sees what this client's earlier calls have written, on
            whatever node it runs: see `lsn`.
    """

    def __init__(
        self,
        frontend: str = FRONTEND,
        *,
        budget: float = 30.0,
        outstanding: int = OUTSTANDING,
        cancel_on_disconnect: bool = False,
        session: bool = False,
    ) -> None:
        self._positions = Positions(follow=session)
        self._frontend = frontend
        self._core = ClientCore(
            os.urandom(16),
            frontend,
            budget=budget,
            outstanding=outstanding,
            cancel_on_disconnect=cancel_on_disconnect,
            positions=self._positions,
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._link: Link | None = None
        self._watched: tuple[int, ...] = ()
        self._soon: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = inf

    async def call(
        self,
        script: str,
        params: Mapping[str, Any] | None = None,
        /,
        *,
        budget: float | None = None,
        idempotent: bool | None = None,
        cancel_on_disconnect: bool | None = None,
        min_lsn: Lsn | None = None,
    ) -> Any:
        """Run `script` and return its result; like `Client.call`.

        To cancel the task cancels the request.
        """
        return await self.submit(
            script,
            params,
            budget=budget,
            idempotent=idempotent,
            cancel_on_disconnect=cancel_on_disconnect,
            min_lsn=min_lsn,
        )

    def submit(
        self,
        script: str,
        params: Mapping[str, Any] | None = None,
        /,
        *,
        budget: float | None = None,
        idempotent: bool | None = None,
        cancel_on_disconnect: bool | None = None,
        min_lsn: Lsn | None = None,
    ) -> AsyncCall:
        """Start `call` and return at once; await what it returns.

        Raises:
            FalconError: The call is refused; nothing was started.
        """
        body = codec.encode_params({} if params is None else params)
        call = AsyncCall(self, self._here())
        call.outstanding = self._core.request(
            call,
            script,
            body,
            monotonic(),
            budget,
            idempotent,
            cancel_on_disconnect,
            min_lsn,
        )
        if self._soon is None:
            self._step_early()
        return call

    async def scripts(self, *, budget: float | None = None) -> dict[str, Any]:
        """Return the catalogue: what is known of each script, by name."""
        call = AsyncCall(self, self._here())
        call.outstanding = self._core.catalogue(call, monotonic(), budget=budget)
        self._step_early()
        scripts: dict[str, Any] = (await call)["scripts"]
        return scripts

    @property
    def lsn(self) -> dict[str, int]:
        """What has been written, as replies told: the log's position by database.

        Empty without `session=True`. Another client whose calls name it as `min_lsn`
        sees the same.
        """
        return self._positions.seen

    def stats(self) -> dict[str, int]:
        """Return counters of this client, for tests and diagnosis."""
        return dict(self._core.counters)

    async def close(self) -> None:
        """Cancel what is outstanding and disconnect; a second time does nothing."""
        self._core.close()
        self._deliver()
        link, self._link = self._link, None
        if link is None:
            return
        assert self._loop is not None
        for handle in (self._soon, self._timer):
            if handle is not None:
                handle.cancel()
        self._watch(())
        link.finish(monotonic())
        await asyncio.to_thread(link.close)

    def cancel(self, outstanding: Outstanding) -> None:
        """Cancel a call; `AsyncCall.cancel` is the way to it."""
        self._core.cancel(outstanding, monotonic())
        self._step_soon()

    def _here(self) -> asyncio.AbstractEventLoop:
        """Return the event loop, which is the client's from the first time on."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._open(loop)
        return loop

    def _open(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._loop is not None:
            raise RuntimeError("the client belongs to another event loop")
        self._link = Link(self._frontend, self._core)
        self._loop = loop
        self._step_soon()

    def _watch(self, fds: tuple[int, ...]) -> None:
        """Wait for the file descriptors that the link has now."""
        assert self._loop is not None
        if fds is not self._watched:
            for fd in self._watched:
                self._loop.remove_reader(fd)
            self._watched = fds
            for fd in fds:
                self._loop.add_reader(fd, self._step)

    def _step_early(self) -> None:
        """Step at once for a call that is alone; others may yet be joined by more."""
        if self._core.outstanding == 1:
            self._step()
        else:
            self._step_soon()

    def _step_soon(self) -> None:
        """Step once for all that happens in this turn of the event loop."""
        if self._soon is None and self._link is not None:
            assert self._loop is not None
            self._soon = self._loop.call_soon(self._step)

    def _step(self) -> None:
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        if self._link is None:
            return
        if self._link.step(monotonic()):
            self._step_soon()
        self._watch(self._link.fds)
        self._deliver()
        self._set_timer()

    def _set_timer(self) -> None:
        assert self._loop is not None
        wake_at = self._core.wake_at()
        if wake_at >= self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = wake_at
        wait = max(0.0, wake_at - monotonic())
        self._timer = self._loop.call_later(wait, self._wake)

    def _wake(self) -> None:
        self._timer, self._timer_at = None, inf
        self._step()

    def _deliver(self) -> None:
        for call, verdict in self._core.take_verdicts():
            call.settle(verdict)

    async def __aenter__(self) -> Self:
        if self._loop is None:
            self._open(asyncio.get_running_loop())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class AsyncCall:
    """A call on its way; made by `AsyncClient.submit`. Await it for the result."""

    __slots__ = ("_client", "_loop", "_verdict", "_waiters", "outstanding")
    outstanding: Outstanding

    def __init__(self, client: AsyncClient, loop: asyncio.AbstractEventLoop) -> None:
        self._client = client
        self._loop = loop
        self._verdict: Verdict | None = None
        self._waiters: list[asyncio.Future[Verdict]] = []

    @property
    def id(self) -> bytes:
        """The id of the request; another one once it was sent again."""
        return self.outstanding.id

    @property
    def info(self) -> dict[str, Any]:
        """What the reply says of itself: worker, node, run_us, attempt."""
        return {} if self._verdict is None else self._verdict.info

    def done(self) -> bool:
        """Tell whether there is a verdict."""
        return self._verdict is not None

    def cancel(self) -> None:
        """Ask to end it; the verdict says whether it was in time."""
        self._client.cancel(self.outstanding)

    async def result(self, timeout: float | None = None) -> Any:  # noqa: ASYNC109
        """Wait for the verdict: return the result or raise the error.

        To cancel the task cancels the request; the end of `timeout` does not.

        Raises:
            TimeoutError: No verdict within `timeout` seconds; the call goes on.
            FalconError: One class for each code, see `falconas.errors`.
        """
        if timeout is not None and self._verdict is None:
            waiter = self._loop.create_future()
            self._waiters.append(waiter)
            try:
                done, _ = await asyncio.wait([waiter], timeout=max(timeout, 0))
            except asyncio.CancelledError:
                self.cancel()
                raise
            if not done:
                self._waiters.remove(waiter)
                raise TimeoutError(f"no verdict within {timeout} s; the call goes on")
        return await self

    def __await__(self) -> Generator[Any, None, Any]:
        """Wait for the verdict: return the result or raise the error."""
        verdict = self._verdict
        if verdict is None:
            waiter = self._loop.create_future()
            self._waiters.append(waiter)
            try:
                verdict = yield from waiter
            except asyncio.CancelledError:
                self.cancel()
                raise
        return verdict.value()

    def settle(self, verdict: Verdict) -> None:
        """Let the waiting tasks go on."""
        self._verdict = verdict
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(verdict)

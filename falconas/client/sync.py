"""The client for threads."""

from __future__ import annotations

import logging
import os
import selectors
import socket
import threading
import warnings
from contextlib import suppress
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any, Self

from falconas import codec
from falconas.client.calls import OUTSTANDING, Outstanding, Terms, Verdict
from falconas.client.core import ClientCore
from falconas.client.link import Link
from falconas.client.operator import Operator

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Accept = Callable[["Call", float], Outstanding]

FRONTEND = "tcp://127.0.0.1:5570"

__all__ = ["FRONTEND", "Call", "Client", "Operator"]

log = logging.getLogger("falconas.client")


class Client:
    """Calls scripts; may be used by many threads at once.

    A thread of its own keeps the connection, so all calls of a client share one
    socket, and the client comes back by itself when the broker does.

    Args:
        frontend: The broker's endpoint for clients.
        budget: Seconds to wait for a broker where a call names no budget; how
            long the script may take is then the script's own budget.
        outstanding: The largest number of calls without a verdict.
        cancel_on_disconnect: The broker ends the calls if this client vanishes.
    """

    def __init__(
        self,
        frontend: str = FRONTEND,
        *,
        budget: float = 30.0,
        outstanding: int = OUTSTANDING,
        cancel_on_disconnect: bool = False,
    ) -> None:
        core = ClientCore(
            os.urandom(16),
            frontend,
            budget=budget,
            outstanding=outstanding,
            cancel_on_disconnect=cancel_on_disconnect,
        )
        self._io = _Io(core, Link(frontend, core))
        self._io.start()

    def call(
        self,
        script: str,
        params: Mapping[str, Any] | None = None,
        /,
        *,
        budget: float | None = None,
        idempotent: bool | None = None,
        cancel_on_disconnect: bool | None = None,
    ) -> Any:
        """Run `script` and return its result.

        Args:
            script: Its name.
            params: Its parameters by name.
            budget: Seconds it may take, with all waiting; None: the script's own.
            idempotent: It may be started twice when the broker is lost; None:
                as the script itself says.
            cancel_on_disconnect: The broker ends it if this client vanishes; None:
                as the client was made.

        Raises:
            FalconError: One class for each code, see `falconas.errors`.
        """
        gone = cancel_on_disconnect
        terms = Terms(budget=budget, idempotent=idempotent, cancel_on_disconnect=gone)
        return self._wait(self._request(script, params, terms))

    def submit(
        self,
        script: str,
        params: Mapping[str, Any] | None = None,
        /,
        *,
        budget: float | None = None,
        idempotent: bool | None = None,
        cancel_on_disconnect: bool | None = None,
    ) -> Call:
        """Start `call` and return at once.

        Raises:
            FalconError: The call is refused; nothing was started.
        """
        call = Call(self._io)
        gone = cancel_on_disconnect
        terms = Terms(budget=budget, idempotent=idempotent, cancel_on_disconnect=gone)
        self._io.submit(call, self._request(script, params, terms))
        return call

    def scripts(self, *, budget: float | None = None) -> dict[str, Any]:
        """Return the catalogue: what is known of each script, by name."""
        core = self._io.core
        catalogue = self._wait(
            lambda call, now: core.catalogue(call, now, budget=budget)
        )
        scripts: dict[str, Any] = catalogue["scripts"]
        return scripts

    def stats(self) -> dict[str, int]:
        """Return counters of this client, for tests and diagnosis."""
        return dict(self._io.core.counters)

    def close(self) -> None:
        """Cancel what is outstanding and disconnect; a second time does nothing."""
        self._io.stop()
        self._io.join()

    def _request(
        self, script: str, params: Mapping[str, Any] | None, terms: Terms
    ) -> Accept:
        body = codec.encode_params({} if params is None else params)
        return lambda call, now: self._io.core.request(call, script, body, now, **terms)

    def _wait(self, accept: Accept) -> Any:
        call = Call(self._io)
        try:
            self._io.submit(call, accept)
            return call.result()
        except BaseException:
            call.cancel()  # Ctrl-C: nobody waits for it any more
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        io = getattr(self, "_io", None)
        if io is not None and io.stop():
            warnings.warn(f"unclosed {self!r}", ResourceWarning, 2, source=self)


class Call:
    """A call on its way; made by `Client.submit`, may be used by any thread."""

    __slots__ = ("_gate", "_io", "_outstanding", "_verdict")

    def __init__(self, io: _Io) -> None:
        self._io = io
        self._outstanding: Outstanding | None = None
        self._verdict: Verdict | None = None
        # Held until there is a verdict; a lock is the cheapest thing to wait for.
        self._gate = threading.Lock()
        self._gate.acquire()

    @property
    def id(self) -> bytes:
        """The id of the request; another one once it was sent again."""
        assert self._outstanding is not None
        return self._outstanding.id

    @property
    def info(self) -> dict[str, Any]:
        """What the reply says of itself: worker, node, run_us, attempt."""
        return {} if self._verdict is None else self._verdict.info

    def done(self) -> bool:
        """Tell whether there is a verdict."""
        return self._verdict is not None

    def cancel(self) -> None:
        """Ask to end it; the verdict says whether it was in time."""
        if self._outstanding is not None:
            self._io.cancel(self._outstanding)

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the verdict: return the result or raise the error.

        Raises:
            TimeoutError: No verdict within `timeout` seconds; the call goes on.
            FalconError: One class for each code, see `falconas.errors`.
        """
        if self._verdict is None:
            self._io.check_process()
        wait = -1 if timeout is None else min(max(timeout, 0), threading.TIMEOUT_MAX)
        if not self._gate.acquire(timeout=wait):
            raise TimeoutError(f"no verdict within {timeout} s; the call goes on")
        self._gate.release()
        assert self._verdict is not None
        return self._verdict.value()

    def settle(self, verdict: Verdict) -> None:
        """Let the waiting threads go on."""
        self._verdict = verdict
        self._gate.release()


class _Io:
    """The thread that keeps the connection.

    The core is touched under the lock only. Callers wake the thread only when it
    sleeps, so many calls in a row cost one wake-up. It knows its `Client` not, so
    that a forgotten one can be collected and then stops it.
    """

    def __init__(self, core: ClientCore, link: Link) -> None:
        self.core = core
        self._link = link
        self._lock = threading.Lock()
        self._asleep = False
        self._stopping = False
        self._watched: tuple[int, ...] = ()
        self._process = os.getpid()
        self._bell, self._ear = socket.socketpair()
        self._bell.setblocking(False)
        self._ear.setblocking(False)
        self._thread = threading.Thread(
            target=self._run, name="falconas-client", daemon=True
        )

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def check_process(self) -> None:
        """Refuse to work in a child of the process: it has no such thread."""
        if os.getpid() != self._process:
            raise RuntimeError("a client does not survive os.fork(): make a new one")

    def submit(self, call: Call, accept: Accept) -> None:
        """Let the core accept a new call."""
        self.check_process()
        with self._lock:
            call._outstanding = accept(call, monotonic())  # noqa: SLF001
            ring, self._asleep = self._asleep, False
        if ring:
            self._ring()

    def cancel(self, outstanding: Outstanding) -> None:
        """Let the core cancel a call."""
        self.check_process()
        with self._lock:
            self.core.cancel(outstanding, monotonic())
            verdicts = self.core.take_verdicts()
            ring, self._asleep = self._asleep, False
        if ring:
            self._ring()
        _deliver(verdicts)

    def stop(self) -> bool:
        """Tell the thread to end; takes no lock, as a collector may call it."""
        if self._stopping or os.getpid() != self._process:
            return False
        self._stopping = True
        self._ring()
        return True

    def join(self) -> None:
        """Wait until the thread has ended."""
        if os.getpid() == self._process:
            self._thread.join()

    def _ring(self) -> None:
        with suppress(OSError):  # rung often enough, or the thread has ended
            self._bell.send(b"\0")

    def _run(self) -> None:
        reason = "the client was closed"
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(self._ear, selectors.EVENT_READ)
                while not self._stopping:
                    self._step(selector)
                    self._sleep(selector)
        except Exception as error:
            log.exception("the client's thread failed")
            reason = f"the client failed: {error}"
        self._end(reason)

    def _step(self, selector: selectors.BaseSelector) -> None:
        busy = True
        while busy and not self._stopping:
            with self._lock:
                busy = self._link.step(monotonic())
                verdicts = self.core.take_verdicts()
            _deliver(verdicts)
            self._watch(selector)

    def _watch(self, selector: selectors.BaseSelector) -> None:
        """Wait for the file descriptors that the link has now."""
        if self._link.fds is not self._watched:
            for fd in self._watched:
                selector.unregister(fd)
            self._watched = self._link.fds
            for fd in self._watched:
                selector.register(fd, selectors.EVENT_READ)

    def _sleep(self, selector: selectors.BaseSelector) -> None:
        with self._lock:
            if self._link.sendable:
                return
            wake_at = self.core.wake_at()
            self._asleep = True
        wait = None if wake_at == inf else max(0.0, wake_at - monotonic())
        ready = selector.select(wait) if not self._stopping else []
        self._asleep = False
        if any(key.fileobj is self._ear for key, _ in ready):
            self._ear.recv(4096)

    def _end(self, reason: str) -> None:
        with self._lock:
            self._stopping = True
            self.core.close(reason)
            verdicts = self.core.take_verdicts()
        _deliver(verdicts)
        with suppress(Exception):  # a last CANCEL, if that is still possible
            self._link.finish(monotonic())
        self._link.close()
        self._bell.close()
        self._ear.close()


def _deliver(verdicts: list[tuple[Any, Verdict]]) -> None:
    for call, verdict in verdicts:
        call.settle(verdict)

"""The client for threads."""

from __future__ import annotations

import os
import threading
import warnings
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any, Self

from falconas import codec
from falconas.client.calls import OUTSTANDING
from falconas.client.core import ClientCore
from falconas.client.link import Link
from falconas.client.outstanding import Outstanding
from falconas.client.replies import Lsn, Positions
from falconas.client.thread import Io
from falconas.client.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping

FRONTEND = "tcp://127.0.0.1:5570"
TURN = 0.5  # seconds

__all__ = ["FRONTEND", "Call", "Client"]


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
        core = ClientCore(
            os.urandom(16),
            frontend,
            budget=budget,
            outstanding=outstanding,
            cancel_on_disconnect=cancel_on_disconnect,
            positions=self._positions,
        )
        self._io = Io(core, Link(frontend, core))
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
        min_lsn: Lsn | None = None,
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
            min_lsn: Positions by database that it must see, beside the client's own:
                the `lsn` of a client or of a reply's `info`.

        Raises:
            FalconError: One class for each code, see `falconas.errors`.
        """
        call = Call(self._io)
        try:
            body = codec.encode_params({} if params is None else params)
            self._io.request(
                call, script, body, budget, idempotent, cancel_on_disconnect, min_lsn
            )
            return call.result()
        except BaseException:
            call.cancel()  # Ctrl-C: nobody waits for it any more
            raise

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
    ) -> Call:
        """Start `call` and return at once.

        Raises:
            FalconError: The call is refused; nothing was started.
        """
        call = Call(self._io)
        body = codec.encode_params({} if params is None else params)
        self._io.request(
            call, script, body, budget, idempotent, cancel_on_disconnect, min_lsn
        )
        return call

    def scripts(self, *, budget: float | None = None) -> dict[str, Any]:
        """Return the catalogue: what is known of each script, by name."""
        call = Call(self._io)
        try:
            self._io.catalogue(call, budget)
            scripts: dict[str, Any] = call.result()["scripts"]
            return scripts
        except BaseException:
            call.cancel()
            raise

    @property
    def lsn(self) -> dict[str, int]:
        """What has been written, as replies told: the log's position by database.

        Empty without `session=True`. Another client whose calls name it as `min_lsn`
        sees the same.
        """
        return self._positions.seen

    def stats(self) -> dict[str, int]:
        """Return counters of this client, for tests and diagnosis."""
        return dict(self._io.core.counters)

    def close(self) -> None:
        """Cancel what is outstanding and disconnect; a second time does nothing."""
        self._io.stop()
        self._io.join()

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

    __slots__ = ("_gate", "_io", "_verdict", "outstanding")

    def __init__(self, io: Io) -> None:
        self._io = io
        self.outstanding: Outstanding | None = None
        self._verdict: Verdict | None = None
        # Held until there is a verdict; a lock is the cheapest thing to wait for.
        self._gate = threading.Lock()
        self._gate.acquire()

    @property
    def id(self) -> bytes:
        """The id of the request; another one once it was sent again."""
        assert self.outstanding is not None
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
        self._io.cancel(self)

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the verdict: return the result or raise the error.

        Raises:
            TimeoutError: No verdict within `timeout` seconds; the call goes on.
            FalconError: One class for each code, see `falconas.errors`.
        """
        if self._verdict is None:
            self._wait(timeout)
        assert self._verdict is not None
        return self._verdict.value()

    def _wait(self, timeout: float | None) -> None:
        self._io.check_process()
        end = inf if timeout is None else monotonic() + timeout
        # In turns: a Ctrl-C that comes just before such a wait does not end it.
        while not self._gate.acquire(timeout=max(0.0, min(TURN, end - monotonic()))):
            if monotonic() >= end:
                raise TimeoutError(f"no verdict within {timeout} s; the call goes on")
        self._gate.release()

    def settle(self, verdict: Verdict) -> None:
        """Let the waiting threads go on."""
        self._verdict = verdict
        self._gate.release()

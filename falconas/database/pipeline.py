"""psycopg's pipeline, which sends in batches.

psycopg sends each statement at once, with a call of the kernel and a wake-up of the
server, which is slower than to wait for each answer where both share a machine.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.generators import send

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from psycopg.abc import Buffer
    from psycopg.pq.abc import PGresult

# So many commands, or bytes of parameters, are sent at the latest: until then they are
# in memory.
BATCH, BYTES = 16, 65_536


class Pipeline(psycopg.Pipeline):
    """Sends when there is a batch, or somebody wants an answer.

    Who asks may be told of his answer by a function, besides psycopg's own ways. Of
    several errors the first one is raised.
    """

    _waiting = 0  # bytes
    _first: psycopg.Error | None = None

    def command(self, sql: bytes) -> None:
        """Queue a command of whose answer only errors are heard."""
        command = partial(self.pgconn.send_query_params, sql, None)
        self.command_queue.append(command)
        self.result_queue.append(None)

    def weigh(self, params: Sequence[Buffer | None] | None) -> None:
        """Count what was queued with these parameters."""
        if params:
            self._waiting += sum(map(len, filter(None, params)))

    def ask(self, answered: Callable[[list[PGresult]], None]) -> None:
        """Have the answer to what was queued last handed to this function."""
        self.result_queue.append(answered)  # type: ignore[arg-type]

    @property
    def has_batch(self) -> bool:
        """There is enough to be sent."""
        return len(self.command_queue) >= BATCH or self._waiting >= BYTES

    def _communicate_gen(self) -> Generator[Any, Any, None]:
        if self.has_batch:
            yield from self._send_gen()

    def _fetch_gen(self, *, flush: bool) -> Generator[Any, Any, None]:
        error = None
        while left := len(self.command_queue):
            try:
                yield from self._send_gen()
            except psycopg.Error as met:  # the rest has to be sent and read
                error = error or met
                if len(self.command_queue) == left:
                    break
        try:
            yield from super()._fetch_gen(flush=flush)
        except psycopg.Error as met:
            error = error or met
        first, self._first = self._first, None
        if error is not None:
            raise first or error

    def _send_gen(self) -> Generator[Any, Any, None]:
        commands, self._waiting = self.command_queue, 0
        while len(commands) > 1:  # psycopg flushes after each
            commands.popleft()()
        error = None
        try:
            yield from super()._communicate_gen()
        except psycopg.Error as met:
            error = met
        yield from send(self.pgconn)  # psycopg flushes once, after the last
        if error is not None:
            raise error

    def _process_results(self, queued: Any, results: list[PGresult]) -> None:
        try:
            if callable(queued):
                queued(results)
            else:
                super()._process_results(queued, results)
        except psycopg.Error as error:
            self._first = self._first or error
            raise

"""psycopg's pipeline, which sends in batches.

psycopg sends each statement at once, with a call of the kernel and a wake-up of the
server, which is slower than to wait for each answer where both share a machine.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import psycopg

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from psycopg.pq.abc import PGresult

BATCH = 16  # commands: what they send is in memory twice until then


class Pipeline(psycopg.Pipeline):
    """Sends when there is a batch, or somebody wants an answer.

    Who asks may be told of his answer by a function, besides psycopg's own ways.
    """

    def command(self, sql: bytes) -> None:
        """Queue a command of whose answer only errors are heard."""
        send = partial(self.pgconn.send_query_params, sql, None)
        self.command_queue.append(send)
        self.result_queue.append(None)

    def ask(self, answered: Callable[[list[PGresult]], None]) -> None:
        """Have the answer to what was queued last handed to this function."""
        self.result_queue.append(answered)  # type: ignore[arg-type]

    def _communicate_gen(self) -> Generator[Any, Any, None]:
        if len(self.command_queue) >= BATCH:
            yield from self._send_gen()

    def _fetch_gen(self, *, flush: bool) -> Generator[Any, Any, None]:
        error = None
        if self.command_queue:
            try:
                yield from self._send_gen()
            except psycopg.Error as met:  # what else there is has to be read
                error = met
        try:
            yield from super()._fetch_gen(flush=flush)
        except psycopg.Error as met:
            error = error or met
        if error is not None:
            raise error

    def _send_gen(self) -> Generator[Any, Any, None]:
        commands = self.command_queue
        while len(commands) > 1:  # psycopg flushes after each
            commands.popleft()()
        yield from super()._communicate_gen()

    def _process_results(self, queued: Any, results: list[PGresult]) -> None:
        if callable(queued):
            queued(results)
        else:
            super()._process_results(queued, results)

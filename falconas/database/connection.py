"""psycopg's connection, which hears signals soon and ends when it is told to."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg

from falconas.database.cursor import Cursor
from falconas.database.pipeline import Pipeline
from falconas.database.prepared import Prepared, watch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from psycopg.abc import PQGen
    from psycopg.rows import RowFactory

# Below half of the time between two signals that interrupt a script.
INTERVAL = 0.02

# How long a thread may take to find that its connection is shut down.
_PATIENCE = 0.2

Result = TypeVar("Result")
Row = TypeVar("Row")

_wait = psycopg.Connection.wait  # `super()` would take as long again

# Connections that a thread of a script would not let go; see `Connection.end`.
_kept: list[psycopg.Connection[Any]] = []


class Connection(psycopg.Connection[Any]):
    """Waits for the server in short turns.

    psycopg's loop in C looks for signals only when a turn of 0.1 s has passed in
    peace: one that comes in between begins the turn anew. Signals that come more often
    than that were never heard.

    Attributes:
        due: What begins a transaction, and is to travel with the next statement.
        seen: Command tags of answers that nobody has looked at yet.
    """

    _pipeline: Pipeline | None
    _prepared: Prepared
    _waits_since: float | None = None
    due: bytes | None = None

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.seen: list[str] = []
        self.cursor_factory = Cursor
        watch(self)

    def make_cursor(self, row_factory: RowFactory[Row] | None) -> Cursor[Row]:
        """Return a cursor, as psycopg's `cursor` does."""
        self._check_connection_ok()
        return Cursor(self, row_factory)

    def wait(
        self,
        gen: PQGen[Result],
        interval: float = INTERVAL,
        timeout: float | None = None,
    ) -> Result:
        """Wait for `gen`, as psycopg does."""
        try:
            self._waits_since = monotonic()
            return _wait(self, gen, interval, timeout)
        finally:
            self._waits_since = None

    @property
    def awaited(self) -> float:
        """How long it has been waiting for the server, 0 if it is not."""
        since = self._waits_since
        return 0.0 if since is None else monotonic() - since

    def begin(self) -> None:
        """Forget what an interrupted request had due, and what it has seen."""
        self.due = None
        self.seen = []

    @property
    def in_pipeline(self) -> bool:
        """Statements are sent, and their answers are read later."""
        return self._pipeline is not None

    def enter_pipeline(self) -> None:
        """Begin a pipeline, or one more level of it."""
        with self.lock:
            pipeline = self._pipeline
            if pipeline is None:
                self._check_connection_ok()
                pipeline = self._pipeline = Pipeline(self)
        pipeline.__enter__()
        self.pipe_due(pipeline)

    def take_due(self) -> bytes | None:
        """Return what is due, once."""
        due, self.due = self.due, None
        return due

    def pipe_due(self, pipeline: Pipeline) -> None:
        """Have the pipeline send first what is due."""
        if due := self.take_due():
            pipeline.command(due)

    def leave_pipeline(self, error: BaseException | None) -> None:
        """Read all answers that are left; raises the first error among them."""
        pipeline = self._pipeline
        assert pipeline is not None
        try:
            pipeline.__exit__(type(error) if error else None, error, None)
        finally:
            if pipeline.level == 0:
                self._pipeline = None

    @contextmanager
    def pipeline(self) -> Iterator[Pipeline]:
        """Do what psycopg's does, with our pipeline."""
        self.enter_pipeline()
        assert self._pipeline is not None
        try:
            yield self._pipeline
        except BaseException as error:
            self.leave_pipeline(error)
            raise
        self.leave_pipeline(None)

    @contextmanager
    def _pipeline_nolock(self) -> Iterator[Pipeline]:
        """Do what psycopg's does, for `executemany`, which holds the lock."""
        self._pipeline = pipeline = Pipeline(self, _no_lock=True)
        try:
            with pipeline:
                yield pipeline
        finally:
            self._pipeline = None

    def end(self) -> None:
        """Close it, although a thread that a script left may be in its midst.

        libpq frees a connection at once, and the next one gets the same memory: such a
        thread would go on in there, and take the answers of the next request.
        """
        if self.closed or threading.active_count() == 1 or not self.lock.locked():
            self.close()
            return
        with socket.socket(fileno=os.dup(self.pgconn.socket)) as line:
            line.shutdown(socket.SHUT_RDWR)
        if self.lock.acquire(timeout=_PATIENCE):
            self.close()
            self.lock.release()
        else:
            _kept.append(self)

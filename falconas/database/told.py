"""psycopg's connections as a pool makes them: it is told whether each could be made.

psycopg's own pool logs why one could not, and lets whoever waits for it only time out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import psycopg

from falconas.database.lent import Lent
from falconas.database.prepared import watch
from falconas.database.wording import in_short

Tell = Callable[[str], object]


class Told(Lent, psycopg.Connection[Any]):
    """A connection for threads."""

    def close(self) -> None:
        """Close it."""
        self._closing()
        super().close()

    @classmethod
    def connect(  # type: ignore[override]
        cls, conninfo: str, *, tell: Tell, **kwargs: Any
    ) -> Self:
        """Connect, and `tell` why that failed; nothing if it did not."""
        try:
            made = super().connect(conninfo, **kwargs)
        except psycopg.Error as error:
            tell(in_short(error))
            raise
        tell("")
        watch(made)
        return made


class AsyncTold(Lent, psycopg.AsyncConnection[Any]):
    """A connection for coroutines."""

    async def close(self) -> None:
        """Close it."""
        self._closing()
        await super().close()

    @classmethod
    async def connect(  # type: ignore[override]
        cls, conninfo: str, *, tell: Tell, **kwargs: Any
    ) -> Self:
        """Connect, and `tell` why that failed; nothing if it did not."""
        try:
            made = await super().connect(conninfo, **kwargs)
        except psycopg.Error as error:
            tell(in_short(error))
            raise
        tell("")
        watch(made)
        return made

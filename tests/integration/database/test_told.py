from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import psycopg
import pytest

from falconas.database.prepared import Prepared
from falconas.database.told import AsyncTold, Told

if TYPE_CHECKING:
    from falconas.database.embedded import EmbeddedPostgres

NOWHERE = "host=127.0.0.1 port=1"


def test_the_lender_is_told_of_each_attempt(postgres: EmbeddedPostgres) -> None:
    said: list[str] = []
    with Told.connect(postgres.dsn(), tell=said.append, autocommit=True) as made:
        assert made.autocommit
        assert isinstance(made._prepared, Prepared)
    with pytest.raises(psycopg.OperationalError):
        Told.connect(NOWHERE, tell=said.append)

    done, refused = said
    assert done == ""
    assert "Connection refused" in refused


def test_so_it_is_where_coroutines_wait(postgres: EmbeddedPostgres) -> None:
    said: list[str] = []

    async def work() -> None:
        made = await AsyncTold.connect(postgres.dsn(), tell=said.append)
        assert isinstance(made._prepared, Prepared)
        await made.close()
        with pytest.raises(psycopg.OperationalError):
            await AsyncTold.connect(NOWHERE, tell=said.append)

    asyncio.run(work())
    done, refused = said
    assert done == ""
    assert "Connection refused" in refused

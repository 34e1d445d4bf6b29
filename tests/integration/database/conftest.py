from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from falconas.database.connection import Connection

if TYPE_CHECKING:
    from collections.abc import Iterator

    from falconas.database.embedded import EmbeddedPostgres


@pytest.fixture
def here(postgres: EmbeddedPostgres) -> Iterator[Connection]:
    with closing(Connection.connect(postgres.dsn(), autocommit=True)) as connection:
        assert isinstance(connection, Connection)
        yield connection

from __future__ import annotations

import pytest
from psycopg.rows import dict_row

from falconas.database.options import PoolOptions


def test_options_become_parameters_of_the_session() -> None:
    options = PoolOptions(
        statement_timeout=1.5,
        temp_buffers="128MB",
        role="reader",
        settings={"work_mem": "5MB"},
    )

    assert options.parameters() == {
        "statement_timeout": "1500ms",
        "temp_buffers": "128MB",
        "role": "reader",
        "work_mem": "5MB",
    }
    assert PoolOptions().parameters() == {}


def test_options_make_psycopgs_pool() -> None:
    options = PoolOptions(
        max_size=3, autocommit=True, row_factory=dict_row, reset="discard", role="web"
    )

    found = options.arguments("host=h", "n1", tell=print)

    assert (found["max_size"], found["name"]) == (3, "falconas/n1")
    assert "-c role=web" in found["conninfo"]
    assert found["kwargs"] == {
        "tell": print,
        "autocommit": True,
        "row_factory": dict_row,
        "prepare_threshold": None,
    }
    plain = PoolOptions().arguments("host=h", "n1")
    assert plain["kwargs"] == {"autocommit": False}


def test_a_short_timeout_does_not_become_none() -> None:
    assert PoolOptions(statement_timeout=1e-9).parameters() == {
        "statement_timeout": "1ms"
    }


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"min_size": 3, "max_size": 2}, "min_size <= max_size"),
        ({"min_size": 0, "max_size": 0}, "max_size from 1 up"),
        ({"reset": "none"}, "soft, discard or rollback"),
        ({"timeout": -1.0}, "timeout must not be negative"),
        ({"probe_interval": 0.0}, "probe_interval must be positive"),
        ({"lookup_interval": 0.0}, "lookup_interval must be positive"),
        ({"access": "both"}, 'access is "read" or "write", not \'both\''),
    ],
)
def test_what_makes_no_sense_is_refused(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PoolOptions(**wrong)  # type: ignore[arg-type]

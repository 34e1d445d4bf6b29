from __future__ import annotations

import subprocess
import sys

import pytest

import falconas


def loaded_by(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    return set(
        subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, text=True
        ).stdout.split()
    )


def test_each_public_name_is_there() -> None:
    for name in falconas.__all__:
        assert getattr(falconas, name) is not None
    assert set(falconas.__all__) <= set(dir(falconas))


def test_another_name_is_not() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = falconas.nothing


def test_a_script_loads_no_zmq_and_a_client_no_psycopg() -> None:
    worker = loaded_by("import falconas; falconas.script, falconas.Context")
    assert not {"zmq", "psycopg"} & worker
    client = loaded_by("import falconas; falconas.Call, falconas.AsyncCall")
    assert "psycopg" not in client


def test_a_client_loads_little() -> None:
    client = loaded_by("from falconas import Client; Client().close()")
    assert "zmq" in client
    heavy = {"psycopg", "asyncio", "click", "msgspec", "concurrent", "ssl", "http"}
    heavy |= {"uuid", "decimal", "ipaddress", "dataclasses", "inspect", "tomllib"}
    heavy |= {"falconas.exttypes", "falconas.client.aio", "falconas.client.operator"}
    heavy |= {"falconas.config", "falconas.settings", "falconas.worker", "logging"}
    assert not client & heavy


def test_only_the_client_for_asyncio_loads_asyncio() -> None:
    client = loaded_by("from falconas import AsyncClient; AsyncClient()")
    assert "asyncio" in client
    assert not client & {"psycopg", "click", "msgspec", "falconas.exttypes"}


def test_errors_load_nothing_else() -> None:
    errors = loaded_by("from falconas import FalconError, InvalidArgument")
    assert not errors & {"zmq", "msgpack", "asyncio", "falconas.codec"}

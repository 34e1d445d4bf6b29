from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from psycopg.conninfo import conninfo_to_dict

from falconas.database.conninfo import DEFAULTS, InvalidDsn, conninfo

if TYPE_CHECKING:
    from pathlib import Path

INTERVAL = "-c client_connection_check_interval=250ms"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("PG"):
            monkeypatch.delenv(name)


def test_defaults_fill_what_the_dsn_leaves_open() -> None:
    known = conninfo_to_dict(conninfo("host=h", application_name="falconas/a/1"))
    assert known == DEFAULTS | {
        "host": "h",
        "application_name": "falconas/a/1",
        "options": INTERVAL,
    }


def test_what_the_dsn_says_counts() -> None:
    dsn = "postgresql://u@h/d?connect_timeout=9&options=-c%20search_path%3Da"
    known = conninfo_to_dict(conninfo(f"{dsn}&application_name=mine"))
    assert known["connect_timeout"] == "9"
    assert known["application_name"] == "mine"
    assert known["options"] == f"{INTERVAL} -c search_path=a"


def test_what_the_environment_says_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGCONNECT_TIMEOUT", "8")
    monkeypatch.setenv("PGAPPNAME", "mine")
    monkeypatch.setenv("PGOPTIONS", "-c work_mem=1MB")
    known = conninfo_to_dict(conninfo("", application_name="ours"))
    assert "connect_timeout" not in known
    assert "application_name" not in known
    assert known["options"] == f"{INTERVAL} -c work_mem=1MB"


@pytest.mark.parametrize("before", [None, "other"])
def test_what_the_service_file_says_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str | None
) -> None:
    path = tmp_path / "service.conf"
    path.write_text("[shop]\nhost=h\nkeepalives_idle=60\noptions=-c work_mem=2MB\n")
    monkeypatch.setenv("PGSERVICEFILE", str(path))
    if before is not None:
        monkeypatch.setenv("PGSERVICE", before)
    known = conninfo_to_dict(conninfo("service=shop"))
    assert "keepalives_idle" not in known
    assert known["keepalives_count"] == DEFAULTS["keepalives_count"]
    assert known["options"] == f"{INTERVAL} -c work_mem=2MB"
    assert os.environ.get("PGSERVICE") == before


def test_settings_stand_in_the_options_and_are_escaped() -> None:
    known = conninfo_to_dict(conninfo("", settings={"datestyle": "ISO, DMY\\"}))
    assert known["options"] == f"{INTERVAL} -c datestyle=ISO,\\ DMY\\\\"


@pytest.mark.parametrize("dsn", ["s3cret", "password=s3cret x", "foo=s3cret"])
def test_a_malformed_dsn_is_refused_without_quoting_it(dsn: str) -> None:
    with pytest.raises(InvalidDsn, match=r"write postgresql://") as caught:
        conninfo(dsn)
    assert "s3cret" not in str(caught.value)

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from psycopg.conninfo import conninfo_to_dict

from falconas.database.conninfo import (
    DEFAULTS,
    InvalidDsn,
    address,
    at,
    by_host,
    conninfo,
    merged,
    server,
)

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


@pytest.mark.parametrize(
    ("dsn", "word", "meant"),
    [
        ("hots=db1", "hots", "host"),
        ("host=a database=shop", "database", "dbname"),
        ("postgresql://u@h/d?sslmod=require", "sslmod", "sslmode"),
    ],
)
def test_a_misspelt_keyword_is_named(dsn: str, word: str, meant: str) -> None:
    why = f"no keyword {word}: did you mean {meant}\\?; write postgresql://"
    with pytest.raises(InvalidDsn, match=why):
        conninfo(dsn)


def test_the_server_of_a_dsn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert server("host=a port=5432 dbname=d") == ("a", "d")
    assert server("host=a hostaddr=1.1.1.1 user=u") == ("1.1.1.1", "u")
    assert server("port=6000 dbname=d") == ("localhost:6000", "d")
    assert server("dbname=d").place == ""
    path = tmp_path / "service.conf"
    path.write_text("[shop]\nhost=h\ndbname=d\n")
    monkeypatch.setenv("PGSERVICEFILE", str(path))
    assert server("service=shop") == ("h", "d")
    monkeypatch.setenv("PGHOST", "p")
    assert server("dbname=d") == ("p", "d")


@pytest.mark.parametrize(
    ("dsn", "found"),
    [
        ("host=a", {"a": "host=a"}),
        ("", {"localhost": ""}),
        ("host=a port=6000", {"a:6000": "host=a port=6000"}),
        ("host=a,b port=6000", {"a:6000": "host=a port=6000", "b:6000": None}),
        ("host=a,a port=,6000", {"a": "host=a", "a:6000": "host=a port=6000"}),
        ("hostaddr=1.1.1.1,1.1.1.2", {"1.1.1.1": "hostaddr=1.1.1.1", "1.1.1.2": None}),
        (
            "postgresql://u@a:1,b:2/d",
            {"a:1": "user=u host=a port=1 dbname=d"} | {"b:2": None},
        ),
    ],
)
def test_hosts_of_a_dsn(dsn: str, found: dict[str, str | None]) -> None:
    got = by_host(dsn)

    assert list(got) == list(found)
    for label, wanted in found.items():
        if wanted is not None:
            assert conninfo_to_dict(got[label]) == conninfo_to_dict(wanted)


@pytest.mark.parametrize(
    ("dsn", "why"),
    [
        ("host=a,b port=1,2,3", "3 hosts or ports, but 2 of host"),
        ("host=a,b hostaddr=1.1.1.1", "2 hosts or ports, but 1 of hostaddr"),
        ("host=a,a", "names a host twice"),
        ("hidden", "malformed"),
    ],
)
def test_hosts_that_do_not_fit(dsn: str, why: str) -> None:
    with pytest.raises(InvalidDsn, match=why):
        by_host(dsn)


def test_merged_keeps_what_only_the_first_says() -> None:
    both = merged("host=a user=u password='x y'", "postgresql://b:6000")

    assert conninfo_to_dict(both) == {
        "host": "b",
        "port": "6000",
        "user": "u",
        "password": "x y",
    }


def test_a_dsn_can_be_moved_to_another_address() -> None:
    dsn = (
        "postgresql://u:s%20s@a:1,b:2/d?hostaddr=1.1.1.1,1.1.1.2"
        "&sslmode=verify-full&target_session_attrs=primary"
    )

    moved = at(dsn, host="c", hostaddr="2.2.2.2", port="3")

    assert conninfo_to_dict(moved) == {
        "host": "c",
        "hostaddr": "2.2.2.2",
        "port": "3",
        "user": "u",
        "password": "s s",
        "dbname": "d",
        "sslmode": "verify-full",
    }


def test_the_address_of_a_dsn() -> None:
    assert address("postgresql://u@a:1/d") == {"host": "a", "port": "1"}
    assert address("dbname=d") == {}


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://u:pass@w0rd@h/d",
        "postgresql://u:pass/w0rd@h/d",
        "postgresql://u:pass/w0rd@h,i/d",
        "host=h,me@w0rd",
        "host=h port=w0rd",
    ],
)
def test_a_part_of_a_password_is_not_taken_for_host_or_port(dsn: str) -> None:
    with pytest.raises(InvalidDsn, match="write %40, %3A and %2F for") as caught:
        conninfo(dsn)
    assert "w0rd" not in str(caught.value)


@pytest.mark.parametrize("dsn", ["host=@abstract", "host=a,b port=,6000", "port=' 1 '"])
def test_unusual_hosts_and_ports_are_well(dsn: str) -> None:
    assert by_host(dsn)

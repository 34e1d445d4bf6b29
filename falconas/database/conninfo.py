"""How FalconAS connects: the user's DSN, and defaults for what it leaves open.

With libpq's own defaults a connection into a black hole hangs for minutes, and the
server goes on with the SQL of a client that is gone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from typing import NamedTuple

from psycopg import ProgrammingError, pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo

DEFAULTS = {
    "connect_timeout": "3",
    "keepalives": "1",
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "2",
    "tcp_user_timeout": "5000",
}
PORT = "5432"
HOST_LISTS = ("host", "hostaddr", "port")
OF_SEVERAL = {*HOST_LISTS, "target_session_attrs", "load_balance_hosts"}
SETTINGS = {"client_connection_check_interval": "250ms"}


class Server(NamedTuple):
    """What a DSN leads to, with libpq's own sources; `place` is empty if none says."""

    place: str
    dbname: str


class InvalidDsn(ValueError):
    """The DSN is not one that libpq understands."""


def conninfo(
    dsn: str, *, application_name: str = "", settings: Mapping[str, str] | None = None
) -> str:
    """Return a complete conninfo string: what the user says goes before our defaults.

    Args:
        dsn: Key=value pairs or a postgresql:// URL; empty for libpq's own sources
            (PG… variables, service file).
        application_name: Name shown in pg_stat_activity unless the user set one.
        settings: PostgreSQL parameters for the session. They stand in `options`, so
            that RESET ALL returns to them.

    Raises:
        InvalidDsn: The text never quotes the DSN: it may hold a password.
    """
    given = _read(dsn)
    known = _elsewhere(given.get("service")) | given
    wanted = DEFAULTS | (
        {"application_name": application_name} if application_name else {}
    )
    missing = {key: value for key, value in wanted.items() if key not in known}
    options = " ".join(
        [
            *(f"-c {key}={_escape(value)}" for key, value in SETTINGS.items()),
            *(f"-c {key}={_escape(value)}" for key, value in (settings or {}).items()),
            known.get("options", ""),  # last: the user's word counts
        ]
    ).strip()
    return make_conninfo("", **(given | missing | {"options": options}))


def merged(base: str, dsn: str) -> str:
    """Return a DSN that has what `dsn` says, and from `base` what it leaves out.

    Raises:
        InvalidDsn: One of them is not one that libpq understands.
    """
    return make_conninfo("", **(_read(base) | _read(dsn)))


def by_host(dsn: str) -> dict[str, str]:
    """Return a DSN for each host of a DSN, by `host[:port]`; the port only if not 5432.

    Whichever host a DSN with several means is for us to choose, so that it has no say
    in that any more (`target_session_attrs`, `load_balance_hosts`).

    Raises:
        InvalidDsn: libpq would not understand it, also if it has more ports than hosts.
    """
    given = _read(dsn)
    lists = {key: given[key].split(",") for key in HOST_LISTS if given.get(key)}
    count = max(map(len, lists.values()), default=1)
    if count == 1:
        return {label(given): dsn}
    for key, values in lists.items():
        if len(values) == 1 and key == "port":
            lists[key] = values * count
        elif len(values) != count:
            raise InvalidDsn(
                f"the DSN has {count} hosts or ports, but {len(values)} of {key}"
            )
    shared = {key: value for key, value in given.items() if key not in OF_SEVERAL}
    found = [
        shared | {key: values[index] for key, values in lists.items() if values[index]}
        for index in range(count)
    ]
    labelled = {label(one): make_conninfo("", **one) for one in found}
    if len(labelled) < count:
        raise InvalidDsn("the DSN names a host twice")
    return labelled


def address(dsn: str) -> dict[str, str]:
    """Return what a DSN says of host, hostaddr and port.

    Raises:
        InvalidDsn: libpq would not understand it.
    """
    given = _read(dsn)
    return {key: given[key] for key in HOST_LISTS if given.get(key)}


def server(dsn: str) -> Server:
    """Return the server and the database that a DSN for one host leads to.

    Raises:
        InvalidDsn: libpq would not understand it.
    """
    given = _read(dsn)
    known = _elsewhere(given.get("service")) | given
    said = any(known.get(key) for key in HOST_LISTS)
    if known.get("hostaddr"):  # the host is a name for the certificate only
        known["host"] = known["hostaddr"]
    name = known.get("dbname") or known.get("user", "")
    return Server(label(known) if said else "", name)


def at(dsn: str, **address: str) -> str:
    """Return a DSN for one server: at that host, hostaddr and port instead.

    Raises:
        InvalidDsn: libpq would not understand it.
    """
    shared = {key: one for key, one in _read(dsn).items() if key not in OF_SEVERAL}
    return make_conninfo("", **shared, **address)


def label(given: Mapping[str, str]) -> str:
    """Return what to call an address; the port only if it is not the usual one."""
    host = given.get("host") or given.get("hostaddr") or "localhost"
    port = given.get("port", PORT)
    return host if port == PORT else f"{host}:{port}"


def _read(dsn: str) -> dict[str, str]:
    try:
        found = {key: str(value) for key, value in conninfo_to_dict(dsn).items()}
    except ProgrammingError as error:
        why = _misspelt(str(error)) or "the DSN is malformed"
    else:
        why = _misread(found)
    if not why:
        return found
    raise InvalidDsn(
        f"{why}; write postgresql://user@host:5432/name"
        ' or "host=… port=… dbname=… user=…"'
    )


def _misread(found: Mapping[str, str]) -> str:
    """Return why libpq has taken a part of a password for host or port, if it has."""
    hosts, ports = (found.get(key, "").split(",") for key in ("host", "port"))
    if any("@" in host[1:] for host in hosts):  # before an abstract socket it stands
        wrong = "host with an @"
    elif not all(port.strip().isdigit() for port in ports if port):
        wrong = "port that is no number"
    else:
        return ""
    return f"the DSN has a {wrong}: write %40, %3A and %2F for @, : and / in a password"


def _misspelt(text: str) -> str:
    """Return which keyword libpq does not know, if it is like one that it knows.

    Any other may be a part of a password that has a space in it.
    """
    found = re.search(r'(?:invalid connection option|query parameter:) "(.*)"', text)
    if not found:
        return ""
    known = [option.keyword.decode() for option in pq.Conninfo.get_defaults()]
    word = found[1]
    near = ["dbname"] if word == "database" else get_close_matches(word, known, 1)
    return "".join(f"the DSN has no keyword {word}: did you mean {it}?" for it in near)


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace(" ", "\\ ")


def _elsewhere(service: str | None) -> dict[str, str]:
    """Return what libpq would take from PG… variables and from the service file."""
    with _environment("PGSERVICE", service):
        found = pq.Conninfo.get_defaults()
    return {
        option.keyword.decode(): option.val.decode()
        for option in found
        if option.val is not None and option.val != option.compiled
    }


@contextmanager
def _environment(name: str, value: str | None) -> Iterator[None]:
    """Set a variable for a moment: libpq reads a service file only by it."""
    if value is None:
        yield
        return
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before

"""What Patroni says of its cluster: pure.

`GET /cluster` of its REST API answers with the members that it has heard of, as
https://patroni.readthedocs.io/en/latest/rest_api.html (Cluster status endpoints) shows:
a map with `members`, a list of maps with `name`, `role`, `state`, `host`, `port` and
`tags`. The role is not used: which node is the primary, each says itself.
"""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple
from urllib.parse import urlsplit

import msgspec

from falconas.options import Url

LIMIT = 1 << 20  # bytes of an answer
# The state of a standby is that of its replication, where Patroni knows it.
RUNNING = frozenset({"running", "streaming", "in archive recovery"})
RESERVES = ("noloadbalance", "nofailover")

_Name = Annotated[str, msgspec.Meta(pattern=r"\A[^\s/,\x00-\x1f\x7f]{1,128}\Z")]
_Host = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9_.:%-]{1,255}\Z")]
_Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]


class Member(msgspec.Struct, frozen=True):
    """One PostgreSQL server of a Patroni cluster.

    Attributes:
        name: Unique in the cluster.
        state: What it does at present.
        host: Where it listens; None as long as it never did.
        port: At which port.
        tags: What its administrator says of it.
    """

    name: _Name
    state: str = ""
    host: _Host | None = None
    port: _Port = 5432
    tags: dict[str, Any] | None = None

    @property
    def running(self) -> bool:
        """Whether it takes connections."""
        return self.state in RUNNING

    @property
    def reserve(self) -> bool:
        """Whether it is tagged to get no load."""
        tags = self.tags or {}
        return any(tags.get(tag) is True for tag in RESERVES)


class _Cluster(msgspec.Struct):
    members: list[Member]


class Api(NamedTuple):
    """Where to ask.

    Attributes:
        secure: By TLS.
        host: The host.
        port: The port; None for the scheme's.
        path: What to get.
    """

    secure: bool
    host: str
    port: int | None
    path: str

    @classmethod
    def of(cls, url: str) -> Api:
        """Read the URL of a REST API, like http://10.0.0.1:8008.

        Raises:
            ValueError: It is none, or has user and password.
        """
        try:
            parts = urlsplit(Url().parse(url))
        except ValueError as error:
            raise ValueError(f"the URL of Patroni's REST API {error}") from None
        path = parts.path.rstrip("/").removesuffix("/cluster")
        secure = parts.scheme == "https"
        return cls(secure, parts.hostname or "", parts.port, f"{path}/cluster")

    def __str__(self) -> str:
        """Return what to call it in the log."""
        return f"{self.host}:{self.port}" if self.port else self.host


def members(body: bytes) -> list[Member]:
    """Return the members that an answer lists and that have an address.

    Raises:
        ValueError: It is not what Patroni's documentation describes.
    """
    if len(body) > LIMIT:
        raise ValueError(f"the answer has more than {LIMIT} bytes")
    try:
        listed = msgspec.json.decode(body, type=_Cluster).members
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise ValueError(f"the answer is not one of Patroni's: {error}") from None
    if len({member.name for member in listed}) < len(listed):
        raise ValueError("two members have the same name")
    return [member for member in listed if member.host]

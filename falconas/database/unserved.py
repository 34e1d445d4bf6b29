"""Why a request was not started here, though it may be elsewhere."""

from __future__ import annotations

from typing import Any, ClassVar


class Unserved(Exception):
    """The request was not started, and this node is to blame.

    Attributes:
        reason: In a word or two, for logs.
        extras: What else the broker should know.
    """

    reason: ClassVar[str]
    extras: ClassVar[dict[str, Any]] = {}


class SessionLost(Unserved):
    """The connection failed before the script was started: the request is untouched."""

    reason = "no database connection"


class Refused(SessionLost):
    """The node takes no writes."""

    reason = "read-only"
    extras: ClassVar[dict[str, Any]] = {"refused": True}


class Behind(Unserved):
    """The node does not show yet what the request is to see."""

    reason = "behind"
    extras: ClassVar[dict[str, Any]] = {"behind": True}

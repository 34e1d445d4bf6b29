"""What the shop says, whichever server runs it; wsgi.py and asgi.py do the work."""

from __future__ import annotations

import json
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie
from typing import Any, NamedTuple

from falconas import Started

SHOW = "SELECT name, stock FROM item WHERE id = %s"
BUY = "UPDATE item SET stock = stock - 1 WHERE id = %s AND stock > 0 RETURNING stock"
UNSURE = "nobody can say whether it was bought: look before you try again"
USAGE = {"error": "GET /item/1, POST /item/1/buy, GET /nodes"}


class Reply(NamedTuple):
    """An answer; `seen` is what the caller is to find in later answers."""

    status: HTTPStatus
    body: Any
    seen: int | None = None


def route(method: str, path: str) -> tuple[str, int]:
    """Return what is asked for: "show", "buy", "nodes" or "", and the item."""
    match method, path.strip("/").split("/"):
        case "GET", ["nodes"]:
            return "nodes", 0
        case "GET", ["item", number] if _is_small(number):
            return "show", int(number)
        case "POST", ["item", number, "buy"] if _is_small(number):
            return "buy", int(number)
    return "", 0


def shown(row: tuple[Any, ...] | None, port: int) -> Reply:
    """Return an item, and the port of the node that had it."""
    if row is None:
        return Reply(HTTPStatus.NOT_FOUND, {"error": "no such item"})
    return Reply(HTTPStatus.OK, {"name": row[0], "stock": row[1], "port": port})


def bought(row: tuple[Any, ...] | None, seen: int | None) -> Reply:
    """Return what is left of an item."""
    if row is None:
        return Reply(HTTPStatus.CONFLICT, {"error": "sold out, or no such item"})
    return Reply(HTTPStatus.OK, {"stock": row[0]}, seen)


def failed(error: Exception) -> Reply:
    """Return what to say when the database did not do it."""
    if getattr(error, "started", None) is Started.UNKNOWN:
        return Reply(HTTPStatus.INTERNAL_SERVER_ERROR, {"error": UNSURE})
    return Reply(HTTPStatus.SERVICE_UNAVAILABLE, {"error": str(error)})


def seen_by(cookies: str) -> int | None:
    """Return the position in the log that the caller's cookie names."""
    try:
        value = SimpleCookie(cookies)["lsn"].value
    except (CookieError, KeyError):
        return None
    return int(value) if value.isdecimal() and len(value) < 20 else None


def encode(reply: Reply) -> tuple[list[tuple[str, str]], bytes]:
    """Return headers and body."""
    body = json.dumps(reply.body).encode()
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    if reply.status is HTTPStatus.SERVICE_UNAVAILABLE:
        headers.append(("Retry-After", "1"))
    if reply.seen is not None:
        headers.append(("Set-Cookie", f"lsn={reply.seen}; Path=/; Max-Age=60"))
    return headers, body


def _is_small(number: str) -> bool:
    return number.isdecimal() and len(number) < 10

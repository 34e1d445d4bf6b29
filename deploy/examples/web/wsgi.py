"""A shop on many database nodes, for any WSGI server; it needs no framework.

The pool is a global and opens with the first request: a server that loads the
application and forks afterwards has one pool in each process.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from http import HTTPStatus
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIServer, make_server

import psycopg
import shop
from shop import Reply

from falconas import NodePool, ResourceExhausted, Unavailable

pool = NodePool.from_config(group="web")


def show(number: int, seen: int | None) -> Reply:
    """Ask any node that is up and has what the caller has bought before."""
    with pool.connection("read", max_lag=5, min_lsn=seen) as connection:
        row = connection.execute(shop.SHOW, [number]).fetchone()
        return shop.shown(row, connection.info.port)


def buy(number: int) -> Reply:
    """Take one from the stock, on the primary."""
    with pool.connection() as connection:
        row = connection.execute(shop.BUY, [number]).fetchone()
    seen = None  # from here on it is bought, whatever happens
    with suppress(Unavailable, ResourceExhausted, psycopg.OperationalError):
        seen = pool.lsn(timeout=1)
    return shop.bought(row, seen)


def answer(environ: dict[str, Any]) -> Reply:
    """Do what is asked for."""
    action, number = shop.route(environ["REQUEST_METHOD"], environ["PATH_INFO"])
    try:
        if action == "show":
            return show(number, shop.seen_by(environ.get("HTTP_COOKIE", "")))
        if action == "buy":
            return buy(number)
    except (Unavailable, ResourceExhausted, psycopg.OperationalError) as error:
        return shop.failed(error)
    if action == "nodes":
        return Reply(HTTPStatus.OK, pool.statistics())
    return Reply(HTTPStatus.NOT_FOUND, shop.USAGE)


def application(
    environ: dict[str, Any], start_response: Callable[..., Any]
) -> Iterable[bytes]:
    """Be what a WSGI server calls."""
    reply = answer(environ)
    headers, body = shop.encode(reply)
    start_response(f"{reply.status.value} {reply.status.phrase}", headers)
    return [body]


class Server(ThreadingMixIn, WSGIServer):
    """A thread for each connection: to try it out. Have a real server in production."""

    daemon_threads = True


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8000
    with make_server("127.0.0.1", port, application, Server) as server:
        print(f"http://127.0.0.1:{server.server_port}", flush=True)
        server.serve_forever()

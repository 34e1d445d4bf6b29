"""Stands in for Patroni's REST API: answers as its documentation says, or badly."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any

from psycopg.conninfo import conninfo_to_dict

Handler = BaseHTTPRequestHandler
Behaviour = Callable[[Handler], None]


class Patroni:
    """One member's API.

    Attributes:
        url: Where it is.
        members: What it lists.
        behaviour: What it does when asked.
        asked: The paths that it was asked for.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.members: list[dict[str, Any]] = []
        self.behaviour: Behaviour = self.answer
        self.asked: list[str] = []
        self.ended = Event()

    def answer(self, handler: Handler) -> None:
        """Answer as documented."""
        self.reply(handler, json.dumps({"members": self.members, "scope": "demo"}))

    @staticmethod
    def reply(handler: Handler, body: str, status: int = 200) -> None:
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        handler.end_headers()
        handler.wfile.write(body.encode())

    def hang(self, _: Handler) -> None:
        """Say nothing at all."""
        self.ended.wait(30)

    def flood(self, handler: Handler) -> None:
        """Never stop."""
        handler.send_response(200)
        handler.end_headers()
        while not self.ended.is_set():
            handler.wfile.write(b" " * 65536)

    def drip(self, handler: Handler) -> None:
        """Send a byte now and then, each soon enough for a socket's timeout."""
        handler.send_response(200)
        handler.end_headers()
        while not self.ended.wait(0.01):
            handler.wfile.write(b" ")


@contextmanager
def standing_in() -> Iterator[Patroni]:
    """Serve until the end of the block."""

    class Asked(Handler):
        def do_GET(self) -> None:  # noqa: N802
            patroni.asked.append(self.path)
            with suppress(OSError):  # who asked went away
                patroni.behaviour(self)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Asked)
    server.daemon_threads = False  # so that all are waited for
    patroni = Patroni(f"http://127.0.0.1:{server.server_port}")
    thread = Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield patroni
    finally:
        patroni.ended.set()
        server.shutdown()
        server.server_close()
        thread.join()


def member(name: str, dsn: str = "host=h port=5432", **more: Any) -> dict[str, Any]:
    """Return how a member that runs is listed."""
    address: Mapping[str, Any] = conninfo_to_dict(dsn)
    return {
        "name": name,
        "role": "replica",
        "state": "streaming",
        "api_url": "http://127.0.0.1:8008/patroni",
        "host": address["host"],
        "port": int(address["port"]),
        "timeline": 1,
        "lag": 0,
        **more,
    }

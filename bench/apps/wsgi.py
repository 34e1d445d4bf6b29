"""The classic model: threads of one process and a `NodePool`, as a WSGI application."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qs

from bench.pieces import PIECES
from falconas import NodePool, PoolOptions

SIZE = int(os.environ["BENCH_CONNECTIONS"])

pool = NodePool(
    os.environ["BENCH_DSN"], PoolOptions(min_size=SIZE, max_size=SIZE, timeout=30.0)
)


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    piece = PIECES[environ["PATH_INFO"][1:]]
    (key,) = parse_qs(environ["QUERY_STRING"])["key"]
    with pool.connection("read") as connection:
        value = piece(connection, int(key))
    body = json.dumps(value).encode()
    start_response(
        "200 OK",
        [("Content-Type", "application/json"), ("Content-Length", str(len(body)))],
    )
    return [body]

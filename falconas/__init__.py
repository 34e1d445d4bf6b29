"""FalconAS: named Python scripts, served over ZeroMQ by worker processes."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from falconas.errors import (
    Aborted,
    AlreadyExists,
    Cancelled,
    Code,
    DeadlineExceeded,
    FailedPrecondition,
    FalconError,
    Internal,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    ScriptError,
    Started,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)

if TYPE_CHECKING:
    from falconas.client.aio import AsyncCall, AsyncClient
    from falconas.client.sync import Call, Client
    from falconas.database.options import PoolOptions
    from falconas.database.pool import NodePool
    from falconas.database.pool_async import AsyncNodePool
    from falconas.database.topology import Node
    from falconas.worker.context import Context
    from falconas.worker.declaration import script

__all__ = [
    "Aborted",
    "AlreadyExists",
    "AsyncCall",
    "AsyncClient",
    "AsyncNodePool",
    "Call",
    "Cancelled",
    "Client",
    "Code",
    "Context",
    "DeadlineExceeded",
    "FailedPrecondition",
    "FalconError",
    "Internal",
    "InvalidArgument",
    "Node",
    "NodePool",
    "NotFound",
    "PermissionDenied",
    "PoolOptions",
    "ResourceExhausted",
    "ScriptError",
    "Started",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "script",
]

# Imported when asked for: a client needs no psycopg and a script no zmq.
_LAZY = {
    "AsyncCall": "falconas.client.aio",
    "AsyncClient": "falconas.client.aio",
    "AsyncNodePool": "falconas.database.pool_async",
    "Call": "falconas.client.sync",
    "Client": "falconas.client.sync",
    "Context": "falconas.worker.context",
    "Node": "falconas.database.topology",
    "NodePool": "falconas.database.pool",
    "PoolOptions": "falconas.database.options",
    "script": "falconas.worker.declaration",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__

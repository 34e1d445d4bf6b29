"""All that is compared, in the order of the tables."""

from __future__ import annotations

from bench.peers import web
from bench.peers.base import Peer
from bench.peers.celery import Celery
from bench.peers.direct import Direct
from bench.peers.falconas import FalconAS, RawFalconAS
from bench.peers.gearman import Gearman
from bench.peers.grpc import Grpc
from bench.peers.nats import Nats
from bench.peers.pgbench import Pgbench
from bench.peers.proxy import Proxy

PEERS: dict[str, Peer] = {
    "falconas": FalconAS(),
    "falconas-4": FalconAS(workers=4),
    "falconas-rollback": FalconAS("rollback"),
    "falconas-raw": RawFalconAS(),
    "proxy": Proxy(),
    "nats": Nats(),
    "gearman": Gearman(),
    "celery": Celery(),
    "grpc": Grpc(),
    "uvicorn": web.threads(web.UVICORN, 1),
    "uvicorn-2": web.threads(web.UVICORN, 2),
    "granian": web.threads(web.GRANIAN, 1),
    "granian-2": web.threads(web.GRANIAN, 2),
    "asyncpg-2": web.coroutines(2),
    "fastapi-40": web.fastapi(40),
    "fastapi-asyncpg-2": web.fastapi_async(2),
    "direct": Direct("bare"),
    "direct-reset": Direct("with reset"),
    "pgbench": Pgbench(),
    "threads-10": web.node_pool(10),
    "threads-40": web.node_pool(40),
    "fastapi-10": web.fastapi(10),
}
# Measured for the models only; a peer of the same kind stands for them elsewhere.
OTHER_SIZES = frozenset({"falconas-4", "threads-10", "threads-40", "fastapi-10"})
# How the models of the design are compared: the usual ways, in their usual sizes.
MODELS = (
    "threads-10",
    "threads-40",
    "fastapi-10",
    "fastapi-40",
    "falconas",
    "falconas-4",
)

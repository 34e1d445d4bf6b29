"""All that is compared, in the order of the tables."""

from __future__ import annotations

from bench.peers.base import Peer
from bench.peers.direct import Direct
from bench.peers.falconas import FalconAS, RawFalconAS
from bench.peers.proxy import Proxy

PEERS: dict[str, Peer] = {
    "falconas": FalconAS("soft"),
    "falconas-rollback": FalconAS("rollback"),
    "falconas-raw": RawFalconAS(),
    "proxy": Proxy(),
    "direct": Direct("bare"),
    "direct-reset": Direct("with reset"),
}

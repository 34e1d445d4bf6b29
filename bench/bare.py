"""The broker's sockets and its loop without its decisions: `python -m bench.bare`.

A request goes to the worker that has been idle for longest, or waits; its answer goes
back. Nothing is decoded, remembered of a request but its client, or decided. What that
costs is libzmq's and the loop's share of what the broker costs among the same peers.
"""

from __future__ import annotations

import os
from collections import deque
from types import MethodType
from typing import Any

import zmq

from falconas.broker.loop import BrokerLoop
from falconas.broker.records import Socket
from falconas.config import load
from falconas.heap import keep_freed
from falconas.settings import Settings

COMMAND, ID = 2, slice(5, 21)  # in the headers that are ours
REQUEST, REPLY = 3, 4
MORE = int(zmq.SNDMORE) | int(zmq.NOBLOCK)
LAST = int(zmq.NOBLOCK)


class Bare(BrokerLoop):
    """All but requests and their answers goes the broker's way."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._idle: deque[bytes] = deque()
        self._waiting: deque[tuple[bytes, bytes]] = deque()
        self._clients: dict[bytes, bytes] = {}
        self._out: list[tuple[Socket, bytes, bytes, bytes]] = []
        send = zmq.backend.Socket.send
        self._puts = [MethodType(send, socket) for socket in self._sockets]

    def _message(self, role: Socket, frames: list[Any], now: float) -> None:
        identity, header, body = frames
        command = header[COMMAND]
        if role is Socket.FRONTEND and command == REQUEST:
            self._count("requests", 1)
            self._clients[header[ID]] = identity
            self._waiting.append((header, body))
        elif role is Socket.BACKEND and command == REPLY:
            client = self._clients.pop(header[ID])
            self._out.append((Socket.FRONTEND, client, header, body))
            self._idle.append(identity)
        else:
            super()._message(role, frames, now)
            if role is Socket.BACKEND:
                self._idle.append(identity)
        while self._waiting and self._idle:
            header, body = self._waiting.popleft()
            self._out.append((Socket.BACKEND, self._idle.popleft(), header, body))

    def _flush(self) -> None:
        out, self._out = self._out, []
        for role, identity, header, body in out:
            put = self._puts[role]
            put(identity, MORE)
            put(header, MORE)
            put(body, LAST)
        super()._flush()


def main() -> None:
    keep_freed()
    loop = Bare(load(None, os.environ, {}))
    loop.handle_signals()
    loop.run()
    loop.close()


if __name__ == "__main__":
    main()

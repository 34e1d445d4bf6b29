"""Many peers in one process: `python -m bench.crowd workers|clients CONFIG`.

They are real DEALERs that speak the protocol as workers, their supervisor and clients
do, but nobody runs a script: a worker answers at once with what it was sent, in the
order in which it was sent it. A client sends one request for each answer, and clients
take turns, so that the same number is under way however many there are.

Orders come as words on stdin, figures go as JSON lines to stdout; the end of stdin is
the end. While the workers are told to `pause` nothing moves, and nothing is lost.
"""

from __future__ import annotations

import json
import os
import select
import sys
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import msgpack
import zmq

from bench.rehearsal import BODY, BUDGET, GROUP, HELD, MANIFEST, SERVED, Scale
from falconas.codec import encode_value
from falconas.messages import Command
from falconas.protocol import Heartbeat, Hello, Message, Ready, Register, Request
from falconas.protocol import encode as header_of

PEERS = 20_000
AT_ONCE = 250  # peers that introduce themselves together
WARM = 0.3
STDIN = 0
PARENT = -1
FOREVER = -1.0
SUPERVISOR = b"supervisor".ljust(16, b".")
OPTIONS = {
    zmq.LINGER: 0,
    zmq.SNDHWM: 0,
    zmq.HEARTBEAT_IVL: 1000,
    # Else libzmq would look for a timer among those of all, for each answer.
    zmq.HEARTBEAT_TIMEOUT: 0,
    zmq.HEARTBEAT_TTL: 3000,
}


class Crowd:
    """DEALERs by number, and what they hear."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        # One, however many peers: so the same threads run beside the broker.
        self._context: zmq.Context[Any] = zmq.Context()
        self._context.set(zmq.MAX_SOCKETS, PEERS)
        self._sockets: list[zmq.Socket[bytes]] = []
        self._numbers: dict[int, int] = {}
        self._unread: set[int] = set()
        self._poll = select.epoll()
        self._poll.register(STDIN, select.EPOLLIN)

    def __len__(self) -> int:
        return len(self._sockets)

    def join(self, endpoint: str | None = None) -> int:
        """Connect one more; return its number."""
        number = len(self._sockets)
        socket = self._context.socket(zmq.DEALER)
        for option, value in OPTIONS.items():
            socket.set(option, value)
        socket.connect(endpoint or self._endpoint)
        self._sockets.append(socket)
        fd = socket.get(zmq.FD)
        self._numbers[fd] = number
        self._poll.register(fd, select.EPOLLIN)
        return number

    def send(self, number: int, header: bytes, body: bytes) -> None:
        """Send; what this has taken note of shall be read, for no fd tells it again."""
        socket = self._sockets[number]
        socket.send(header, zmq.SNDMORE)
        socket.send(body)
        self._unread.add(number)

    def say(self, number: int, message: Message, body: bytes = b"") -> None:
        self.send(number, header_of(message), body)

    def news(self, timeout: float) -> Iterator[tuple[int, list[Any], bytes]]:
        """Yield who was told what: number, header, body; the parent comes last."""
        unread, self._unread = self._unread, set()
        ready = {fd for fd, _ in self._poll.poll(0.0 if unread else timeout)}
        unread |= {self._numbers[fd] for fd in ready if fd != STDIN}
        for number in unread:
            socket = self._sockets[number]
            while int(socket.get(zmq.EVENTS)) & zmq.POLLIN:
                header, body = socket.recv(), socket.recv()
                yield number, msgpack.unpackb(header), body
        if STDIN in ready:
            words = os.read(STDIN, 1000).split()
            if not words:
                sys.exit()
            yield PARENT, words, b""

    def meet(self, greetings: list[tuple[int, Message, bytes]]) -> None:
        """Let some introduce themselves, and wait until all are welcome."""
        for number, message, body in greetings:
            self.say(number, message, body)
        welcome: set[int] = set()
        while len(welcome) < len(greetings):
            for number, header, _ in self.news(1.0):
                if header[1] == Command.WELCOME:
                    welcome.add(number)


class Workers:
    """A supervisor and its workers; the last one gets what is to be held."""

    def __init__(self, endpoints: dict[str, str], scale: Scale) -> None:
        self.crowd = Crowd(endpoints["backend"])
        self.scale = scale
        self._paused = True
        self._todo: list[tuple[int, bytes, bytes]] = []
        self._supervisor = self.crowd.join(endpoints["control"])
        register = Register(b"r", SUPERVISOR, "host", MANIFEST, {})
        self.crowd.meet([(self._supervisor, register, scale.manifest())])
        self._uuids: list[bytes] = []
        self._beat_at = 0.0

    def begin(self) -> None:
        left = self.scale.workers + 1
        while left:
            some = min(left, AT_ONCE)
            self.crowd.meet([self._ready() for _ in range(some)])
            left -= some
            self._beat()

    def run(self) -> None:
        while True:
            self._beat()
            for number, header, body in self.crowd.news(0.2):
                if number == PARENT:
                    self._paused = header[-1] == b"pause"
                elif header[1] == Command.REQUEST and header[3] != HELD:
                    self._todo.append((number, header[2], body))
                else:  # what is held, and answers to heartbeats
                    assert header[1] in {Command.REQUEST, Command.HEARTBEAT}, header
            if not self._paused:
                todo, self._todo = self._todo, []
                for number, id_, body in todo:
                    self._answer(number, id_, body)

    def _answer(self, number: int, id_: bytes, body: bytes) -> None:
        header = msgpack.packb((1, Command.REPLY, id_, 0, 0, SERVED))
        self.crowd.send(number, header, body)

    def _ready(self) -> tuple[int, Message, bytes]:
        number = self.crowd.join()
        uuid = b"worker%010d" % number
        self._uuids.append(uuid)
        group = GROUP if number <= self.scale.workers else HELD
        facts = {"host": "host", "index": number}
        ready = Ready(uuid, uuid, SUPERVISOR, group, MANIFEST, "main", facts)
        return number, ready, b""

    def _beat(self) -> None:
        if monotonic() < self._beat_at:
            return
        self._beat_at = monotonic() + 1.0
        node = ["main", "main", "primary", True, 0.0, 83, 1, ""]
        body = encode_value({"workers": self._uuids, "nodes": [node]})
        self.crowd.say(self._supervisor, Heartbeat(b"b", SUPERVISOR, {}), body)


class Clients:
    """Clients that keep so many requests outstanding, for ever."""

    def __init__(self, endpoints: dict[str, str], scale: Scale, broker: int) -> None:
        self.crowd = Crowd(endpoints["frontend"])
        self.scale = scale
        self._broker = broker
        self._names = scale.names()
        self._serial = 0
        self._answered = 0
        self._owed = 0

    def begin(self) -> None:
        while left := self.scale.clients - len(self.crowd):
            self.crowd.meet([self._hello() for _ in range(min(left, AT_ONCE))])

    def run(self) -> None:
        """Go on; `ask` and `hold` add so many requests, `measure` takes seconds."""
        while True:
            for number, header, _ in self.crowd.news(FOREVER):
                if number == PARENT:
                    self._told(*header)
                else:
                    self._hear(header)

    def _told(self, word: bytes, value: bytes) -> None:
        if word == b"measure":
            self._measure(float(value))
        else:
            for _ in range(int(value)):
                self._ask(HELD if word == b"hold" else None)

    def _measure(self, seconds: float) -> None:
        self._go_on(WARM)
        before, answered, began = cpu(self._broker), self._answered, monotonic()
        self._go_on(seconds)
        elapsed, after = monotonic() - began, cpu(self._broker)
        figures = {
            "answered": self._answered - answered,
            "seconds": elapsed,
            "loop": after[0] - before[0],
            "io": after[1] - before[1],
        }
        print(json.dumps(figures), flush=True)

    def _go_on(self, seconds: float) -> None:
        until = monotonic() + seconds
        while (left := until - monotonic()) > 0:
            for number, header, _ in self.crowd.news(left):
                if number != PARENT:
                    self._hear(header)

    def _hear(self, header: list[Any]) -> None:
        assert header[1] == Command.REPLY and not header[4], header  # noqa: PT018
        self._answered += 1
        self._ask()

    def _ask(self, script: str | None = None) -> None:
        script = script or self._names[self._serial % len(self._names)]
        self._serial += 1
        id_ = self._serial.to_bytes(16, "big")
        request = Request(id_, script, BUDGET, {"accept": ["ext"]})
        self.crowd.say(self._serial % len(self.crowd), request, BODY)

    def _hello(self) -> tuple[int, Message, bytes]:
        number = self.crowd.join()
        return number, Hello(b"h", b"session%09d" % number, {}), b""


def cpu(pid: int) -> tuple[int, int]:
    """Return the nanoseconds of a process's first thread, and of all others."""
    first, others = 0, 0
    for path in Path(f"/proc/{pid}/task").iterdir():
        spent = int((path / "schedstat").read_text().split()[0])
        if path.name == str(pid):
            first = spent
        else:
            others += spent
    return first, others


def main() -> None:
    config = json.loads(sys.argv[2])
    scale = Scale(**config["scale"])
    peers: Workers | Clients
    if sys.argv[1] == "workers":
        peers = Workers(config["endpoints"], scale)
    else:
        peers = Clients(config["endpoints"], scale, config["broker"])
    peers.begin()
    print("{}", flush=True)
    peers.run()


if __name__ == "__main__":
    main()

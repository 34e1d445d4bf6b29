"""A runner that real signals interrupt, and somebody beside it who cancels."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from falconas.codec import decode_value, encode_params
from falconas.database.session import Session
from falconas.protocol import Kind, Request
from falconas.worker.interrupt import Interrupts
from falconas.worker.runner import Outcome, Runner
from falconas.worker.scripts import Library, load
from falconas.worker.slot import SlotTable

EPOCH = b"epochepo"

# As a supervisor does it: from another process, into the slot, and then the signal.
CANCELLER = """
import os, signal, struct, sys, time
from falconas.worker.slot import SlotTable
slot = SlotTable.attach(int(sys.argv[1]), 1).slot(0)
while order := os.read(0, 24):
    at, = struct.unpack("=d", order[16:])
    while time.monotonic() < at: pass
    slot.cancel(order[:16])
    os.kill(os.getppid(), signal.SIGALRM)
    os.write(1, b".")
"""


def make_library(folder: Path, scripts: dict[str, str]) -> Library:
    """Load scripts from their texts."""
    for name, text in scripts.items():
        lines = [line.removeprefix(" " * 8) for line in text.splitlines()]
        path = folder / f"{name}.py"
        path.write_text("\n".join(["from falconas import script", *lines, ""]))
        path.chmod(0o644)
    library = load(folder)
    assert not library.errors, library.errors
    return library


class Canceller:
    """Cancels a request at a moment that is said before."""

    def __init__(self, fd: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", CANCELLER, str(fd)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=(fd,),
            bufsize=0,
        )

    def order(self, id_: bytes, at: float) -> None:
        import struct

        assert self._process.stdin is not None
        self._process.stdin.write(id_ + struct.pack("=d", at))

    def await_done(self) -> None:
        assert self._process.stdout is not None
        assert self._process.stdout.read(1) == b"."

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


class Stage:
    """A runner, and what a worker does around it."""

    def __init__(self, dsn: str, library: Library) -> None:
        self.dsn = dsn
        self.table = SlotTable.create(1)
        self.slot = self.table.slot(0)
        self.slot.clear(os.getpid())
        self.interrupts = Interrupts(self.slot.is_cancelled)
        self.interrupts.install()
        self.runner = Runner(
            library, self.connect(), self.slot, interrupts=self.interrupts
        )
        self.count = 0
        self.replaced = 0
        self._canceller: Canceller | None = None

    def connect(self) -> Session:
        return Session.connect(self.dsn, application_name="stage")

    def call(
        self,
        name: str,
        *,
        budget: float = 60.0,
        cancel_after: float | None = None,
        **params: Any,
    ) -> Outcome:
        """Serve a request; the reset is due afterwards."""
        self.count += 1
        id_ = EPOCH + self.count.to_bytes(8, "big")
        request, body = Request(id_, name, None, {}), encode_params(params)
        if cancel_after is not None:
            if self._canceller is None:
                self._canceller = Canceller(self.table.fd)
            self._canceller.order(id_, time.monotonic() + cancel_after)
        outcome = self.runner.run(request, body, time.monotonic() + budget)
        if cancel_after is not None and self._canceller is not None:
            self._canceller.await_done()
        return outcome

    def reset(self) -> bool:
        """Make ready for the next request; False: with a new connection."""
        sound = self.runner.reset()
        if not sound:
            self.replaced += 1
            self.runner.session = self.connect()
        return sound

    def close(self) -> None:
        self.interrupts.uninstall()
        self.runner.session.close()
        if self._canceller is not None:
            self._canceller.close()
        self.table.close()


def value(outcome: Outcome) -> Any:
    """Return the result of a request that went well."""
    decoded = decode_value(outcome.body)
    assert outcome.kind is Kind.OK, decoded
    return decoded


def error(outcome: Outcome) -> dict[str, Any]:
    """Return the error of a request that failed."""
    decoded = decode_value(outcome.body)
    assert outcome.kind is Kind.ERROR, decoded
    return {"code": outcome.code, **decoded}

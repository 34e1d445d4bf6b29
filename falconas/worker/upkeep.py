"""What a worker does between a reply and the next request, but for its session.

What a script has printed is logged, what it did to the process is undone, and what it
left behind is counted for the supervisor, which replaces a worker that is worn out.
"""

from __future__ import annotations

import logging
from time import monotonic
from typing import TYPE_CHECKING, Any

from falconas.worker.forks import Forks
from falconas.worker.process import ProcessState
from falconas.worker.slot import Slot, Spoiled
from falconas.worker.vitals import Vitals

if TYPE_CHECKING:
    from falconas.protocol import Request
    from falconas.worker.capture import Output

log = logging.getLogger("falconas.scripts")

# So often, in seconds, memory and descriptors of a busy worker are measured.
MEASURE = 0.02


class Upkeep:
    """Keeps the process as it was.

    Args:
        slot: Where the supervisor sees what was found.
        forks: Told which connections to keep from a script's copies of this process.
        output: What scripts print; None if that is not caught.
    """

    def __init__(self, slot: Slot, forks: Forks, output: Output | None = None) -> None:
        self._slot = slot
        self._forks = forks
        self._output = output
        self._state: ProcessState | None = None
        self._vitals: Vitals | None = None
        self._threads = 0
        self._measure_at = 0.0
        self._owing = False

    def connected(self, fd: int) -> None:
        """There is a database connection; with the first, this process is complete."""
        self._forks.guard(fd)
        if self._vitals is None:
            self._state = ProcessState()
            self._vitals = Vitals()

    def disconnected(self, fd: int) -> None:
        """That connection is about to be closed."""
        self._forks.unguard(fd)

    def tidy(self, request: Request) -> bool:
        """Do what is to be done after this request.

        Returns:
            False if threads of the script live on: they may be about to use the
            connection that was lent to it.
        """
        text, missing = ("", 0) if self._output is None else self._output.take()
        if self._state is not None and not self._state.restore(request.script):
            self._slot.spoil(Spoiled.STATE)
        if text:
            self._tell(request, text, missing)  # by a log that is in order again
        vitals = self._vitals
        if vitals is None:
            return True
        if vitals.has_children():
            self._slot.spoil(Spoiled.CHILDREN)
        if (threads := vitals.threads()) != self._threads:
            self._threads = threads
            self._slot.live(threads)
        self._owing = True
        self.measure()
        return not threads

    def measure(self) -> None:
        """Measure what requests have left, if that is due and still to be done.

        Many short requests are measured together. So it has to be called from time to
        time also when no more of them come.
        """
        if not self._owing or self._vitals is None:
            return
        if (now := monotonic()) >= self._measure_at:
            self._owing = False
            self._measure_at = now + MEASURE
            self._slot.wear(*self._vitals.measure())

    def _tell(self, request: Request, text: str, missing: int) -> None:
        if missing:
            text = f"{text}\n({missing} bytes more were left out)"
        origin: Any = request.extras.get("origin", request.id)
        facts = {
            "script": request.script,
            "request": origin.hex() if isinstance(origin, bytes) else str(origin),
        }
        log.info("printed: %s", text.rstrip("\n"), extra=facts)

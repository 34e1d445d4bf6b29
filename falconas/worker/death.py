"""How a worker ended, in words for people and in marks for the broker."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from falconas.worker.slot import State

if TYPE_CHECKING:
    from falconas.worker.slot import Snapshot
    from falconas.worker.watchdog import Kill

_AT_WORK = (State.RUN, State.COMMIT, State.REPLY, State.RESET)
_FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM)


class OutOfMemory:
    """Notices that the kernel has killed somebody for want of memory."""

    def __init__(self, path: Path = Path("/proc/vmstat")) -> None:
        self._path = path
        self._count = self._read()

    def moved(self) -> bool:
        """Tell whether it has since the last call."""
        before, self._count = self._count, self._read()
        return self._count > before

    def _read(self) -> int:
        try:
            lines = self._path.read_text().splitlines()
        except OSError:
            return 0
        return next((int(n.split()[1]) for n in lines if n.startswith("oom_kill ")), 0)


def describe(code: int) -> str:
    """Say how a process ended."""
    if code < 0:
        return f"was killed by signal {-code} ({signal.strsignal(-code)})"
    return f"exited with code {code}"


def state_of(last: Snapshot, *, autocommit: bool) -> str:
    """Return the state for LOST: under autocommit a script commits while it runs."""
    commits = autocommit and last.state is State.RUN
    return State.COMMIT.name if commits else last.state.name


def explain(
    code: int,
    last: Snapshot,
    kill: Kill | None,
    blame: str,
    memory: OutOfMemory,
    node: str,
) -> tuple[str, dict[str, Any]]:
    """Return the reason of a worker's end, and the extras of LOST.

    Args:
        code: How it exited.
        last: What its slot says.
        kill: The sentence of its watchdog, if there was one.
        blame: Which limit the request in its slot had passed.
        memory: Knows whether the kernel did it.
        node: How its node was: a script may have waited for that.
    """
    reason = describe(code)
    starved = code == -signal.SIGKILL and memory.moved()
    if code == -signal.SIGKILL and kill is not None:
        if not kill.why:
            return kill.reason, {}
        return f"{kill.reason}; {node}", {"why": kill.why}
    if last.torn:
        reason += " while it wrote its slot"
    if code == -signal.SIGALRM and blame:  # a script had taken the handler away
        return f"{reason}, the {blame}'s", {"why": blame}
    if starved:
        reason += ": the machine is out of memory"
    if last.state not in _AT_WORK or (-code in _FROM_OUTSIDE and not starved):
        return reason, {}
    if last.threads or last.spoiled:  # it may have been what an earlier script left
        return reason, {}
    return reason, {"crash": True}

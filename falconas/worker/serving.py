"""What a worker's loop needs of the parts that it is given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from falconas.protocol import Request
    from falconas.worker.runner import Outcome


class Connection(Protocol):
    """A `Session`."""

    sound: bool

    @property
    def resetting(self) -> bool:
        """A reset has begun whose end nobody has waited for yet."""

    @property
    def role(self) -> str:
        """The node's: "primary", "standby" or "unknown"."""

    def fileno(self) -> int:
        """Return the socket to poll."""

    def check(self) -> bool:
        """Tell whether the connection, found readable while idle, is sound."""

    def close(self) -> None:
        """Close it."""


class Serving(Protocol):
    """A `Runner` on the connection that it was last given."""

    result_bytes: int

    def run(self, request: Request, body: bytes, deadline: float) -> Outcome:
        """Run the script."""

    def begin_reset(self) -> bool:
        """Begin to make the connection as new; False: it must be replaced.

        `finish_reset` and the connection's `check` wait for its end.
        """

    def finish_reset(self) -> bool:
        """Wait for the end of a reset; False: the connection must be replaced."""


class Keeping(Protocol):
    """An `Upkeep`."""

    def connected(self, fd: int) -> None:
        """Note a new database connection."""

    def disconnected(self, fd: int) -> None:
        """Note that it is about to be closed."""

    def tidy(self, request: Request) -> bool:
        """Clear away what the script left; False: it may still use the connection."""

    def measure(self) -> None:
        """Note what this process holds, if that is not known since the last request."""

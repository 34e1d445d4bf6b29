"""How a call ended."""

from __future__ import annotations

from typing import Any

from falconas import codec
from falconas.errors import FalconError, Internal, Started
from falconas.protocol import Malformed, Reply, decode

_REPLY = frozenset({Reply})


class Verdict:
    """How a call ended: the result's body, or the error to raise.

    `told` holds the extras of the reply, or its header: few ask for what is in it.
    The client's own verdicts say `{"verdict": "client"}`.
    """

    __slots__ = ("body", "error", "told")

    def __init__(
        self, body: bytes, error: FalconError | None, told: bytes | dict[str, Any]
    ) -> None:
        self.body = body
        self.error = error
        self.told = told

    @property
    def info(self) -> dict[str, Any]:
        """What the reply says of itself; nothing, if that is not of the protocol."""
        if isinstance(self.told, dict):
            return self.told
        try:
            extras: dict[str, Any] = decode(self.told, _REPLY).extras
        except Malformed:
            return {}
        return extras

    def value(self) -> Any:
        """Return the result or raise the error."""
        if self.error is not None:
            raise self.error
        try:
            return codec.decode_value(self.body)
        except ValueError as error:
            raise Internal(
                f"the result cannot be read: {error}", started=Started.YES
            ) from None

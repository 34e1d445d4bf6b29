"""The two headers of nearly every call, without the detour over typed messages.

`request` writes what `protocol.encode` would, byte for byte, and `ok_id` knows an OK
by its first bytes. Whatever is not of this most common form goes through `protocol`.
"""

from __future__ import annotations

from struct import Struct
from typing import Any

import msgpack

from falconas.errors import InvalidArgument
from falconas.protocol import (
    HEADER_LIMIT,
    Kind,
    Reply,
    Request,
    encode,
    is_script_name,
)

_ID = b"\xa5" * 16
_EXT = {"accept": ["ext"]}
_BEGIN, _, _END = encode(Request(_ID, "", None, _EXT)).partition(_ID)
_END = _END.removeprefix(b"\xa0\xc0")  # the empty name and nil, which differ
_float = Struct(">Bd").pack
_FLOAT = 0xCB
_OK, _, _ZEROS = encode(Reply(_ID, Kind.OK, 0, {})).removesuffix(b"\x80").partition(_ID)
_ID_AT = len(_OK)
_ID_ENDS = _ID_AT + len(_ID)
_EXTRAS_AT = _ID_ENDS + len(_ZEROS)
NAMES_LIMIT = 1_000


class Names(dict[str, bytes]):
    """Scripts' names as headers have them; what cannot be one is refused."""

    def __missing__(self, script: str) -> bytes:
        if not is_script_name(script):
            raise no_name(script)
        if len(self) >= NAMES_LIMIT:
            self.clear()
        name: bytes = msgpack.packb(script)
        self[str(script)] = name
        return name


def no_name(given: Any) -> InvalidArgument:
    """Say what a script's name is."""
    text = f"a script's name is like reports.daily, not {ascii(given)[:80]}"
    return InvalidArgument(text)


def request(id_: bytes, name: bytes, budget: float | None) -> bytes:
    """Return the header of a request without extras of its own.

    Args:
        id_: 16 bytes.
        name: From `Names`.
        budget: The seconds left, None for the script's own.
    """
    left = b"\xc0" if budget is None else _float(_FLOAT, budget)
    return b"".join((_BEGIN, id_, name, left, _END))


def ok_id(header: bytes) -> bytes | None:
    """Return the id of a REPLY that is OK, None if it must be looked at closely.

    Its extras are not looked at: `Verdict.info` does when it is asked.
    """
    if (
        header[:_ID_AT] == _OK
        and header[_ID_ENDS:_EXTRAS_AT] == _ZEROS
        and len(header) <= HEADER_LIMIT
    ):
        return header[_ID_AT:_ID_ENDS]
    return None

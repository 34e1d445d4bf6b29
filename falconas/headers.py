"""Headers by the shortest way, for those through whose hands each request goes.

REQUEST and REPLY as our own peers write them, with what they always hold: their bytes
are looked at where they must be. Whatever looks different in any way is read, or
refused, by `falconas.protocol`. To write, msgspec takes a third of msgpack's time.
"""

from __future__ import annotations

from struct import Struct
from typing import Any

import msgspec

from falconas import protocol
from falconas.messages import COMMANDS, Extras, Message, Reply, Request, made
from falconas.protocol import HEADER_LIMIT, SECONDS_LIMIT, VERSION

_REQUEST = b"\x96\x01\x03\xc4\x10"  # 6 elements, version 1, REQUEST, bin of 16 bytes
_REPLY = b"\x96\x01\x04\xc4\x10"
_STR, _MAP, _FIXINT = 0xA0, 0x80, 0x7F  # up to 31 bytes, 15 keys, 127
_STR_END = 32
_NIL, _FLOAT = 0xC0, 0xCB
_FINAL = (0, 2)
# What clients send, nearly all of them. Nobody writes into these.
_USUAL: dict[bytes, Extras] = {
    b"\x80": {},
    b"\x81\xa6accept\x91\xa3ext": {"accept": ["ext"]},
}

_pack = msgspec.msgpack.Encoder().encode
_float = Struct(">d").unpack_from
_any = msgspec.msgpack.Decoder().decode
_SCALARS = frozenset({str, int, float, bool, type(None), bytes})


def encode(message: Message) -> bytes:
    """Return the header frame of `message`."""
    return _pack((VERSION, COMMANDS[type(message)], *message))


def decode(header: bytes, accept: frozenset[type[Any]]) -> Any:
    """Parse a header frame into one of the message types in `accept`.

    Raises:
        Malformed: See `falconas.protocol.decode`.
    """
    message = read(header)
    return message if type(message) in accept else protocol.decode(header, accept)


def read(header: bytes) -> Request | Reply | None:
    """Return a REQUEST, or a final REPLY, None if it is not plainly one.

    Both have an id of 16 bytes.
    """
    head = header[:5]
    try:
        if len(header) > HEADER_LIMIT:
            return None
        if head == _REQUEST:
            return _read_request(header)
        if head == _REPLY:
            return _read_reply(header)
    except Exception:  # cut off, no UTF-8: the long way says what is wrong
        return None
    return None


def _read_request(header: bytes) -> Request | None:
    length = header[21] - _STR
    if not 0 < length < _STR_END:
        return None
    end = 22 + length
    script = header[22:end].decode()
    budget, rest = None, header[end + 1 :]
    if header[end] == _FLOAT:
        (budget,), rest = _float(rest), rest[8:]
        if not -SECONDS_LIMIT < budget < SECONDS_LIMIT:
            return None
    elif header[end] != _NIL:
        return None
    extras = _USUAL.get(rest)
    if extras is None:
        extras = _extras(rest)
    if extras is None:
        return None
    return made(Request, (header[5:21], script, budget, extras))


def _read_reply(header: bytes) -> Reply | None:
    kind, code = header[21], header[22]
    extras = _extras(header[23:])
    if extras is None or kind not in _FINAL or code > _FIXINT:
        return None
    return made(Reply, (header[5:21], kind, code, extras))


def _extras(packed: bytes) -> Extras | None:
    """Return a map of plain values and lists of them, None if it is not plainly one."""
    extras: Any = _any(packed)
    if type(extras) is not dict or packed[0] != _MAP + len(extras):
        return None  # also where a key stands twice
    for key, value in extras.items():
        if type(key) is not str or (
            type(value) not in _SCALARS
            and not (type(value) is list and _SCALARS.issuperset(map(type, value)))
        ):
            return None
    return extras

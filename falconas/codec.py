"""Values <-> msgpack bodies. Specification: docs/protocol.md, "Values".

Types that msgpack lacks travel as ext types whose payload is a UTF-8 text, to
peers that accept them; to others as that text alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgpack

from falconas.errors import InvalidArgument, ScriptError, Started

_unpackb = msgpack.unpackb

DEPTH_LIMIT = 64
LENGTH_LIMIT = 1_000_000


def encode_params(params: Mapping[str, Any]) -> bytes:
    """Pack parameters, sorted by name: the order of keywords does not matter.

    Raises:
        InvalidArgument: Not a map with string keys, or a value has no encoding.
    """
    if type(params) is not dict and not isinstance(params, Mapping):
        raise _no_parameters()
    ordered, last = type(params) is dict, ""
    for key in params:  # twice as fast as all()
        if not isinstance(key, str):
            raise _no_parameters()
        ordered, last = ordered and last <= key, key
    if not ordered:
        params = {key: params[key] for key in sorted(params)}
    try:
        return _pack(params, ext=True)
    except Exception as error:
        where, why = _culprit(params, error)
        raise InvalidArgument(f"parameter {where[1:]}: {why}") from None


def decode_params(body: bytes | memoryview) -> dict[str, Any]:
    """Unpack the parameters of a request; an empty body means none.

    Raises:
        InvalidArgument: They are not a msgpack map with string keys, nested
            at most `DEPTH_LIMIT` deep.
    """
    if not len(body):
        return {}
    try:
        limit = min(len(body), LENGTH_LIMIT)
        params = _unpackb(
            body,
            ext_hook=_ext_hook,
            timestamp=3,
            max_array_len=limit,
            max_map_len=limit,
        )
    except Exception as error:
        text = str(error) or type(error).__name__
        raise InvalidArgument(f"parameters are not valid msgpack: {text}") from None
    if type(params) is not dict or not _ONLY_TEXT.issuperset(map(type, params)):
        raise InvalidArgument("parameters must be a map with string keys")
    _check_depth(params)
    return params


def encode_result(value: Any, *, ext: bool, limit: int) -> bytes:
    """Pack a script's result.

    Args:
        value: What `run` returned.
        ext: The caller accepts ext types.
        limit: The largest body in bytes.

    Raises:
        ScriptError: It has no encoding, or is too large.
    """
    try:
        body = _pack(value, ext=ext)
    except Exception as error:
        where, why = _culprit(value, error)
        raise ScriptError(
            f"the result cannot be packed: {where + ': ' if where else ''}{why}",
            started=Started.YES,
        ) from None
    if len(body) > limit:
        raise ScriptError(
            f"the result has {len(body)} bytes, the limit is {limit}",
            started=Started.YES,
        )
    return body


def decode_value(body: bytes | memoryview) -> Any:
    """Unpack a result, an error's map or a report; an empty body is None.

    Arrays that are keys of a map become tuples.

    Raises:
        ValueError: It is not msgpack.
    """
    if not len(body):
        return None
    try:
        return _unpackb(body, ext_hook=_ext_hook, timestamp=3, strict_map_key=False)
    except TypeError:  # a key that cannot be hashed
        return _decode_keys(body)
    except Exception as error:
        text = str(error) or type(error).__name__
        raise ValueError(f"body is not valid msgpack: {text}") from None


def _decode_keys(body: bytes | memoryview) -> Any:
    try:
        return _unpackb(
            body,
            ext_hook=_ext_hook,
            timestamp=3,
            strict_map_key=False,
            object_pairs_hook=_hashable,
        )
    except Exception as error:
        raise ValueError(f"body has a key of no use: {error}") from None


def _hashable(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    return {_frozen(key): value for key, value in pairs}


def _frozen(key: Any) -> Any:
    return tuple(map(_frozen, key)) if type(key) is list else key


def encode_value(value: Any) -> bytes:
    """Pack an error's map, a manifest or a report: plain values of our own."""
    return _pack(value, ext=False)


def _pack(value: Any, *, ext: bool) -> bytes:
    packers = _WITH_EXT if ext else _WITH_TEXT
    try:  # taken out: a value's own code, or another thread, may pack meanwhile
        packer = packers.pop()
    except IndexError:
        packer = _packer(ext=ext)
    body: bytes = packer.pack(value)
    if len(body) < _KEPT_BYTES:
        packers.append(packer)
    return body


def _packer(*, ext: bool) -> Any:
    return msgpack.Packer(default=_default_ext if ext else _default_text, buf_size=4096)


# Packers that are not in use; a new one costs more than most values.
_WITH_EXT: list[Any] = []
_WITH_TEXT: list[Any] = []
_KEPT_BYTES = 65_536


def _no_parameters() -> InvalidArgument:
    return InvalidArgument("parameters must be a mapping with string keys")


def _types() -> Any:
    """Return what knows the values that msgpack lacks; imported with the first one."""
    global _loaded  # noqa: PLW0603
    if _loaded is None:
        from falconas import exttypes as _loaded
    return _loaded


_loaded: Any = None


def _ext_hook(code: int, data: bytes) -> Any:
    return _types().from_ext(code, data)


def _default_ext(value: Any) -> Any:
    return _types().to_ext(value)


def _default_text(value: Any) -> Any:
    return _types().to_plain(value)


_CONTAINERS = frozenset({list, dict})  # all that comes out of msgpack
_ONLY_TEXT = frozenset({str})


def _check_depth(value: dict[str, Any]) -> None:
    if _CONTAINERS.isdisjoint(map(type, value.values())):  # as nearly always
        return
    level: list[Any] = [value]
    for _ in range(DEPTH_LIMIT):
        level = [
            child
            for item in level
            for child in (item.values() if type(item) is dict else item)
            if type(child) in _CONTAINERS
        ]
        if not level:
            return
    raise InvalidArgument(f"parameters are nested deeper than {DEPTH_LIMIT}")


def _culprit(value: Any, error: Exception) -> tuple[str, str]:
    """Find the innermost value that does not pack: its path and what is wrong."""
    path = ""
    for _ in range(DEPTH_LIMIT):
        for step, child in _children(value):
            try:
                _pack(child, ext=True)
            except Exception as inner:
                path, value, error = path + step, child, inner
                break
        else:
            break
    return path, (str(error) or type(error).__name__)[:200]


def _children(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [(f".{_label(key)}", child) for key, child in value.items()]
    if isinstance(value, list | tuple):
        return [(f"[{index}]", child) for index, child in enumerate(value)]
    return []


def _label(key: Any) -> Any:
    return key if isinstance(key, str | int) else type(key).__name__

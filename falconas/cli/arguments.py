"""Parameters from the command line: `key=value`, `key:=JSON`, a JSON file.

A `key=value` is turned into what the script's parameter is declared as; where the
text does not fit, the error says what would. `key:=JSON` says it exactly.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from falconas.config import ConfigError
from falconas.errors import InvalidArgument

_WORD = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(:?=)(.*)", re.DOTALL)
_INTEGER = re.compile(r"[+-]?[0-9]{1,40}")
_TRUTH = {"true": True, "1": True, "yes": True, "on": True}
_TRUTH |= {"false": False, "0": False, "no": False, "off": False}
_WANTED = {
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "null": "null",
    "array": 'a JSON array such as [1, "b"]',
    "object": 'a JSON object such as {"a": 1}',
}


class Argument(NamedTuple):
    """One word of the command line; `exact` if it is JSON already."""

    name: str
    value: Any
    exact: bool


def parse(words: Sequence[str]) -> list[Argument]:
    """Split words into names and values.

    Raises:
        ConfigError: A word is neither `key=value` nor `key:=JSON`, or comes twice.
    """
    found: dict[str, Argument] = {}
    for word in words:
        match = _WORD.fullmatch(word)
        if not match:
            raise ConfigError(f"{word!r} must be KEY=VALUE or KEY:=JSON")
        name, sign, value = match.groups()
        if name in found:
            raise ConfigError(f"parameter {name} is given twice")
        exact = sign == ":="
        found[name] = Argument(name, _json(value, name) if exact else value, exact)
    return list(found.values())


def read(source: str) -> dict[str, Any]:
    """Read parameters from a JSON file, `-` for stdin.

    Raises:
        ConfigError: It cannot be read or is no JSON object.
    """
    try:
        text = sys.stdin.read() if source == "-" else Path(source).read_text("utf-8")
    except OSError as error:
        raise ConfigError(f"--params {source}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"--params {source}: is not UTF-8 at byte {error.start}"
        ) from None
    params = _json(text, f"--params {source}")
    if not isinstance(params, dict):
        raise ConfigError(f'--params {source}: must be a JSON object {{"key": …}}')
    return params


def convert(
    arguments: Sequence[Argument], parameters: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Return the values, texts turned into the parameters' types.

    Args:
        arguments: From `parse`.
        parameters: The script's entry in the catalogue; what it does not name
            stays a text, for the script to refuse.

    Raises:
        InvalidArgument: A text cannot be what the parameter wants.
    """
    known = {entry["name"]: entry for entry in parameters}
    values = {}
    for name, value, exact in arguments:
        values[name] = value
        if exact or name not in known:
            continue
        schema = known[name].get("schema") or {}
        try:
            values[name] = _from_text(value, schema, schema.get("$defs", {}))
        except ValueError as error:
            wanted = f"must be {error}, got {_short(value)}"
            raise InvalidArgument(f"parameter {name} {wanted}") from None
    return values


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: is not JSON: {error}") from None


def _from_text(text: str, schema: dict[str, Any], defs: dict[str, Any]) -> Any:
    """Return the text as the schema wants it; the `ValueError` says what that is."""
    if "$ref" in schema:
        schema = defs.get(schema["$ref"].rpartition("/")[2], {})
    if "anyOf" in schema:
        return _from_any(text, schema["anyOf"], defs)
    if "enum" in schema:
        return _from_enum(text, schema["enum"])
    kind = schema.get("type", "string")
    if kind == "integer" and _INTEGER.fullmatch(text):
        return int(text)
    if kind == "number":
        return _number(text)
    if kind == "boolean" and text.lower() in _TRUTH:
        return _TRUTH[text.lower()]
    if kind == "null" and text == "null":
        return None
    if kind in ("array", "object"):
        return _container(text, kind)
    if kind in _WANTED:
        raise ValueError(_WANTED[kind])
    return text


def _from_any(text: str, choices: list[dict[str, Any]], defs: dict[str, Any]) -> Any:
    wanted = []
    # What takes any text comes last; where it does, null is a text like others.
    texts = [choice for choice in choices if choice.get("type") == "string"]
    others = [choice for choice in choices if choice not in texts]
    if texts:
        others = [choice for choice in others if choice.get("type") != "null"]
    for choice in others + texts:
        try:
            return _from_text(text, choice, defs)
        except ValueError as error:
            wanted.append(str(error))
    raise ValueError(" or ".join(wanted))


def _from_enum(text: str, values: list[Any]) -> Any:
    for value in values:
        if text == (value if isinstance(value, str) else json.dumps(value)):
            return value
    known = ", ".join(str(value) for value in values)
    raise ValueError(f"one of {known}")


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(_WANTED["number"]) from None


def _container(text: str, kind: str) -> Any:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, list if kind == "array" else dict):
        return value
    raise ValueError(_WANTED[kind])


def _short(text: str) -> str:
    return json.dumps(text if len(text) <= 60 else text[:60] + "…", ensure_ascii=False)  # noqa: PLR2004

"""A script's parameters: its signature, read once, is the schema of its requests."""

from __future__ import annotations

import difflib
import inspect
import json
import re
import types
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

import msgspec

from falconas.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_LIST_LIMIT = 20
_SHOWN = 60  # characters of a wrong value
_CONTEXT_FIRST = "run must take the context first: def run"
_PLACE = re.compile(r"(.*) - at (`key` in )?`\$\.?(.*)`", re.DOTALL)
_STEP = re.compile(r"\[(.*?)\]|([^.\[]+)")
_EXAMPLES = {
    "Invalid RFC3339 encoded date": "a date, such as 2026-02-28",
    "Invalid RFC3339 encoded datetime": "a datetime, such as 2026-02-28T12:30:00Z",
    "Invalid RFC3339 encoded time": "a time, such as 12:30:00",
    "Invalid ISO8601 duration": "a duration, such as PT1H30M",
    "Invalid decimal string": "a decimal number, such as 0.05",
    "Invalid UUID": "a UUID, such as 123e4567-e89b-12d3-a456-426614174000",
    "Invalid base64 encoded string": "base64, such as aGVsbG8=",
}


class SignatureError(Exception):
    """The function `run` cannot be served; `line` is its first one, if known."""

    def __init__(self, message: str, line: int = 0) -> None:
        super().__init__(message)
        self.line = line


class Parameters:
    """What a script may be given besides its context.

    Values are converted, not only checked: a foreign client's text becomes the
    Decimal or the date that the annotation asks for. What has a default may be
    left out and is then Python's business.

    Args:
        run: The script's function; its first parameter is the context.

    Raises:
        SignatureError: A parameter cannot be filled from a request.
    """

    def __init__(self, run: Callable[..., Any]) -> None:
        context, found = _split(inspect.signature(run))
        _check_context(run, context, more=bool(found))
        hints = _hints(run, found)
        self._schemas = {name: _schema(name, hint) for name, hint in hints.items()}
        self._types = {name: type_text(hint) for name, hint in hints.items()}
        self._defaults = {
            p.name: p.default for p in found if p.default is not inspect.Parameter.empty
        }
        self._required = [p.name for p in found if p.name not in self._defaults]
        self._struct = msgspec.defstruct(
            "Parameters",
            [
                (name, hint | msgspec.UnsetType, msgspec.UNSET)
                for name, hint in hints.items()
            ],
            kw_only=True,
            forbid_unknown_fields=True,
        )

    def bind(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return `given` with each value in its parameter's type.

        Raises:
            InvalidArgument: A parameter is unknown, missing or of another type; the
                message and `details["parameter"]` say which.
        """
        for name in given:
            if name not in self._types:
                raise _invalid(name, f"unknown parameter {name!r}; {self._hint(name)}")
        for name in self._required:
            if name not in given:
                raise _invalid(
                    name, f"parameter {name} ({self._types[name]}) is missing"
                )
        try:
            values = msgspec.convert(given, self._struct)
        except msgspec.ValidationError as error:
            raise _refused(str(error), given) from None
        return {name: getattr(values, name) for name in given}

    def describe(self) -> list[dict[str, Any]]:
        """Return the parameters as the catalogue shows them: plain values."""
        return [self._describe(name) for name in self._types]

    def _describe(self, name: str) -> dict[str, Any]:
        entry = {
            "name": name,
            "type": self._types[name],
            "required": name not in self._defaults,
            "schema": self._schemas[name],
        }
        if name in self._defaults:
            entry["default"] = _plain(self._defaults[name])
        return entry

    def _hint(self, name: str) -> str:
        near = difflib.get_close_matches(name, self._types, n=1)
        if near:
            return f"did you mean {near[0]}?"
        if not self._types:
            return "the script takes none"
        return f"the script takes {', '.join(list(self._types)[:_LIST_LIMIT])}"


def type_text(hint: Any) -> str:
    """Return an annotation as people write it: `list[Line]`, `int | None`."""
    if hint is Any or hint is object or hint is inspect.Parameter.empty:
        return "any"
    if hint is None or hint is type(None):
        return "None"
    if hint is Ellipsis:
        return "..."
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return type_text(args[0])
    if origin is Literal:
        return " | ".join(json.dumps(arg, default=str) for arg in args)
    if origin in (Union, types.UnionType):
        return " | ".join(type_text(arg) for arg in args)
    name = getattr(origin or hint, "__name__", None) or str(hint)
    return f"{name}[{', '.join(map(type_text, args))}]" if args else name


def _split(
    signature: inspect.Signature,
) -> tuple[inspect.Parameter, list[inspect.Parameter]]:
    """Return the context and what requests fill."""
    found = list(signature.parameters.values())
    if not found or found[0].kind not in (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    ):
        raise SignatureError(f"{_CONTEXT_FIRST}(ctx, …)")
    for parameter in found[1:]:
        if parameter.kind in (
            inspect.Parameter.VAR_POSITIONAL,
            inspect.Parameter.VAR_KEYWORD,
        ):
            raise SignatureError(
                f"run takes {parameter}; a script names each of its parameters"
            )
        if parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
            raise SignatureError(
                f"parameter {parameter.name} is positional-only;"
                " requests give parameters by name"
            )
    return found[0], found[1:]


def _check_context(
    run: Callable[..., Any], context: inspect.Parameter, *, more: bool
) -> None:
    """Refuse a context that is annotated as what requests give: a number, a list."""
    if hasattr(run, "__wrapped__"):
        return  # by something that may give it anything
    try:
        hint = _hints(run, [context])[context.name]
        schema = msgspec.json.schema(hint)
    except Exception:
        return  # what cannot be evaluated here, or is no value of a request
    if _admits_objects(schema):
        return
    name, kind, rest = context.name, type_text(hint), ", …" if more else ""
    if name == "ctx":
        raise SignatureError(
            f"ctx is the context, which is no {kind}: def run(ctx{rest})"
        )
    raise SignatureError(f"{_CONTEXT_FIRST}(ctx, {name}: {kind}{rest})")


def _admits_objects(schema: Mapping[str, Any]) -> bool:
    """Tell whether a schema is of anything, or of a class of the script's own."""
    kinds = schema.get("anyOf")
    if kinds is not None:
        return any(map(_admits_objects, kinds))
    return not schema.keys() & {"type", "enum"}


def _hints(run: Callable[..., Any], found: list[inspect.Parameter]) -> dict[str, Any]:
    """Evaluate what is needed only: the others' annotations may be unknown here."""
    names = {parameter.name for parameter in found}
    wanted = {key: hint for key, hint in run.__annotations__.items() if key in names}
    holder = types.SimpleNamespace(__annotations__=wanted)
    scope = inspect.unwrap(run).__globals__
    try:
        hints = get_type_hints(holder, globalns=scope, include_extras=True)
    except Exception as error:
        raise SignatureError(f"an annotation of run is wrong: {error}") from None
    return {name: hints.get(name, Any) for name in (p.name for p in found)}


def _schema(name: str, hint: Any) -> dict[str, Any]:
    try:
        return msgspec.json.schema(hint, schema_hook=_any_object)
    except Exception:
        raise SignatureError(
            f"parameter {name}: type {type_text(hint)} cannot come from a request;"
            " use plain types, dates, Decimal, UUID, Literal, enums, dataclasses,"
            " msgspec structs, or lists and dicts of them"
        ) from None


def _any_object(hint: Any) -> dict[str, Any]:
    if hint is object:
        return {"description": "any value"}
    raise NotImplementedError  # how a hook tells msgspec that a type has no schema


def _plain(value: Any) -> Any:
    try:
        return msgspec.to_builtins(value)
    except Exception:
        return repr(value)


def _refused(text: str, given: Mapping[str, Any]) -> InvalidArgument:
    """Say msgspec's words with the value, and with what would be right."""
    match = _PLACE.fullmatch(text)
    if match is None:
        return InvalidArgument(text)
    problem, key, path = match.groups()
    place = f"a key of {path}" if key else path
    if problem not in _EXAMPLES:
        return _invalid(path, f"parameter {place}: {problem.replace('`', '')}")
    value = None if key else _at(path, given)
    shown = f"{_short(value)} is not" if isinstance(value, str) else "not"
    return _invalid(path, f"parameter {place}: {shown} {_EXAMPLES[problem]}")


def _at(path: str, given: Any) -> Any:
    """Return the value at a path such as `lines[0].day`; None where it is unclear."""
    value = given
    for index, name in _STEP.findall(path):
        try:
            value = value[name or int(index)]
        except (KeyError, IndexError, TypeError, ValueError):
            return None
    return value


def _short(text: str) -> str:
    cut = text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
    return json.dumps(cut, ensure_ascii=False)


def _invalid(parameter: str, message: str) -> InvalidArgument:
    return InvalidArgument(message, details={"parameter": parameter})

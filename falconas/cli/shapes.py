"""JSON schemas of parameters as people write types: `list[Line]`, `int 1..50`."""

from __future__ import annotations

import json
from typing import Any

_NAMES = {
    "integer": "int",
    "number": "float",
    "string": "str",
    "boolean": "bool",
    "null": "None",
    "array": "list",
    "object": "dict",
}
_FORMATS = {"date-time": "datetime"}
_BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<="}
_BOUNDS |= {"exclusiveMaximum": "<", "multipleOf": "a multiple of"}
_SIZES = (("Length", " characters"), ("Items", " items"), ("Properties", " entries"))

Schema = dict[str, Any]


def shape(schema: Schema, structs: dict[str, Schema] | None = None) -> str:
    """Write a schema in one line; what has fields is called by its name.

    Args:
        schema: As JSON Schema has it.
        structs: What it refers to by name, from `$defs`.
    """
    known = schema.get("$defs", {}) if structs is None else structs
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        found = known.get(name, {})
        return name if "properties" in found else shape(found, known)
    if "anyOf" in schema:
        return " | ".join(shape(choice, known) for choice in schema["anyOf"])
    if "enum" in schema:
        return " | ".join(json.dumps(v, ensure_ascii=False) for v in schema["enum"])
    return " ".join([_kind(schema, known), *_limits(schema)])


def fields(schema: Schema) -> dict[str, list[dict[str, str]]]:
    """Return the rows of a table of fields for each struct, by its name."""
    structs: dict[str, Schema] = schema.get("$defs", {})
    return {
        name: [
            {
                "field": field,
                "type": shape(inner, structs),
                "default": _default(field, inner, found),
            }
            for field, inner in found["properties"].items()
        ]
        for name, found in structs.items()
        if "properties" in found
    }


def _kind(schema: Schema, structs: dict[str, Schema]) -> str:
    kind = schema.get("type", "any")
    inner: list[Any] = []
    if kind == "array":
        inner = schema.get("prefixItems") or [schema.get("items")]
    elif kind == "object":
        inner = [{"type": "string"}, schema.get("additionalProperties")]
    elif kind == "string" and "contentEncoding" in schema:
        return str(schema["contentEncoding"])
    elif "format" in schema:
        return str(_FORMATS.get(schema["format"], schema["format"]))
    name = "tuple" if "prefixItems" in schema else _NAMES.get(kind, str(kind))
    if not inner or not all(isinstance(item, dict) for item in inner):
        return name
    return f"{name}[{', '.join(shape(item, structs) for item in inner)}]"


def _limits(schema: Schema) -> list[str]:
    found = []
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        found.append(f"{low}..{high}")
    else:
        found += [
            f"{b} {schema[name]}" for name, b in _BOUNDS.items() if name in schema
        ]
    for what, unit in _SIZES if "prefixItems" not in schema else ():
        low, high = schema.get(f"min{what}", 0), schema.get(f"max{what}")
        if high is not None:
            found.append(f"{low}..{high}{unit}")
        elif low:
            found.append(f">= {low}{unit}")
    if "pattern" in schema:
        found.append(f"like {schema['pattern']}")
    return found


def _default(field: str, schema: Schema, struct: Schema) -> str:
    if field in struct.get("required", []):
        return "(required)"
    return json.dumps(schema.get("default"), ensure_ascii=False, default=str)

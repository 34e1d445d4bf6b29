"""Values as plain text for people: tables, and indented `key: value` lines.

Nothing that a value holds can steer the terminal, and no table is wider than it:
what does not fit is cut off with `…`, and where columns would become unreadable
each row is shown as a block. What goes into a file or a pipe is not cut.
"""

from __future__ import annotations

import json
import shutil
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from falconas.logs import printable

GAP = "  "
INDENT = "  "
NARROWEST = 8  # a column that was cut is not made narrower
UNLIMITED = 1 << 30
_BYTES_SHOWN = 16


def render(value: Any, width: int | None = None) -> str:
    """Return a value as text without a final newline.

    Args:
        value: What a script returned.
        width: The longest line of a table; None: the terminal's width, without
            a limit when stdout is none.
    """
    if width is None:
        tty = sys.stdout.isatty()
        width = shutil.get_terminal_size().columns if tty else UNLIMITED
    return "\n".join(_lines(value, max(width, NARROWEST)))


def table(
    rows: Sequence[Mapping[Any, Any]],
    columns: Sequence[Any] | None = None,
    width: int = UNLIMITED,
) -> list[str]:
    """Return the lines of a table with a header; numbers stand to the right.

    Args:
        rows: One mapping for each row.
        columns: The keys to show; None: all, in the order they first appear.
        width: The longest line.
    """
    keys = list(dict.fromkeys(k for row in rows for k in row))
    keys = keys if columns is None else list(columns)
    heads = [_cell(key) for key in keys]
    cells = [[_cell(row[k]) if k in row else "" for k in keys] for row in rows]
    wanted = [max(map(width_of, column)) for column in zip(heads, *cells, strict=True)]
    widths = _fit(wanted, width - len(GAP) * (len(keys) - 1))
    if widths is None:
        return _blocks(rows, keys, width)
    right = [all(_is_number(row.get(k)) for row in rows) for k in keys]
    ruled = [heads, ["-" * size for size in widths], *cells]
    return [
        GAP.join(
            _pad(cut(text, size), size, right=flush)
            for text, size, flush in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in ruled
    ]


def width_of(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    return sum(map(_width_of_character, text))


def cut(text: str, width: int) -> str:
    """Shorten a text to so many columns of a terminal; `…` says that it was."""
    if width_of(text) <= width:
        return text
    left, kept = width - 1, []
    for character in text:
        left -= _width_of_character(character)
        if left < 0:
            break
        kept.append(character)
    return "".join(kept) + "…"


def _lines(value: Any, width: int) -> list[str]:
    if isinstance(value, Mapping):
        return _fields(value, width) if value else ["(empty)"]
    if isinstance(value, list | tuple):
        if not value:
            return ["(empty)"]
        if all(isinstance(row, Mapping) and row for row in value):
            return table(value, width=width)
        return _items(value, width)
    if isinstance(value, str):
        return [printable(line) for line in value.split("\n")]
    return [_cell(value)]


def _fields(value: Mapping[Any, Any], width: int) -> list[str]:
    plain = [key for key, item in value.items() if not _is_nested(item)]
    longest = max((width_of(_cell(key)) for key in plain), default=0)
    lines: list[str] = []
    for key, item in value.items():
        name = f"{_cell(key)}:"
        if _is_nested(item):
            lines.append(name)
            lines += [INDENT + line for line in _lines(item, width - len(INDENT))]
        else:
            first, *rest = _lines(item, width)
            name = _pad(name, longest + 1)
            lines.append(f"{name} {first}".rstrip())
            lines += [" " * (longest + 2) + line for line in rest]
    return lines


def _items(value: Sequence[Any], width: int) -> list[str]:
    lines = []
    for item in value:
        first, *rest = _lines(item, width - len(INDENT))
        lines += [f"- {first}".rstrip(), *(INDENT + line for line in rest)]
    return lines


def _blocks(
    rows: Sequence[Mapping[Any, Any]], keys: Sequence[Any], width: int
) -> list[str]:
    lines: list[str] = []
    for number, row in enumerate(rows, 1):
        lines.append(f"- {number} -")
        lines += _fields({k: row[k] for k in keys if k in row}, width)
    return lines


def _fit(wanted: list[int], room: int) -> list[int] | None:
    """Take from the widest columns until all fit; None: they cannot."""
    if sum(wanted) <= room:
        return wanted
    if sum(min(size, NARROWEST) for size in wanted) > room:
        return None
    # The largest limit for single columns under which they fit.
    limit = NARROWEST
    while sum(min(size, limit + 1) for size in wanted) <= room:
        limit += 1
    return [min(size, limit) for size in wanted]


def _pad(text: str, width: int, *, right: bool = False) -> str:
    blanks = " " * (width - width_of(text))
    return blanks + text if right else text + blanks


def _is_nested(value: Any) -> bool:
    return isinstance(value, Mapping | list | tuple) and len(value) > 0


def _is_number(value: Any) -> bool:
    if value is None:
        return True
    return isinstance(value, int | float | Decimal) and not isinstance(value, bool)


def _cell(value: Any) -> str:
    """Return a value as one line."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, bytes):
        more = "…" if len(value) > _BYTES_SHOWN else ""
        return f"{len(value)} bytes {value[:_BYTES_SHOWN].hex()}{more}"
    if isinstance(value, Mapping | list | tuple):
        return printable(json.dumps(_plain(value), ensure_ascii=False))
    if isinstance(value, datetime):
        return value.isoformat(" ")
    return printable(str(value))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {_cell(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, bool | int | float | None) else _cell(value)


def _width_of_character(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) == "Me":
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1

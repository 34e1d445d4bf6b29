"""What can be told of a statement before it is sent."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from psycopg import sql
from psycopg._queries import _query2pg_nocache

if TYPE_CHECKING:
    from collections.abc import Sequence

    from psycopg._enums import PyFormat
    from psycopg._queries import QueryPart
    from psycopg.abc import Params, Query

# How statements begin that cannot end a transaction.
_PLAIN = {
    "SELE", "WITH", "VALU", "TABL", "FETC", "COPY", "INSE", "UPDA", "DELE", "MERG",
    "LOCK", "TRUN", "CREA", "ALTE", "DROP", "GRAN", "REVO", "EXPL", "EXEC", "CALL",
    "DECL", "CLOS", "MOVE", "SAVE", "RELE", "NOTI", "LIST", "SHOW", "REFR",
}  # fmt: skip
_BLANK = "; \n\t"
_REMEMBERED = 1000  # statements, none of them longer than
_LENGTH = 4000  # characters
_LAYOUTS, _PLACES = 256, 50  # a text of a thousand places takes 100 KB


class Layout(NamedTuple):
    """What psycopg makes of a query's text.

    Attributes:
        sent: What is sent, with `$1` for `%s`.
        formats: How each parameter is to be sent.
        order: The names of the parameters, if they have names.
        parts: What is between the parameters.
        positions: How many parameters without names it has; -1 if they have names.
    """

    sent: bytes
    formats: list[PyFormat]
    order: list[str] | None
    parts: list[QueryPart]
    positions: int

    def values(self, params: Params) -> Sequence[Any] | None:
        """Return the parameters in the order of their places; None if in doubt."""
        if type(params) is list or type(params) is tuple:
            return params if len(params) == self.positions else None
        if type(params) is not dict or self.order is None:
            return None
        try:
            return [params[name] for name in self.order]
        except KeyError:
            return None


def layout(query: Query, encoding: str) -> Layout | None:
    """Return what psycopg makes of a query with parameters; None if it is no usual one.

    Raises:
        psycopg.ProgrammingError: Its placeholders are none.
    """
    if type(query) is not str or len(query) > _LENGTH or query.count("%") > _PLACES:
        return None
    return _layout(query, encoding)


def look(query: Query, params: Params | None) -> tuple[bool, bool]:
    """Return `is_single` and `is_plain` of a query; most are sent again and again."""
    if type(query) is str and len(query) <= _LENGTH:
        single, plain = _look(query)
        return single or bool(params), plain
    return is_single(query, params), is_plain(query)


def is_single(query: Query, params: Params | None) -> bool:
    """Tell whether a query surely is one statement that a pipeline can take."""
    if params:
        return True
    return (
        isinstance(query, str)
        and ";" not in query.rstrip(_BLANK)
        and query.lstrip()[:4].upper() != "COPY"
    )


def is_plain(query: Query) -> bool:
    """Tell whether a query surely is one statement that ends no transaction."""
    if isinstance(query, sql.Composable):
        query = query.as_string(None)
    if not isinstance(query, str) or ";" in query.rstrip(_BLANK):
        return False
    return query.lstrip("( \n\t")[:4].upper() in _PLAIN


@lru_cache(_REMEMBERED)
def _look(query: str) -> tuple[bool, bool]:
    return is_single(query, None), is_plain(query)


@lru_cache(_LAYOUTS)
def _layout(query: str, encoding: str) -> Layout:
    found = _query2pg_nocache(query.encode(encoding), encoding)
    order, parts = found[2:]
    return Layout(*found, len(parts) - 1 if order is None else -1)

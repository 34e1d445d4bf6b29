"""What can be told of a statement before it is sent."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from msgspec import Struct
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
_named = re.compile(r"(?<!%)(?:%%)*%\(").search  # `%%(` is no placeholder
_REMEMBERED = 1000  # statements, none of them longer than
_LENGTH = 4000  # characters
_LAYOUTS, _PLACES = 256, 50  # a text of a thousand places takes 100 KB


class Kind(Struct, frozen=True):
    """What a statement may do, as far as it shows before it is sent.

    Attributes:
        joined: A BEGIN that is due can travel with it.
        opaque: It may end the transaction and not show it if it fails.
        plain: It cannot end the transaction, whatever becomes of it.
        blind: Nobody sees its command tags.
        several: Another one may have been run behind one that ends the transaction.
    """

    joined: bool = False
    opaque: bool = False
    plain: bool = True
    blind: bool = False
    several: bool = False


class Layout(Struct, frozen=True):
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
        kind = type(params)
        try:
            if kind is list or kind is tuple:
                return params if len(params) == self.positions else None  # type: ignore[return-value]
            if kind is dict and self.order is not None:
                return [params[name] for name in self.order]  # type: ignore[call-overload]
        except KeyError:
            pass
        return None


def layout(query: Query, encoding: str) -> Layout | None:
    """Return what psycopg makes of a query with parameters; None if it is no usual one.

    Raises:
        psycopg.ProgrammingError: Its placeholders are none.
    """
    if type(query) is not str or len(query) > _LENGTH:
        return None
    return _layout(query, encoding)


def look(query: Query, params: Params | None) -> Kind:
    """Return of what kind a query is; most are sent again and again."""
    if type(query) is not str or len(query) > _LENGTH:
        return _kind(is_single(query, params), is_plain(query))
    if not params:
        return _alone(query)
    kind = type(params)  # to ask for a Mapping takes long
    values = kind is list or kind is tuple or not isinstance(params, Mapping)
    return _with_values(query) if values else _with_names(query)


def is_single(query: Query, params: Params | None) -> bool:
    """Tell whether a query surely is one statement that a pipeline can take.

    One with parameters is, but of a mapping psycopg takes what the text names, if
    anything; and values that it has no place for psycopg refuses.
    """
    if params and (not isinstance(params, Mapping) or _has_names(query)):
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


def _kind(single: bool, plain: bool) -> Kind:
    return Kind(joined=single, opaque=not single, plain=plain, several=not single)


def _has_names(query: Query) -> bool:
    if isinstance(query, sql.Composable):
        query = query.as_string(None)
    if isinstance(query, bytes):
        query = query.decode(errors="replace")
    return isinstance(query, str) and _named(query) is not None


@lru_cache(_REMEMBERED)
def _with_values(query: str) -> Kind:
    return _kind(True, is_plain(query))


@lru_cache(_REMEMBERED)
def _with_names(query: str) -> Kind:
    return _kind(_has_names(query) or is_single(query, None), is_plain(query))


@lru_cache(_REMEMBERED)
def _alone(query: str) -> Kind:
    return _kind(is_single(query, None), is_plain(query))


@lru_cache(_LAYOUTS)
def _layout(query: str, encoding: str) -> Layout | None:
    if query.count("%") > _PLACES:
        return None
    sent, formats, order, parts = _query2pg_nocache(query.encode(encoding), encoding)
    positions = len(parts) - 1 if order is None else -1
    return Layout(sent, formats, order, parts, positions)

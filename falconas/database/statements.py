"""What can be told of a statement before it is sent."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from psycopg import sql

if TYPE_CHECKING:
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

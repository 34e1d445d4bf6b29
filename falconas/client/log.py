"""The client's log, `falconas.client`; `logging` is loaded with the first line of it.

It takes a tenth of the time that it takes to import a client, most of which never have
anything to say.
"""

from __future__ import annotations

import sys

_NAME = "falconas.client"


def debug(text: str, *values: object) -> None:
    """Log what only those want to know who have set up a log."""
    logging = sys.modules.get("logging")
    if logging is not None:
        logging.getLogger(_NAME).debug(text, *values)


def warning(text: str, *values: object) -> None:
    """Log what somebody should look at."""
    import logging

    logging.getLogger(_NAME).warning(text, *values)


def failure(text: str, error: BaseException) -> None:
    """Log what must not happen, with where it did."""
    import logging

    logging.getLogger(_NAME).error(text, exc_info=error)

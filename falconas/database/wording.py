"""What libpq says, in one short line: pure."""

from __future__ import annotations

import re

LIMIT = 200

# It says twice that it failed, asks what nobody here can answer, and guesses.
_TALK = re.compile(
    r"\bconnection failed: "
    r"|\s+Is the server running [^?]*\?"
    r"|\s+This probably means the server terminated abnormally"
    r"\s+before or while processing the request\."
)

# What a server says comes after a word for how bad it is, and two spaces.
_SAID = re.compile(r"\b\w+:  (.*)")
# Those that start, recover or stop: 57P03 and 57P01.
_NOT_SERVING = ("the database system is ", "terminating connection ")


def in_short(error: BaseException) -> str:
    """Return an error's text without what says nothing new."""
    text = _TALK.sub("", str(error)) or type(error).__name__
    return " ".join(text.split())[:LIMIT]


def is_refusal(error: BaseException) -> bool:
    """Tell whether a server is there, and serves, but gave us no connection.

    Slots that are all taken, passwords and `pg_hba.conf` are such reasons. libpq does
    not tell the SQLSTATE of a connection that failed, so the words have to do.
    """
    said = _SAID.findall(str(error))
    return bool(said) and not any(text.startswith(_NOT_SERVING) for text in said)

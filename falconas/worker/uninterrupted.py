"""A COMMIT is not interrupted: signals wait until its answer has come."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module

# Faults of the process itself cannot be put off.
_FAULTS = {
    signal.SIGSEGV,
    signal.SIGBUS,
    signal.SIGFPE,
    signal.SIGILL,
    signal.SIGTRAP,
    signal.SIGABRT,
    signal.SIGSYS,
}
_DEFERRED = frozenset(map(int, signal.valid_signals() - _FAULTS))
# What `signal` makes of it looks each of some 60 signals up in an enum, twice.
_mask: Callable[[int, Iterable[int]], set[int]] = import_module(
    "_signal"
).pthread_sigmask


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Have all signals wait until the block ends."""
    before = _mask(signal.SIG_BLOCK, _DEFERRED)
    try:
        yield
    finally:
        _mask(signal.SIG_SETMASK, before)

"""What a script declares about itself: options, name, parameters."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, Literal, TypeVar, overload

from falconas.errors import InvalidArgument
from falconas.protocol import BUDGET_LIMIT
from falconas.worker.parameters import Parameters, SignatureError

Access = Literal["read", "write"]
Run = TypeVar("Run", bound=Callable[..., Any])

_OPTIONS = "__falconas__"
_NAMES = ("access", "idempotent", "budget", "snapshot", "max_lag")


@dataclass(frozen=True, slots=True)
class Options:
    """What a script declares about itself."""

    access: Access = "write"
    idempotent: bool = False
    budget: float | None = None
    snapshot: bool = True
    max_lag: float | None = None


@overload
def script(run: Run, /) -> Run: ...


@overload
def script(
    *,
    access: Access = "write",
    idempotent: bool | None = None,
    budget: float | None = None,
    snapshot: bool = True,
    max_lag: float | None = None,
) -> Callable[[Run], Run]: ...


def script(
    run: Any = None,
    /,
    *,
    access: Access = "write",
    idempotent: bool | None = None,
    budget: float | None = None,
    snapshot: bool = True,
    max_lag: float | None = None,
    **unknown: Any,
) -> Any:
    """Declare how `run` is to be served; without it, it may write and is not retried.

    Args:
        run: The function itself, where it stands as `@script` alone.
        access: "read" runs in a read-only transaction on any suitable node, "write"
            on the primary.
        idempotent: Running it twice does no more than running it once, so it may be
            started again when its worker is lost. None: a read is, a write is not.
        budget: The longest it may take in seconds; also what a caller gets who asks
            for no budget.
        snapshot: A read sees one snapshot throughout. False: each statement is a
            transaction of its own and sees what is committed by then.
        max_lag: A read runs on no standby that lags by more seconds than that. None:
            on any that is up.
        unknown: Refused, with the nearest of the options.
    """
    for name in unknown:
        near = difflib.get_close_matches(name, _NAMES, 1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(_NAMES)}"
        raise TypeError(f"@script has no option {name!r}; {hint}")
    if run is not None and not callable(run):
        raise TypeError('options of @script go by name, such as access="read"')
    _check(access, budget, max_lag, snapshot=snapshot)
    options = Options(
        access,
        access == "read" if idempotent is None else bool(idempotent),
        None if budget is None else float(budget),
        snapshot,
        None if max_lag is None else float(max_lag),
    )

    def mark(run: Run) -> Run:
        setattr(run, _OPTIONS, options)
        return run

    return mark if run is None else mark(run)


@dataclass(frozen=True)
class Script:
    """A script that loaded."""

    name: str
    path: Path | None
    run: Callable[..., Any]
    options: Options
    hash: str
    description: str
    parameters: Parameters

    @property
    def access(self) -> Access:
        """Whether it reads or writes."""
        return self.options.access

    @property
    def idempotent(self) -> bool:
        """Whether it may be started again when its worker is lost."""
        return self.options.idempotent

    @property
    def budget(self) -> float | None:
        """The longest it may take in seconds."""
        return self.options.budget

    @property
    def snapshot(self) -> bool:
        """Whether a read sees one snapshot throughout."""
        return self.options.snapshot

    @property
    def max_lag(self) -> float | None:
        """By how many seconds the node of a read may lag."""
        return self.options.max_lag

    def bind(self, params: dict[str, Any]) -> dict[str, Any]:
        """Return the keyword arguments for `run`; raises `InvalidArgument`."""
        try:
            return self.parameters.bind(params)
        except InvalidArgument:
            raise
        except Exception as error:  # validators of the script's own types
            raise InvalidArgument(
                f"parameters cannot be used: {type(error).__name__}: {error}"
            ) from None

    def describe(self) -> dict[str, Any]:
        """Return its entry in the catalogue: plain values."""
        return {
            "access": self.access,
            "idempotent": self.idempotent,
            "budget": self.budget,
            "max_lag": self.max_lag,
            "hash": self.hash,
            "description": self.description,
            "params": self.parameters.describe(),
            "error": None,
        }


def declared(
    run: Callable[..., Any],
    *,
    name: str = "run",
    path: Path | None = None,
    digest: str = "",
    description: str = "",
) -> Script:
    """Return the script that `run` is.

    Args:
        run: The function.
        name: The script's name.
        path: Its file.
        digest: Fingerprint of its source.
        description: Used where `run` has no docstring.

    Raises:
        SignatureError: It cannot be served.
    """
    if not inspect.isfunction(run):
        raise SignatureError("run is not a function")
    line = inspect.unwrap(run).__code__.co_firstlineno
    if inspect.iscoroutinefunction(run) or inspect.isasyncgenfunction(run):
        raise SignatureError("run is async; scripts are plain functions", line)
    if inspect.isgeneratorfunction(run):
        raise SignatureError("run is a generator; return a list instead", line)
    try:
        parameters = Parameters(run)
    except SignatureError as error:
        error.line = line
        raise
    return Script(
        name=name,
        path=path,
        run=run,
        options=getattr(run, _OPTIONS, Options()),
        hash=digest,
        description=inspect.cleandoc(run.__doc__ or description),
        parameters=parameters,
    )


def _check(access: Any, budget: Any, max_lag: Any, *, snapshot: bool) -> None:
    """Raise ValueError if the options make no sense by themselves or together."""
    if access not in ("read", "write"):
        raise ValueError(f'access must be "read" or "write", got {access!r}')
    if budget is not None and not _is_budget(budget):
        raise ValueError(f"budget must be a number of seconds above 0, got {budget!r}")
    if access == "write" and not snapshot:
        raise ValueError("snapshot=False is for reads: a write is one transaction")
    if max_lag is not None and not _is_lag(max_lag):
        raise ValueError(
            f"max_lag must be a number of seconds from 0 on, got {max_lag!r}"
        )
    if access == "write" and max_lag is not None:
        raise ValueError('max_lag is for access="read": a write runs on the primary')


def _is_budget(value: Any) -> bool:
    return _is_number(value) and 0 < value <= BUDGET_LIMIT


def _is_lag(value: Any) -> bool:
    return _is_number(value) and value >= 0


def _is_number(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and isfinite(value)

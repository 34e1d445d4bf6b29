"""Who may import what: `errors <- protocol, codec <- cores <- loops <- cli`."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "falconas"

# Modules of these packages are pure, but for those that do the I/O.
SHELLS = {
    "broker": {"__init__", "loop", "sockets"},
    "client": {"__init__", "sync", "aio", "link", "log", "operator", "thread"},
}
PURE_BESIDES = {
    "errors", "headers", "messages", "protocol", "codec", "exttypes", "options",
    "quantities", "settings",
    "worker.core", "worker.answers", "worker.clock",
    "worker.policy", "worker.watchdog", "worker.backoff",
    "worker.wear", "worker.snapshot", "worker.reload", "worker.nursery",
    "worker.places", "worker.roster", "worker.rollout", "worker.parameters",
    "worker.probing", "worker.grouping", "database.nodes",
    "database.health", "database.topology", "database.placement", "database.lending",
    "database.patroni", "database.standing", "database.wording",
}  # fmt: skip
IMPURE_LIBRARIES = {
    "asyncio", "click", "concurrent", "logging", "multiprocessing", "os", "psycopg",
    "random", "secrets", "select", "selectors", "signal", "socket", "subprocess",
    "threading", "time", "zmq",
}  # fmt: skip

# What a part may import of the others; its own modules besides.
FOUNDATION = {
    "errors", "headers", "messages", "protocol", "codec", "options", "quantities",
    "settings",
}  # fmt: skip
PARTS = {
    "errors": set(),
    "messages": set(),
    "options": set(),
    "protocol": {"errors", "messages"},
    "headers": {"messages", "protocol"},
    "exttypes": set(),
    "codec": {"errors", "exttypes"},
    "quantities": {"options"},
    "settings": {"options", "quantities"},
    "logs": set(),
    "stderr": set(),
    "heap": set(),
    "systemd": set(),
    "checks": {"options", "settings"},
    "config": {"checks", "logs", "options", "settings"},
    "listing": {"logs", "settings"},
    "metrics": FOUNDATION,
    "broker": FOUNDATION | {"config", "heap", "logs", "metrics", "systemd"},
    "worker": FOUNDATION
    | {"config", "heap", "logs", "metrics", "stderr", "systemd", "database"},
    "client": FOUNDATION | {"config", "logs"},
    "database": FOUNDATION | {"config", "logs"},
    "testing": FOUNDATION | {"config", "logs", "worker", "database"},
    "demo": FOUNDATION | {"config", "logs", "client", "database"},
    "gateway": FOUNDATION | {"config", "logs", "client"},
    "": {"errors", "client", "worker", "database"},  # the public names
}
OWNERS = {
    "zmq": {
        "broker.loop", "broker.sockets", "worker.loop", "worker.control",
        "worker.dealer",
        "client.link", "client.operator", "client.sync", "client.aio",
    },
    "psycopg": {"database", "worker.attempt", "worker.context", "worker.probe",
                "testing"},
    "psycopg_pool": {"database"},
    "click": {"cli"},
    "pickle": set(),
    "marshal": set(),
    "shelve": set(),
}  # fmt: skip
EXCEPTIONS = {
    ("cli", "zmq"): "--version names the versions of the libraries",
    ("cli", "psycopg"): "--version names the versions of the libraries",
}


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def modules() -> dict[str, Path]:
    return {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


@cache
def imports(path: Path) -> frozenset[str]:
    """Return every module that a file imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            module = node.module or ""
            found.add(module)
            if module.partition(".")[0] == "falconas":
                found |= {f"{module}.{alias.name}" for alias in node.names}
    return frozenset(found)


def own_imports(path: Path) -> set[str]:
    """Return the modules of ours that a file imports, without `falconas.`."""
    known = modules()
    names = {
        name.removeprefix("falconas").removeprefix(".")
        for name in imports(path)
        if name.partition(".")[0] == "falconas"
    }
    return {name for name in names if name in known and name}


def part_of(name: str) -> str:
    return name.partition(".")[0]


def is_pure(name: str) -> bool:
    part, _, rest = name.partition(".")
    if part in SHELLS:
        return (rest or "__init__") not in SHELLS[part]
    return name in PURE_BESIDES


PURE = sorted(filter(is_pure, modules()))


def test_the_pure_modules_are_found() -> None:
    assert {"errors", "protocol", "codec", "broker.core"} <= set(PURE)


@pytest.mark.parametrize("name", PURE)
def test_pure_modules_import_nothing_that_does_io(name: str) -> None:
    roots = {item.partition(".")[0] for item in imports(modules()[name])}

    assert roots & IMPURE_LIBRARIES == set()


@pytest.mark.parametrize("name", PURE)
def test_pure_modules_import_only_pure_ones_of_ours(name: str) -> None:
    packages = {item for item in modules() if modules()[item].stem == "__init__"}
    impure = {
        item
        for item in own_imports(modules()[name]) - packages
        if not is_pure(item) and part_of(item) != "database"
    }

    assert impure == set()


@pytest.mark.parametrize("name", sorted(modules()))
def test_parts_import_only_what_is_below_them(name: str) -> None:
    part = part_of(name)
    if part == "cli":
        return
    others = {part_of(item) for item in own_imports(modules()[name])} - {part}

    assert part in PARTS, "a new part needs its place among the layers"
    assert others <= PARTS[part]


@pytest.mark.parametrize("library", sorted(OWNERS))
def test_libraries_have_owners(library: str) -> None:
    users = {
        name
        for name, path in modules().items()
        if any(item.partition(".")[0] == library for item in imports(path))
    }

    strangers = {
        name
        for name in users
        if not any(
            name == owner or name.startswith(f"{owner}.") for owner in OWNERS[library]
        )
    }
    assert strangers <= {name for name, item in EXCEPTIONS if item == library}


@pytest.mark.parametrize(("name", "library"), sorted(EXCEPTIONS))
def test_exceptions_are_still_needed(name: str, library: str) -> None:
    roots = {item.partition(".")[0] for item in imports(modules()[name])}

    assert library in roots


def test_packages_hold_no_code() -> None:
    for name, path in modules().items():
        if path.stem != "__init__" or name in {"", "cli"}:
            continue  # the public names, and the command, are put together there
        for node in ast.parse(path.read_text()).body:
            value = node.value if isinstance(node, ast.Expr) else None
            assert isinstance(value, ast.Constant), f"{path}:{node.lineno}"


def test_there_is_no_drawer_for_odds_and_ends() -> None:
    names = {part for name in modules() for part in name.split(".")}

    assert not names & {"utils", "util", "helpers", "common", "misc"}

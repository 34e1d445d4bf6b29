"""Each module has its tests at the mirrored place."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "falconas"
RINGS = ("unit", "integration")
# Covered by the tests of the module named, which is the only one that uses it.
COVERED_BY = {
    "broker/admin.py": "integration/broker/test_loop.py",
    "broker/invariants.py": "unit/broker/test_machine.py",
    "cli/demo.py": "acceptance/test_demo.py",
    "client/thread.py": "integration/client/test_sync.py",
    "database/lent.py": "integration/database/test_hygiene.py",
    "demo.py": "acceptance/test_demo.py",
    "exttypes.py": "unit/test_codec.py",
    "worker/attempt.py": "integration/worker/test_runner.py",
    "worker/serving.py": "integration/worker/test_loop.py",
    "worker/dealer.py": "integration/worker/test_control.py",
    "worker/main.py": "integration/worker/test_zygote.py",
}

MODULES = [
    path.relative_to(PACKAGE)
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.name not in {"__init__.py", "__main__.py"}
]


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_module_has_a_test_file(module: Path) -> None:
    mirrored = module.with_name(f"test_{module.name}")
    places = [ROOT / "tests" / ring / mirrored for ring in RINGS]
    if str(module) in COVERED_BY:
        places.append(ROOT / "tests" / COVERED_BY[str(module)])

    assert any(place.exists() for place in places), f"no tests/*/{mirrored}"


def test_unit_tests_use_no_socket_database_or_sleep() -> None:
    forbidden = ("zmq.Context(", "psycopg.connect(", "sleep(", "EmbeddedPostgres(")
    guilty = [
        f"{path.relative_to(ROOT)}: {word}"
        for path in sorted((ROOT / "tests" / "unit").rglob("test_*.py"))
        for word in forbidden
        if word in path.read_text()
    ]

    assert guilty == []

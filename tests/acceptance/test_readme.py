"""What README shows must work: clients without our library, and the first script."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from falconas.database import tpch as data
from falconas.database.embedded import EmbeddedPostgres
from tests.acceptance.stack import PATIENCE, Stack

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PACKAGES = ("zeromq", "@msgpack/msgpack")


def block(name: str) -> str:
    """Return the code block of README that begins with a comment naming a file."""
    for code in re.findall(r"```\w+\n(.*?)```", README, re.DOTALL):
        first = code.partition("\n")[0]
        if first.lstrip("#/ ").split(":")[0].strip() == name:
            return str(code)
    raise AssertionError(f"README has no block {name}")


@pytest.fixture(scope="module")
def stack(
    tmp_path_factory: pytest.TempPathFactory,
    postgres: EmbeddedPostgres,
    tpch_template: str,
) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("readme")
    scripts = folder / "workers"
    shutil.copytree(ROOT / "workers", scripts)
    (scripts / "top_customers.py").write_text(block("workers/top_customers.py"))
    database = data.clone(postgres, tpch_template)
    with Stack(folder, postgres.dsn(database), scripts) as running:
        running.start_broker()
        running.start_workers(1)
        running.await_workers(1)
        yield running
    postgres.drop_database(database)


def run(command: list[str], stack: Stack) -> str:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environ = {**stack.environ, "FALCONAS_FRONTEND": stack.endpoints["frontend"]}
    done = subprocess.run(
        command,
        env={**environ, "PATH": path},
        cwd=stack.folder,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_python_client_without_our_library(stack: Stack) -> None:
    (stack.folder / "plain.py").write_text(block("plain.py"))
    assert run([sys.executable, "plain.py"], stack) == "hello\n"


def test_a_python_client_without_our_library_sees_errors(stack: Stack) -> None:
    code = block("plain.py").replace('"echo"', '"nothing"')
    (stack.folder / "plain.py").write_text(code)
    with pytest.raises(AssertionError, match="code 5: there is no script nothing"):
        run([sys.executable, "plain.py"], stack)


def test_a_javascript_client(stack: Stack) -> None:
    modules = _node_modules()
    (stack.folder / "node_modules").symlink_to(modules)
    (stack.folder / "plain.mjs").write_text(block("plain.mjs"))
    assert run(["node", "plain.mjs"], stack) == "hello\n"


def _node_modules() -> Path:
    """Return a folder with the packages, installed once and kept beside the tests."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node or npm is not installed")  # the client needs both
    folder = ROOT / ".falconas" / "node"
    modules = folder / "node_modules"
    if not all((modules / package).is_dir() for package in PACKAGES):
        folder.mkdir(parents=True, exist_ok=True)
        command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund"]
        done = subprocess.run(
            [*command, "--prefix", str(folder), *PACKAGES],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            pytest.skip(f"npm cannot install the packages: {done.stderr[-300:]}")
    return modules


def test_the_first_script(stack: Stack) -> None:
    rows = run(["falconas", "call", "top_customers", "nation=FRANCE", "--json"], stack)
    assert rows.count('"balance"') == 3


def test_the_python_client_of_the_readme(stack: Stack) -> None:
    (code,) = [
        code
        for code in re.findall(r"```python\n(.*?)```", README, re.DOTALL)
        if code.startswith("from falconas import Client")
    ]
    code = code.replace("tcp://127.0.0.1:5570", stack.endpoints["frontend"])
    (stack.folder / "ours.py").write_text(code)
    lines = run([sys.executable, "ours.py"], stack).splitlines()
    assert "'last_orders'" in lines[0]
    assert lines[1:] == ["4950", "there is no customer -1 yes False"]


def test_every_command_of_the_readme_is_one(stack: Stack) -> None:
    words = set(re.findall(r"^falconas ([a-z]+)", README, re.MULTILINE))
    assert {"broker", "worker", "dev", "run", "call", "scripts", "status"} <= words
    for word in words:
        run(["falconas", word, "--help"], stack)

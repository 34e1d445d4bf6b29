from __future__ import annotations

import re
from pathlib import Path

import pytest

from falconas.config import load, resolve
from falconas.listing import environ_of, example, show
from falconas.settings import Group, Node, Settings, known

NODES = """
[nodes.n1]
dsn = "host=a password=hidden"
weight = 0.123456789
tags = ["ssd", "near"]
[nodes.n-2]
dns = true
[groups.z]
scripts = ["reports.*", "x"]
nodes = ["ssd", "n-2"]
temp_buffers = "8MiB"
[groups.b]
writes = 1
[groups.a]
scripts = []
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "falconas.toml"


def test_show_is_a_configuration_with_origins_and_without_secrets(file: Path) -> None:
    file.write_text("[broker]\nbudget = 0.25\n")
    environ = {"FALCONAS_DATABASE__DSN": "password=hidden"}
    loaded = resolve(file, environ, {})
    text = show(loaded.settings, loaded.origins)
    assert "hidden" not in text
    assert re.search(
        rf'^budget = "250ms" +# {re.escape(str(file))}$', text, re.MULTILINE
    )
    assert re.search(r"^dsn = .* # FALCONAS_DATABASE__DSN$", text, re.MULTILINE)
    file.write_text(text)
    again = resolve(file, environ, {}).settings
    assert again == loaded.settings


def test_the_example_has_each_option_at_its_default(file: Path) -> None:
    text = example()
    assert all(len(line) <= 80 for line in text.splitlines())
    file.write_text(text)
    assert load(file, {}, {}) == Settings()
    active = re.sub(r"^# (\w+ = |\[)", r"\1", text, flags=re.MULTILINE)
    active = active.replace(".NAME]", ".x]")
    file.write_text(active)
    loaded = resolve(file, {}, {})
    assert loaded.settings == Settings(nodes={"x": Node()}, groups={"x": Group()})
    assert set(loaded.origins) == set(known({"nodes": ["x"], "groups": ["x"]}))
    assert set(loaded.origins.values()) == {str(file)}


def test_the_environment_carries_all_settings(file: Path) -> None:
    file.write_text(
        "[broker]\nbudget = 0.0125\ninsecure = true\nqueue_bytes = 70001\n"
        "[worker]\ncount = 3\n[database]\ndsn = 'password=\"a b\"'\n"
    )
    settings = load(file, {}, {})
    assert load(None, environ_of(settings), {}) == settings
    assert load(None, environ_of(Settings()), {}) == Settings()


def test_nodes_and_groups_are_shown_without_secrets(file: Path) -> None:
    file.write_text(NODES)
    loaded = resolve(file, {}, {})
    text = show(loaded.settings, loaded.origins)
    assert "hidden" not in text
    assert re.search(r'^tags = \["ssd", "near"\] +# .*toml$', text, re.MULTILINE)
    file.write_text(text.replace("***", "hidden"))
    again = resolve(file, {}, {}).settings
    assert again == loaded.settings
    assert list(again.groups) == ["z", "b", "a"]


def test_the_environment_carries_nodes_and_groups_in_their_order(file: Path) -> None:
    file.write_text(NODES)
    settings = load(file, {}, {})
    environ = environ_of(settings)
    again = load(None, dict(sorted(environ.items())), {})
    assert again == settings
    assert list(again.groups) == ["z", "b", "a"]
    assert list(again.nodes) == ["n1", "n-2"]
    assert load(file, environ, {}) == settings


def test_a_child_gets_the_order_also_over_what_it_inherits() -> None:
    settings = Settings(groups={"b": Group(scripts=("b",)), "a": Group()})
    inherited = {"FALCONAS_GROUPS__A__SIZE": "1", "FALCONAS_GROUPS": "a"}
    again = load(None, inherited | environ_of(settings), {})
    assert again == settings
    assert list(again.groups) == ["b", "a"]

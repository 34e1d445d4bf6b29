"""The public surface: `falconas.__all__`."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

import pytest

import falconas

MODULES = [
    module.name
    for module in pkgutil.walk_packages(falconas.__path__, "falconas.")
    if not module.name.endswith("__main__")
]


def test_names_are_sorted_and_unique() -> None:
    names = falconas.__all__

    assert list(names) == sorted(set(names))


@pytest.mark.parametrize("name", falconas.__all__)
def test_each_name_can_be_imported_and_is_documented(name: str) -> None:
    value = getattr(falconas, name)

    if not name.startswith("__"):
        doc = inspect.getdoc(value)
        assert doc, f"{name} has no docstring"
        assert doc.splitlines()[0].endswith((".", "?", ":")), doc


def test_each_error_is_public() -> None:
    errors = importlib.import_module("falconas.errors")
    classes = {cls.__name__ for cls in errors.CLASSES.values()}

    assert classes | {"FalconError"} <= set(falconas.__all__)


@pytest.mark.parametrize("name", MODULES)
def test_each_module_can_be_imported_alone(name: str) -> None:
    module = importlib.import_module(name)

    for exported in getattr(module, "__all__", ()):
        assert hasattr(module, exported)
